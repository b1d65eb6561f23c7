"""Fresh means true: whatever a stage opens counts, whatever it does not open does not, and status says why."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from embedfit import config as settings
from embedfit.commands import runs
from embedfit.config import Config, load, resolve, save
from embedfit.errors import ArtifactMissing, CheckFailed, PaidInPart
from embedfit.files.atomic import is_temporary
from embedfit.files.hashes import Hashes
from embedfit.path.freshness import Freshness, all_freshness, freshness, settings_of
from embedfit.path.pipeline import run_all, run_stage, state
from embedfit.path.stages import STAGES, Stage, stage_named, writer_of
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel
from tests.conftest import make_tiny_bert
from tests.e2e.test_path import documents, write_query

INGEST = stage_named("ingest")


# --- a whole run of the real stages


_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], (str, bytes)) and not _writes(arguments):
        _opened.append(os.path.abspath(os.fsdecode(arguments[0])))


def _writes(arguments: tuple[Any, ...]) -> bool:
    return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


@contextmanager
def watched(found: list[str]) -> Iterator[None]:
    """Note every file that Python opens for reading. An audit hook can't be taken away, so there is one for all."""
    global _opened
    _opened = found
    try:
        yield
    finally:
        _opened = None


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    """The files that each stage of the run opened."""
    return {}


def runtime_of(root: Path) -> Runtime:
    """A runtime whose language model is a fake."""
    return Runtime(ledger=root / "ledger.sqlite", language_model=FakeModel(write_query))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, seen: dict[str, list[str]]) -> Path:
    """A folder with documents, a model and a whole run of the real stages."""
    sys.addaudithook(_watch)
    root = tmp_path_factory.mktemp("fresh")
    documents(root / "docs")
    make_tiny_bert(root / "model")
    (root / "examples.txt").write_text("who comes out at night\n")
    workspace = Workspace(root / "run")
    config = resolve(
        preset="offline",
        overrides={
            "docs": [str(root / "docs")], "model": str(root / "model"), "train": {"epochs": 1, "batch_size": 8},
            "merge": {"steps": 1}, "evaluate": {"bootstrap": 100},
            "generate": {"round_trip_k": 0, "examples": str(root / "examples.txt")},
        },
    )  # fmt: skip

    def watching(stage: Stage) -> Stage:
        def run(*arguments: Any) -> None:
            with watched(seen.setdefault(stage.name, [])):
                importlib.import_module(stage.module).run(*arguments)

        return replace(stage, run=run)

    runtime = runtime_of(root)
    with workspace.lock():
        save(config, workspace.path("embedfit.toml"))
        try:
            run_all(workspace, config, runtime, stages=tuple(map(watching, STAGES)))
        except CheckFailed:
            pass  # a random model may well fail
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of all of it in another place."""
    return shutil.copytree(finished, tmp_path / "copy")


def opened(root: Path) -> tuple[Workspace, Config]:
    workspace = Workspace(root / "run")
    return workspace, load(workspace.path("embedfit.toml"))


def not_fresh(root: Path) -> dict[str, str]:
    found = all_freshness(*opened(root))
    return {name: one.why for name, one in found.items() if one.state != "fresh"}


def test_everything_is_fresh_from_anywhere_and_after_a_move(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not_fresh(finished) == {}
    monkeypatch.chdir(tmp_path)
    assert not_fresh(finished) == {}
    together = shutil.copytree(finished, tmp_path / "elsewhere" / "deep")
    assert not_fresh(together) == {}
    assert load(together / "run" / "embedfit.toml").docs == (str(together / "docs"),)
    monkeypatch.chdir(together.parent)
    assert not_fresh(Path("deep")) == {}


def test_a_run_that_is_moved_alone_goes_on_with_the_documents_where_they_were(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "far" / "away" / "run")
    assert not_fresh(tmp_path / "far" / "away") == {}
    workspace, config = opened(tmp_path / "far" / "away")
    save(config, workspace.path("embedfit.toml"))  # as every command does
    assert not_fresh(tmp_path / "far" / "away") == {}
    assert config.docs == (str(finished / "docs"),)


def test_a_run_behind_a_linked_folder_is_the_same_run(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(finished / "run")
    (tmp_path / "home").symlink_to(finished)
    workspace = Workspace(tmp_path / "link")
    assert {one.state for one in all_freshness(workspace, load(workspace.path("embedfit.toml"))).values()} == {"fresh"}
    assert not_fresh(tmp_path / "home") == {}


def test_a_stage_opens_nothing_that_is_not_declared(finished: Path, seen: dict[str, list[str]]) -> None:
    """If this fails, say in embedfit/path/stages.py that the stage reads the file, or stop reading it."""
    workspace, config = opened(finished)
    assert seen.keys() == {stage.name for stage in STAGES} and seen["ingest"] and seen["report"]
    for stage in STAGES:
        manifest = workspace.read_manifest(stage.name)
        assert manifest is not None and manifest.opened == ()
        counted = {os.path.realpath(path) for path in _counted(stage, workspace, config)}
        own = [str(workspace.path(name)) for name in (*stage.writes, *stage.may_write, ".partial", *stage.glances)]
        for path in seen[stage.name]:
            if not path.startswith(f"{finished}{os.sep}") or path.startswith(str(finished / "ledger")):
                continue
            if any(is_temporary(part) for part in Path(path).parts):
                continue  # what the stage is writing itself
            if Path(path).name == "embedfit.toml":
                continue  # settings are compared one by one
            is_own = any(path == one or path.startswith(f"{one}{os.sep}") for one in own)
            assert is_own or os.path.realpath(path) in counted, f"{stage.name} opens {path}"


def _counted(stage: Stage, workspace: Workspace, config: Config) -> list[Path]:
    class Recording(Hashes):
        def of(self, path: Path) -> str:
            asked.append(path)
            return super().of(path)

    from embedfit.path.freshness import inputs_of

    asked: list[Path] = []
    inputs_of(stage, workspace, config, Recording(workspace.root))
    return asked


def _outputs(root: Path) -> list[Path]:
    run = root / "run"
    return [
        path
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name != "embedfit.toml"
        and not path.name.endswith(".manifest.json")
    ]  # fmt: skip


def _writer(run: Path, path: Path) -> Stage:
    name = path.relative_to(run).as_posix()
    return stage_named(writer_of(name))


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_every_output_counts(copy: Path, change: str) -> None:
    workspace, config = opened(copy)
    outputs = _outputs(copy)
    assert {"corpus.jsonl", "losses.jsonl", "training.json", "README.md", "model.safetensors"} <= {
        p.name for p in outputs
    }
    for path in outputs:
        before = path.read_bytes()
        if change == "deleted":
            path.unlink()
        else:
            path.write_bytes(before + b" ")
        found = freshness(_writer(workspace.root, path), workspace, config)
        assert found.state == "stale", path
        assert (
            f"{path.relative_to(workspace.root).as_posix()} {'is gone' if change == 'deleted' else 'has changed'}"
            in found.why
        )
        path.write_bytes(before)


def test_an_edited_file_makes_those_stale_that_read_it(copy: Path) -> None:
    workspace, config = opened(copy)
    readers = {
        "passages.jsonl": {"generate", "mine", "train", "merge", "check", "choose", "evaluate", "report"},
        "eval/qrels/test.tsv": {"evaluate"},
        "finetuned/losses.jsonl": {"report"},
        "finetuned/training.json": {"report"},
        "finetuned/modules.json": {"merge", "evaluate"},
        "query_map.safetensors": {"merge", "evaluate"},
        "merged/modules.json": {"check", "choose", "evaluate", "report"},
        "check.json": {"report"},
        "train.manifest.json": {"report"},
    }
    for name, expected in readers.items():
        path = workspace.path(name)
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        writer = writer_of(name)
        stale = {stage.name for stage in STAGES if state(stage, workspace, config) != "fresh"} - {writer}
        path.write_bytes(before)
        assert stale == expected, name


def test_the_model_card_is_the_report_s(copy: Path) -> None:
    workspace, config = opened(copy)
    workspace.path("merged/README.md").write_text("another")
    assert not_fresh(copy) == {"report": "merged/README.md has changed"}
    assert state(stage_named("merge"), workspace, config) == "fresh"


def test_the_remedy_for_a_missing_file_brings_it_back(copy: Path) -> None:
    """Delete each input of each stage, run the stage, do what the error says, and run the stage again."""
    workspace, config = opened(copy)
    runtime, stages = runtime_of(copy), {stage.name: stage for stage in STAGES}
    tried = [("generate", "passages.jsonl"), ("evaluate", "eval"), ("report", "check.json"), ("evaluate", "merged")]
    for reader, name in tried:
        workspace.remove(name)
        with pytest.raises(ArtifactMissing, match="is missing") as caught:
            run_stage(stages[reader], workspace, config, runtime)
        assert caught.value.remedy is not None
        words = shlex.split(caught.value.remedy.removeprefix("Run: "))
        assert words[0] == "embedfit" and words[2:] == ["--run", str(workspace.root)]
        assert state(stages[words[1]], workspace, config) != "fresh", "else the command would answer: up to date"
        try:
            run_stage(stages[words[1]], workspace, config, runtime)
        except CheckFailed:
            pass
        assert workspace.path(name).exists()


def test_another_eval_folder_takes_the_place_of_the_written_one(copy: Path) -> None:
    workspace, config = opened(copy)
    shutil.copytree(workspace.path("eval"), copy / "human")
    human = config.model_copy(update={"eval_beir": str(copy / "human")})
    found = freshness(stage_named("generate"), workspace, human)
    assert found == Freshness(state="stale", why="eval_beir is given was false and is true")
    generate = stage_named("generate")
    run_stage(generate, workspace, human, runtime_of(copy))
    assert not workspace.path("eval").exists()
    assert state(generate, workspace, human) == "fresh"


# --- what the user gives


@pytest.fixture
def ingested(tmp_path: Path, tiny_bert: Path) -> tuple[Path, Callable[[], Freshness]]:
    """A folder with documents and a run that has read them, and its freshness as it is now."""
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    for number, name in enumerate(("README.md", "losses.jsonl.txt", "sub/README.md", "a.txt", "b.txt")):
        text = " ".join(f"Word{number} and sentence {n} of the text that is read here." for n in range(40))
        (docs / name).write_text(f"# Title {number}\n\n{text}\n")
    (docs / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (docs / ".git").mkdir()
    (docs / ".git" / "HEAD").write_text("ref")
    workspace = Workspace(docs / "runs" / "x")  # below its own documents

    def now() -> Freshness:
        return freshness(INGEST, workspace, load(workspace.path("embedfit.toml")))

    config = resolve(preset="offline", overrides={"docs": [str(docs)], "model": str(tiny_bert)})
    runs.run_config(workspace, config, Runtime(), until="ingest")
    return docs, now


def test_a_run_below_its_documents_is_fresh(ingested: tuple[Path, Callable[[], Freshness]]) -> None:
    docs, now = ingested
    assert now() == Freshness(state="fresh")
    (docs / "runs" / "x" / "merged").mkdir()
    (docs / ".git" / "HEAD").write_text("another commit")
    (docs / ".hidden.txt").write_text("nobody reads this")
    assert now() == Freshness(state="fresh")


@pytest.mark.parametrize("name", ["README.md", "sub/README.md", "losses.jsonl.txt", "a.txt"])
def test_every_document_counts_whatever_its_name(ingested: tuple[Path, Callable[[], Freshness]], name: str) -> None:
    docs, now = ingested
    before = (docs / name).read_text()
    (docs / name).write_text(before.replace("W", "V", 1))  # as long as before
    assert now() == Freshness(state="stale", why=f"../../{name} has changed")
    (docs / name).unlink()
    assert now() == Freshness(state="stale", why=f"../../{name} is gone")
    (docs / name).write_text(before)
    assert now().state == "fresh"
    (docs / "new" / "README.md").parent.mkdir()
    (docs / "new" / "README.md").write_text("more")
    assert now() == Freshness(state="stale", why="../../new/README.md is new")


def test_what_is_only_listed_counts_as_what_is_said_of_it(ingested: tuple[Path, Callable[[], Freshness]]) -> None:
    docs, now = ingested
    (docs / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(70))
    assert now().state == "fresh", "its content is not read, and nothing else is said of it"
    (docs / "another.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    assert now().why == "../../another.png is new", "documents.jsonl would list it"
    (docs / "another.png").unlink()
    (docs / "image.png").write_text("# Now it is text\n\nwhich can be read.")
    assert now().why == "../../image.png has changed"


def test_a_link_counts_as_it_is_read(ingested: tuple[Path, Callable[[], Freshness]], tmp_path: Path) -> None:
    docs, now = ingested
    outside = tmp_path / "out" / "far.txt"
    outside.parent.mkdir()
    outside.write_text("A sentence that is long enough to be a passage of its own, and then some more of it.")
    (docs / "linked").symlink_to(outside.parent)
    assert now().why == "../../linked is new"
    run = docs / "runs" / "x"
    runs.run(run=run, until="ingest")
    assert now().state == "fresh"
    outside.write_text("Edited: nobody reads it.")
    assert now().state == "fresh"
    rows = [json.loads(line) for line in (run / "documents.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["path"] == "../../linked"]
    assert row["status"] == "skipped" and "a link out of the documents" in row["reason"]
    runs.run(run=run, until="ingest", settings={"ingest": {"follow_links": True}})
    outside.write_text("A sentence that is edited and still long enough to be a passage of its own, and more.")
    assert now().why == "../../linked/far.txt has changed"


def test_the_base_model_and_every_named_file_count(tmp_path: Path, ingested: tuple[Path, Any]) -> None:
    model = make_tiny_bert(tmp_path / "base")
    (tmp_path / "run").mkdir()
    for name in ("queries.txt", "pairs.jsonl", "writer.gguf", "grades.jsonl", "run/person_grades.jsonl"):
        (tmp_path / name).write_text("one")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "notes.txt"):
        path = tmp_path / "beir" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
    shutil.copytree(model, tmp_path / "judge")
    config = resolve(
        preset="offline",
        overrides={
            "docs": [str(ingested[0])], "model": str(model), "eval_beir": str(tmp_path / "beir"),
            "generate": {"examples": str(tmp_path / "queries.txt"), "llm": str(tmp_path / "writer.gguf"),
                         "judge": str(tmp_path / "judge")},
            "merge": {"retention_beir": str(tmp_path / "beir")}, "check": {"pairs": str(tmp_path / "pairs.jsonl")},
            "choose": {"judge": f"recorded:{tmp_path / 'grades.jsonl'}"},
            "evaluate": {"systems": [f"hybrid:{tmp_path / 'judge'}"]},
        },
    )  # fmt: skip
    workspace = Workspace(tmp_path / "run")
    everything = {stage.name for stage in STAGES} - {"report"}
    for name, expected in {
        "base/model.safetensors": everything,
        "base/tokenizer.json": everything,
        "queries.txt": {"generate"},
        "writer.gguf": {"generate", "mine"},
        "judge/config.json": {"generate", "mine", "evaluate"},
        "beir/qrels/test.tsv": {"merge", "evaluate"},
        "beir/corpus.jsonl": {"merge", "evaluate"},
        "pairs.jsonl": {"check"},
        "grades.jsonl": {"choose"},
        "run/person_grades.jsonl": {"choose"},
        "beir/notes.txt": set(),
        "base/README.md": set(),
    }.items():
        before = {stage.name: _inputs(stage, workspace, config) for stage in STAGES}
        with (tmp_path / name).open("a") as file:
            file.write(" ")
        changed = {stage.name for stage in STAGES if _inputs(stage, workspace, config) != before[stage.name]}
        assert changed == expected, name


def _inputs(stage: Stage, workspace: Workspace, config: Config) -> dict[str, str]:
    from embedfit.path.freshness import inputs_of

    return inputs_of(stage, workspace, config, Hashes(workspace.root))


# --- settings, versions, money, earlier editions


def test_a_changed_setting_is_named_and_an_incidental_one_changes_nothing(
    ingested: tuple[Path, Callable[[], Freshness]], copy: Path
) -> None:
    workspace, config = opened(copy)
    assert config.generate.max_cost is None
    cheap = {
        "generate": {"max_cost": 5.0, "base_url": "http://localhost/v1", "region": "eu-west-1",
                     "batch_s3_uri": "s3://b/p", "batch_role_arn": "r"},
        "train": {"memory_mb": 999, "compile": True, "checkpoint_every": 3},
    }  # fmt: skip
    same = settings.change(config, run=workspace.root, overrides=cheap)
    assert same != config and {one.state for one in all_freshness(workspace, same).values()} == {"fresh"}
    other = settings.change(config, run=workspace.root, assignments=("mine.negatives=7",))
    found = all_freshness(workspace, other)
    assert found["mine"].why == "mine.negatives was 0 and is 7"
    assert found["generate"].state == "fresh"
    assert found["train"] == Freshness(state="stale", why="mine comes before it and is not fresh")


def test_a_setting_that_is_new_in_an_upgrade_makes_nothing_stale(copy: Path) -> None:
    workspace, config = opened(copy)
    manifest = workspace.read_manifest("train")
    assert manifest is not None and manifest.settings is not None
    older = {key: value for key, value in manifest.settings.items() if key != "train.patience"}
    workspace.write_manifest(replace(manifest, settings={**older, "train.of_long_ago": 1}))
    train = stage_named("train")
    assert state(train, workspace, config) == "fresh"
    patient = config.model_copy(update={"train": config.train.model_copy(update={"patience": 9})})
    assert freshness(train, workspace, patient).why == "train.patience was 3 and is 9"


def test_another_version_of_a_stage_makes_it_stale_and_another_embedfit_does_not(copy: Path) -> None:
    workspace, config = opened(copy)
    manifest = workspace.read_manifest("mine")
    assert manifest is not None
    workspace.write_manifest(replace(manifest, versions={**manifest.versions, "embedfit": "0.0.1"}))
    mine = stage_named("mine")
    assert state(mine, workspace, config) == "fresh"
    found = freshness(replace(mine, version=mine.version + 1), workspace, config)
    assert found.state == "stale" and "gives other results now (version 2, now 3)" in found.why


def test_a_run_of_the_first_edition_can_be_read_and_says_why_it_is_stale(
    ingested: tuple[Path, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = ingested[0]
    run = docs / "runs" / "x"
    old = {"stage": "ingest", "schema": 1, "code": "0.1.0", "seed": 13, "config": "ab", "inputs": {"docs:docs": "cd"},
           "outputs": {"passages.jsonl": "ef"}, "seconds": 1.5, "finished": "2026-01-01", "versions": {}}  # fmt: skip
    (run / "ingest.manifest.json").write_text(json.dumps(old))
    values = load(run / "embedfit.toml").model_dump(mode="json", exclude_none=True)
    (run / "embedfit.toml").write_text(tomli_w.dumps({**values, "docs": ["docs"]}))
    monkeypatch.chdir("/")
    assert load(run / "embedfit.toml").docs == (str(docs),), "it is looked for above the run"
    from embedfit.cli import main as cli

    cli.app(["status", "--run", str(run), "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert said["stages"]["ingest"] == "stale"
    assert "made by embedfit 0.1.0" in said["why"]["ingest"]
    runs.run(run=run, until="ingest")
    assert ingested[1]().state == "fresh"


def test_what_max_cost_ended_goes_on_when_it_allows_more(tmp_path: Path) -> None:
    def poor(workspace: Workspace, config: Config, runtime: Runtime) -> None:
        workspace.write_text("queries.jsonl", "")
        raise PaidInPart("not all")

    generate = replace(stage_named("generate"), run=poor, reads=())
    workspace = Workspace(tmp_path)

    def of(max_cost: float | None) -> Config:
        return resolve(overrides={"generate": {"max_cost": max_cost}})

    with pytest.raises(PaidInPart):
        run_stage(generate, workspace, of(2.0), Runtime())
    assert state(generate, workspace, of(2.0)) == "fresh", "the same command goes on with what there is"
    assert state(generate, workspace, of(1.0)) == "fresh"
    assert "--max-cost ended it at $2.00" in freshness(generate, workspace, of(3.0)).why
    assert state(generate, workspace, of(None)) == "stale"


def test_what_a_stage_opens_undeclared_counts_all_the_same(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_json("extra.json", 1)

    def curious(workspace: Workspace, config: Config, runtime: Runtime) -> None:
        workspace.write_json("check.json", workspace.read_json("extra.json"))

    check = replace(stage_named("check"), reads=(), models=(), run=curious)
    config = Config(model="minilm")
    run_stage(check, workspace, config, Runtime())
    assert state(check, workspace, config) == "fresh"
    workspace.write_json("extra.json", 2)
    assert freshness(check, workspace, config).why == "extra.json has changed"


def test_paths_and_settings_of_a_stage_are_json(finished: Path) -> None:
    workspace, config = opened(finished)
    for stage in STAGES:
        found = settings_of(stage, workspace, config)
        assert json.loads(json.dumps(found)) == found
        assert str(finished) not in json.dumps(found)


# --- hashing


def test_a_large_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedfit.files import hashes

    read: list[Path] = []
    real = hashes.sha256_file
    monkeypatch.setattr(hashes, "sha256_file", lambda path: read.append(path) or real(path))
    large = tmp_path / "model.safetensors"
    large.write_bytes(bytes(1 << 19))
    old = large.stat().st_mtime_ns

    def of() -> str:
        found = Hashes(tmp_path)
        value = found.of(large)
        found.keep()
        return value

    # Just written: another edit of the same size may come within one tick of the disk's clock.
    first = of()
    assert of() == first and len(read) == 2
    large.write_bytes(b"1" + bytes((1 << 19) - 1))
    assert of() != first
    monkeypatch.setattr(hashes.time, "time_ns", lambda: old + 60_000_000_000)
    settled = of()
    read.clear()
    assert of() == of() == settled and read == []
    large.write_bytes(b"2" + bytes((1 << 19) - 1))
    os.utime(large, ns=(old, old))  # the same size and time: but the disk notes that something changed
    assert of() != settled
    (tmp_path / ".hashes.json").write_text("{broken")
    assert of() != settled


def test_a_file_that_nobody_may_read_has_words_for_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedfit.files import hashes

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashes, "sha256_file", refuse)
    (tmp_path / "a").write_text("x")
    assert Hashes(tmp_path).of(tmp_path / "a") == "can't be read: Permission denied"
