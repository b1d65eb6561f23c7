"""One rule: the stored settings of a run hold, then what the command names; and offline never costs anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from embedfit import config
from embedfit.cli import main as cli
from embedfit.commands import runs
from embedfit.config import PRESETS, Config, load, resolve, save, setting
from embedfit.errors import EmbedfitError, UsageError
from embedfit.models.sources import EMBEDDERS
from embedfit.path.systems import check_systems
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from tests.said import Said


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands choose and store their settings, and do no work."""
    monkeypatch.setattr("embedfit.path.pipeline.run_all", lambda *arguments, **options: [])
    monkeypatch.setattr("embedfit.commands.runs.refuse_hopeless", lambda *arguments: None)
    monkeypatch.setattr("embedfit.path.pipeline.run_stage", lambda *arguments, **options: None)
    monkeypatch.setattr("embedfit.path.pipeline.state", lambda *arguments: "stale")


def stored(run: Path) -> Config:
    return load(run / "embedfit.toml")


# --- the rule

VALUES = {
    "seed": st.integers(0, 3),
    "train.epochs": st.integers(1, 3),
    "mine.negatives": st.integers(0, 3),
    "generate.domain": st.sampled_from(["manuals", "laws"]),
}
NAMED = st.fixed_dictionaries({}, optional=VALUES)
COMMAND = st.fixed_dictionaries(
    {"named": NAMED, "set": NAMED, "file": st.none() | NAMED},
    optional={
        "docs": st.sampled_from(["a", "b"]),
        "preset": st.sampled_from(["default", "offline"]),
        "stage": st.just("mine"),
    },
)  # fmt: skip


def nested(values: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        *section, name = key.split(".")
        (result.setdefault(section[0], {}) if section else result)[name] = value
    return result


def issue(command: dict[str, Any], folder: Path) -> None:
    """Give the command, by the command's own door: run, or one stage of it."""
    assignments = [
        f"{key}={value!r}" if isinstance(value, int) else f"{key}={value}" for key, value in command["set"].items()
    ]
    if "stage" in command:
        runs.run_stage("mine", run=folder / "run", settings=nested(command["named"]), assignments=assignments)
        return
    file = folder / "my.toml" if command["file"] is not None else None
    if file is not None:
        file.write_text(tomli_w.dumps(nested(command["file"])))
    docs = [folder / command["docs"]] if "docs" in command else []
    runs.run(
        docs, run=folder / "run", preset=command.get("preset"), settings=nested(command["named"]), config=file,
        assignments=assignments,
    )  # fmt: skip


@pytest.mark.usefixtures("no_work")
def test_stored_settings_hold_then_what_the_command_names(tmp_path_factory: pytest.TempPathFactory) -> None:
    @hypothesis_settings(max_examples=60)
    @given(commands=st.lists(COMMAND, min_size=1, max_size=5))
    def check(commands: list[dict[str, Any]]) -> None:
        folder = tmp_path_factory.mktemp("rule")
        expected: dict[str, Any] = {}
        docs = preset = None
        for command in commands:
            is_first, is_stage = preset is None, "stage" in command
            other = command.get("preset") if not is_stage else None
            fails = (is_first and (is_stage or "docs" not in command)) or (not is_first and other not in (None, preset))
            if fails:
                with pytest.raises(EmbedfitError):
                    issue(command, folder)
            else:
                issue(command, folder)
                if is_first:
                    preset = other or "default"
                    expected = {key: setting(resolve(preset=preset), key) for key in VALUES}
                expected |= {**(command["file"] or {} if not is_stage else {}), **command["named"], **command["set"]}
                docs = command.get("docs", docs) if not is_stage else docs
            if preset is not None:
                found = stored(folder / "run")
                assert {key: setting(found, key) for key in VALUES} == expected
                assert (found.preset, found.docs) == (preset, (str(folder / str(docs)),))

    check()


@pytest.mark.usefixtures("no_work")
def test_the_same_command_without_its_set_keeps_what_it_set(tmp_path: Path) -> None:
    report = Said()
    arguments: dict[str, Any] = {"run": tmp_path / "run", "runtime": Runtime(report=report)}
    runs.run(tmp_path / "docs", settings={"train": {"epochs": 7}}, **arguments)
    assert report.lines == []
    runs.run(tmp_path / "docs", assignments=("mine.negatives=2",), **arguments)
    assert stored(tmp_path / "run").train.epochs == 7
    toml = tmp_path / "run" / "embedfit.toml"
    assert report.lines == [f"settings: {toml} holds train.epochs=7.0 and now has mine.negatives=2"]


@pytest.mark.usefixtures("no_work")
def test_other_documents_replace_those_of_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    runs.run(tmp_path / "a", run=run, eval_docs=tmp_path / "e", settings={"seed": 5})
    runs.run([tmp_path / "b", tmp_path / "c"], run=run)
    found = stored(run)
    assert found.docs == (str(tmp_path / "b"), str(tmp_path / "c"))
    assert (found.eval_docs, found.seed) == ((str(tmp_path / "e"),), 5)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "command",
    [
        {"preset": "offline"},
        {"settings": {"preset": "offline"}},
        {"assignments": ("preset=offline",)},
        {"docs": "docs", "preset": "offline"},
        {"config": "offline.toml"},
    ],
)
def test_another_preset_on_a_stored_run_is_an_error_that_names_both(tmp_path: Path, command: dict[str, Any]) -> None:
    run = tmp_path / "run"
    (tmp_path / "offline.toml").write_text('preset = "offline"\n')
    runs.run(tmp_path / "docs", run=run)
    before = (run / "embedfit.toml").read_bytes()
    if "config" in command:
        command = {"config": tmp_path / command["config"]}
    with pytest.raises(UsageError, match="has the preset default; this command names the preset offline") as caught:
        runs.run(run=run, **command)
    assert caught.value.remedy is not None and "--run" in caught.value.remedy
    assert (run / "embedfit.toml").read_bytes() == before
    Path(caught.value.remedy.rsplit("delete ", 1)[1]).unlink()  # what the remedy says
    runs.run(**{"docs": tmp_path / "docs", "run": run, **command})
    assert (stored(run).preset, stored(run).generate.generator) == ("offline", "local")


def test_a_preset_named_twice_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('preset = "offline"\n')
    with pytest.raises(UsageError, match="aws-blog and offline are both named"):
        resolve(preset="aws-blog", file=tmp_path / "my.toml")
    assert resolve(assignments=("preset=offline",)).model == "minilm", "a preset is its settings, not a word"


def test_a_setting_goes_back_to_its_default() -> None:
    once = resolve(preset="offline", overrides={"generate": {"max_cost": 1.5}, "mine": {"negatives": 9}, "seed": 4})
    back = ("generate.max_cost=default", "mine.negatives=default", "seed=default", "model=default")
    assert config.change(once, run=Path("r"), assignments=back) == resolve(preset="offline")
    with pytest.raises(UsageError, match=r"train\.epoch"):
        resolve(assignments=("train.epoch=default",))


# --- offline is free


@pytest.mark.parametrize("generator", ["bedrock", "bedrock-batch", "openai"])
def test_offline_refuses_a_paid_writer_by_every_door(tmp_path: Path, generator: str) -> None:
    message = f"preset offline makes no paid call, but generate.generator={generator}"
    (tmp_path / "my.toml").write_text(f'preset = "offline"\n[generate]\ngenerator = "{generator}"\n')
    doors = (
        {"preset": "offline", "settings": {"generate": {"generator": generator}}},
        {"preset": "offline", "assignments": (f"generate.generator={generator}",)},
        {"config": tmp_path / "my.toml"},
    )
    for door in doors:
        with pytest.raises(UsageError, match=message):
            runs.run(tmp_path, run=tmp_path / "run", yes=True, **door)  # type: ignore[arg-type]
    run = tmp_path / "edited"
    run.mkdir()
    (run / "embedfit.toml").write_text((tmp_path / "my.toml").read_text())
    for call in (lambda: runs.run(run=run), lambda: runs.run_stage("generate", run=run), lambda: stored(run)):
        with pytest.raises(UsageError, match=message):
            call()
    offline = resolve(preset="offline", overrides={"docs": [str(tmp_path)]})
    paid = offline.model_copy(update={"generate": offline.generate.model_copy(update={"generator": generator})})
    with pytest.raises(UsageError, match=message):
        runs.run_config(Workspace(tmp_path / "run"), paid, Runtime())


def test_offline_refuses_paid_vectors_and_takes_what_is_free(tmp_path: Path) -> None:
    for name in ("titan-v2", "hybrid:titan-v2:256", "openai:https://runs.openai.com/v1#m", "titan-v2|query: "):
        with pytest.raises(UsageError, match=r"preset offline makes no paid call, but evaluate\.systems"):
            runs.run(tmp_path, run=tmp_path / "run", preset="offline", settings={"evaluate": {"systems": [name]}})
    assert not (tmp_path / "run" / "embedfit.toml").exists()
    free = ["minilm", "hybrid:tei:http://localhost:8080", "openai:http://127.0.0.1:1/v1#m"]
    check_systems(resolve(preset="offline", overrides={"evaluate": {"systems": free}}))
    check_systems(resolve(overrides={"evaluate": {"systems": ["titan-v2"]}}))
    private = {"generator": "openai", "base_url": "http://127.0.0.1:8000/v1"}
    assert resolve(preset="offline", overrides={"generate": private}).generate.generator == "openai"
    with pytest.raises(UsageError, match=r"generate\.generator=openai"):
        resolve(preset="offline", overrides={"generate": {**private, "base_url": "https://runs.example.com/v1"}})


def test_the_command_line_says_it_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "x.txt", "--run", str(tmp_path), "--preset", "offline", "--generator", "bedrock", "--yes"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "preset offline" in said and "generate.generator=bedrock" in said and "Traceback" not in said


# --- paths


@contextmanager
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        yield


def test_paths_of_a_command_are_of_the_working_directory_and_those_of_a_file_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here/docs", "here/model", "conf/beir", "conf/judge"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("here/writer.gguf", "conf/pairs.jsonl"):
        (tmp_path / name).write_text("x")
    (tmp_path / "conf" / "my.toml").write_text(
        'eval_beir = "beir"\ndocs = ["../here/docs"]\n[generate]\njudge = "judge"\n[check]\npairs = "pairs.jsonl"\n'
    )
    with inside(tmp_path / "here", monkeypatch):
        found = resolve(
            preset="offline", file=Path("../conf/my.toml"), overrides={"model": "model"},
            assignments=("generate.llm=writer.gguf", "merge.retention_beir=general"),
        )  # fmt: skip
    values = (found.eval_beir, *found.docs, found.generate.judge, found.check.pairs, found.model, found.generate.llm)
    names = ("conf/beir", "here/docs", "conf/judge", "conf/pairs.jsonl", "here/model", "here/writer.gguf")
    assert values == tuple(str(tmp_path / name) for name in names)
    assert found.merge.retention_beir == str(tmp_path / "here" / "general")
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    save(found, run / "embedfit.toml")
    assert 'eval_beir = "../../conf/beir"' in (run / "embedfit.toml").read_text()
    with inside(Path("/"), monkeypatch):
        assert load(run / "embedfit.toml") == found


def test_names_of_models_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(config.MODEL_ALIASES) == set(EMBEDDERS), "say the new name in config.MODEL_ALIASES"
    (tmp_path / "minilm").mkdir()
    (tmp_path / "llm").mkdir()
    (tmp_path / "run").mkdir()
    with inside(tmp_path, monkeypatch):
        found = resolve(overrides={"model": "minilm", "generate": {"judge": "llm", "llm": "us.meta.llama3"}})
        assert (found.model, found.generate.judge, found.generate.llm) == ("minilm", "llm", "us.meta.llama3")
        save(found, tmp_path / "run" / "embedfit.toml")
        assert load(tmp_path / "run" / "embedfit.toml") == found
        assert resolve(overrides={"model": "./minilm"}).model == str(tmp_path / "minilm")
        assert resolve(overrides={"model": "owner/name"}).model == "owner/name"


def test_what_lies_beside_the_run_now_comes_before_where_it_lay(tmp_path: Path) -> None:
    for name in ("old/docs", "old/run", "new/run"):
        (tmp_path / name).mkdir(parents=True)
    save(resolve(overrides={"docs": [str(tmp_path / "old" / "docs")]}), tmp_path / "old" / "run" / "embedfit.toml")
    toml = (tmp_path / "old" / "run" / "embedfit.toml").read_text()
    (tmp_path / "new" / "run" / "embedfit.toml").write_text(toml)
    assert stored(tmp_path / "new" / "run").docs == (str(tmp_path / "old" / "docs"),)
    (tmp_path / "new" / "docs").mkdir()
    assert stored(tmp_path / "new" / "run").docs == (str(tmp_path / "new" / "docs"),)


def test_a_path_on_another_drive_is_kept_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from embedfit.files.places import located, stored_path

    def other_drive(path: str, start: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", other_drive)
    kept = stored_path(tmp_path / "docs", tmp_path / "run", {})
    assert kept == str(tmp_path / "docs") and located(kept, tmp_path / "run", {}) == kept


def test_a_path_that_can_not_be_written_down_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not UTF-8"):
        runs.run(b"caf\xe9".decode("utf-8", "surrogateescape"), run=tmp_path / "run")


@given(
    parts=st.lists(st.sampled_from(["a", "b", "..", "c d", "é"]), max_size=6),
    run=st.sampled_from(["r", "a/r", "a/b/r"]),
)
def test_any_stored_path_comes_back(parts: list[str], run: str) -> None:
    from embedfit.files.places import located, stored_path

    path = Path("/nowhere", *[part for part in parts if part != ".."])
    kept = stored_path(path, Path("/nowhere") / run, {})
    assert located(kept, Path("/nowhere") / run, {}) == str(path)
    assert "\\" not in kept


def test_presets_are_whole() -> None:
    for name in PRESETS:
        assert resolve(preset=name).preset == name
