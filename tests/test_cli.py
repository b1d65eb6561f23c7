"""The command line: exit codes, messages for people, and thin calls."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from embedfit.cli import main as cli
from embedfit.cli import path
from embedfit.commands import runs
from embedfit.errors import EmbedfitError, UsageError
from embedfit.models.store.vectors import Compute, Task
from embedfit.progress import Silent
from embedfit.runtime import default_vectors


def call(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert (caught.value.code or 0) == code


def test_the_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "embedfit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("embedfit 0.")


@pytest.mark.parametrize(("own", "expected"), [(None, "passive"), ("active", "active")])
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(own: str | None, expected: str) -> None:
    """OpenMP and OpenBLAS read the variables when torch and numpy are loaded, so these may be loaded only later."""
    code = (
        "import os, sys; import embedfit.cli; loaded = bool({'torch', 'numpy'} & set(sys.modules))\n"
        "assert os.environ['OPENBLAS_THREAD_TIMEOUT'] == '4'\n"
        "from embedfit.cli.main import main; assert 'torch' not in sys.modules\n"
        "try: main(['--version'])\nexcept SystemExit: print(loaded, os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if own is None else {"OMP_WAIT_POLICY": own}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"False {expected}"


def test_errors_are_one_message_with_a_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call("status", "--run", str(tmp_path / "none"), code=1)
    message = capsys.readouterr().err
    assert "is not a run folder" in message and "embedfit run DOCS... --run" in message
    assert "Traceback" not in message


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call("run", "--run", str(tmp_path), code=2)
    assert "There are no documents" in capsys.readouterr().err
    call("run", "x.txt", "--run", str(tmp_path), "--set", "train.epoch=1", code=2)
    assert "train.epochs" in capsys.readouterr().err
    call("nonsense", code=2)


def test_brackets_in_messages_are_not_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise EmbedfitError("a [bold] path[/] and [0.1, 0.2]")

    monkeypatch.setattr(runs, "run_stage", fails)
    call("mine", "--run", "x", code=1)
    assert "a [bold] path[/] and [0.1, 0.2]" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs, "run_stage", interrupted)
    call("train", "--run", "x", code=130)
    assert "goes on where it was" in capsys.readouterr().err


def test_options_reach_the_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def record(workspace: runs.Workspace, docs: Any, runtime: Any, **options: Any) -> None:
        seen.update(options, docs=docs, runtime=runtime, run=workspace.root)
        raise UsageError("stop here")

    monkeypatch.setattr(runs, "resolved", record)
    call(
        "run", "a.pdf", "b", "--run", str(tmp_path), "--eval-docs", "c.pdf", "--preset", "offline", "--seed", "5",
        "--max-cost", "2.5", "--generator", "openai", "--set", "train.epochs=2", "--set", "mine.negatives=1", "--yes",
        "--nproc", "2", "--ledger", str(tmp_path / "l"), "--judge", "bedrock:m", code=2,
    )  # fmt: skip
    assert [str(path) for path in seen["docs"]] == ["a.pdf", "b"]
    assert [str(path) for path in seen["eval_docs"]] == ["c.pdf"]
    assert seen["run"] == tmp_path
    assert seen["settings"] == {
        "seed": 5,
        "generate": {"generator": "openai", "max_cost": 2.5},
        "choose": {"judge": "bedrock:m"},
    }
    assert seen["assignments"] == ["train.epochs=2", "mine.negatives=1"]
    assert seen["runtime"].confirm("this costs money") is True and seen["preset"] == "offline"
    assert (seen["runtime"].processes, seen["runtime"].ledger) == (2, tmp_path / "l")


def test_stored_settings_go_on_without_documents(tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    document.write_text(topics["import"])
    run = tmp_path / "run"
    arguments = (
        "ingest",
        str(document),
        "--run",
        str(run),
        "--preset",
        "offline",
        "--model",
        "minilm",
        "--set",
        "seed=9",
    )
    call(*arguments)
    assert runs.stored_config(runs.Workspace(run)).seed == 9
    result = runs.run(run=run, until="ingest", settings={"seed": None})
    assert result.folder == run
    assert runs.stored_config(runs.Workspace(run)).preset == "offline"


@pytest.mark.parametrize(("low", "code"), [(0.01, 0), (-0.01, 3)])
def test_fail_if_not_better_asks_the_interval(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, low: float, code: int
) -> None:
    row = {"a": "merged", "b": "base", "metric": "ndcg@10", "delta": 0.02, "ci95": [low, 0.05]}
    systems = {name: {"metrics": {"ndcg@10": 0.5}} for name in ("base", "merged")}
    summary = {"systems": systems, "decision": {"ship": "merged", "alpha": 0.5}, "comparisons": [row]}
    runs.Workspace(tmp_path).write_json("summary.json", summary)
    monkeypatch.setattr(runs, "run_config", lambda *a, **k: runs.RunResult(runs.Workspace(tmp_path)))
    monkeypatch.setattr(path, "show_result", lambda *a, **k: None)
    call("run", "x", "--run", str(tmp_path), "--fail-if-not-better", code=code)


def test_encode_writes_the_vectors_of_a_file(tiny_bert: Path, tmp_path: Path) -> None:
    texts, vectors = tmp_path / "texts.jsonl", tmp_path / "vectors.npy"
    texts.write_text(json.dumps({"text": "mute the tv"}) + "\n" + json.dumps({"title": "A", "text": "b"}) + "\n")
    call("encode", str(tiny_bert), "--input", str(texts), "--output", str(vectors))
    found = np.load(vectors, allow_pickle=False)
    assert found.shape == (2, 32) and found.dtype == np.float32
    texts.write_text('{"text": 1}\n{"no": 2}\n')
    call("encode", str(tiny_bert), "--input", str(texts), "--output", str(vectors), code=1)


def test_doctor_names_the_fix(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from embedfit.commands import doctor
    from embedfit.errors import ModelError

    def missing(name: str | None = None) -> Path:
        raise ModelError("no such thing", remedy="do this")

    monkeypatch.setattr(doctor, "resolve_model", missing)
    call("doctor", "--json", code=1)
    findings = json.loads(capsys.readouterr().out)
    by_name = {finding["what"]: finding for finding in findings}
    assert by_name["minilm"]["state"] == "missing" and by_name["minilm"]["fix"] == "do this"
    assert by_name["CPU"]["state"] == "ok" and "trains in" in by_name["CPU"]["found"]


@pytest.mark.parametrize(
    ("kind", "has_gpu", "state"), [(None, False, "ok"), ("12.8", True, "ok"), ("12.8", False, "warning")]
)
def test_doctor_advises_the_cpu_build_of_torch(kind: str | None, has_gpu: bool, state: str) -> None:
    from embedfit.commands.doctor import torch_build

    found = torch_build("2.13.0", kind, has_gpu=has_gpu)
    assert found.state == state
    assert ("https://pytorch.org/get-started/locally/" in found.fix) == (state == "warning")


def test_doctor_knows_every_extra() -> None:
    from embedfit.commands.doctor import EXTRAS
    from embedfit.files.textfiles import toml_of

    listed = toml_of(Path(__file__).parents[1] / "pyproject.toml")["project"]["optional-dependencies"]
    assert {"all", "dev", *EXTRAS} == set(listed)
    for extra, package in EXTRAS.items():
        assert any(re.split(r"[<>=~; \[]", one)[0] == package for one in listed[extra]), extra


def test_ledger_list_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ledger.sqlite"
    call("ledger", "list", "--ledger", str(path), "--json")
    assert json.loads(capsys.readouterr().out) == []
    call("ledger", "export", str(tmp_path / "calls.jsonl"), "--ledger", str(path))
    assert "0 calls" in capsys.readouterr().out


def test_cache_list_size_and_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBEDFIT_HOME", raising=False)
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path))
    monkeypatch.setenv("EMBEDFIT_VECTORS_GB", "2.5")

    def said(*arguments: str) -> Any:
        call("cache", *arguments, "--json")
        return json.loads(capsys.readouterr().out)

    assert said("list") == []
    task = Task(name="model [x]", unit="passages", report=Silent())
    compute = Compute(
        function=lambda _, chunk, __: None,
        state=nullcontext(),
        values=lambda chunk, _: [text.encode() * 9 for text in chunk.texts],
        here=True,
    )
    default_vectors().kept("k" * 64, ["a", "b"], compute, task)
    (tmp_path / "graphs" / "one").mkdir(parents=True)
    (tmp_path / "graphs" / "one" / "graph.bin").write_bytes(bytes(1000))
    vectors, graph = sorted(said("list"), key=lambda entry: entry["kind"], reverse=True)
    assert (vectors["kind"], vectors["name"], vectors["key"], vectors["values"]) == (
        "vectors",
        "model [x]",
        "k" * 40,
        2,
    )
    assert (graph["kind"], graph["name"], graph["values"]) == ("graphs", "one", None)
    sizes = said("size")
    assert sizes["limit"] == 2.5 * (1 << 30)
    assert sizes["bytes"]["vectors"] == vectors["bytes"] > 18
    assert sizes["bytes"]["graphs"] == graph["bytes"] >= 1000
    call("cache", "list")
    call("cache", "size")
    assert "model [x]" in (printed := capsys.readouterr().out) and "2.5 GiB" in printed
    assert said("clean", "--to-gb", "1") == {"deleted_bytes": 0}
    assert said("clean") == {"deleted_bytes": vectors["bytes"]}
    assert [entry["kind"] for entry in said("list")] == ["graphs"]
    assert said("clean", "--all") == {"deleted_bytes": graph["bytes"]}
    assert said("list") == []
    monkeypatch.setenv("EMBEDFIT_VECTORS_GB", "much")
    call("cache", "size", code=2)
