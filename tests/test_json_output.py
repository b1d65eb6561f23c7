"""Every command that prints a result prints it as JSON too, in the form that the reference gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedfit.cli import main as cli
from embedfit.config import Config
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.path.workspace import Workspace
from tests.docs.pages import ROOT, hooks
from tests.json_forms import forms, printed

#: Commands without --json, and why.
NO_JSON = {
    "embedfit grade": "a page in the browser",
    "embedfit serve": "a server; --json-output makes its log JSON",
}
#: Commands that write their JSON to a file.
TO_A_FILE = {"embedfit benchmark"}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command and gives its standard output."""

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(word) for word in words])
        output = capsys.readouterr()
        assert (caught.value.code or 0) == code, output.err
        return output.out

    return run


def test_every_command_has_it_and_its_form_is_written_down() -> None:
    made, tests = hooks(), "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    held = set(re.findall(r'printed\(\s*f?"(embedfit [\w {}-]+)"', tests))
    for name, command in made.commands():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options) == (name not in NO_JSON), f"{name}: add --json, or say in NO_JSON why not"
        assert ("--json" in options) == bool(made.forms_of(command)), f"{name}: say by @prints what --json prints"
        stage = "embedfit {stage}" in held and name.split()[-1] in STAGES
        assert name in {*held, *NO_JSON, *TO_A_FILE} or stage, f"{name}: no test holds its output against its form"


def test_what_has_another_form_is_found() -> None:
    assert set(forms()) > {"embedfit run", "embedfit ledger list"}
    with pytest.raises(AssertionError, match="'folder' is a required property"):
        printed("embedfit index", json.dumps({"passages": 3}))
    with pytest.raises(AssertionError, match="is not of type"):
        printed("embedfit index", json.dumps({"folder": 1, "passages": 3, "to": ""}))


STAGES = ("generate", "mine", "train", "merge", "check", "choose", "evaluate", "report")


def test_a_run_and_its_stages(
    run_copy: Callable[..., tuple[Workspace, Config]], said: Callable[..., str], tmp_path: Path
) -> None:
    workspace, _ = run_copy()
    run = workspace.root
    summary = printed("embedfit run", said("run", "--run", run, "--json"))
    assert summary == workspace.read_json("summary.json")
    for stage in STAGES:
        done = printed(f"embedfit {stage}", said(stage, "--run", run, "--json"))
        assert done["stage"] == stage and done["finished"] == workspace.read_manifest(stage).finished  # type: ignore[union-attr]
    told = printed("embedfit status", said("status", "--run", run, "--json"))
    assert set(told["stages"].values()) == {"fresh"}
    query = workspace.path("queries.jsonl").read_text("utf-8").splitlines()[0]
    forgotten = said("forget", "--run", run, "--query-id", json.loads(query)["query_id"], "--yes", "--json")
    assert printed("embedfit forget", forgotten)["done"]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for name in ("sound", "screen", "cable"):
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\nHow to clean, mount and repair the {name}. " * 9)
    return tmp_path / "docs"


def test_documents_and_their_index(docs: Path, tiny_bert: Path, said: Callable[..., str], tmp_path: Path) -> None:
    run, index = tmp_path / "run", tmp_path / "ix"
    done = printed("embedfit ingest", said("ingest", docs, "--run", run, "--model", tiny_bert, "--json"))
    assert done["stage"] == "ingest" and done["run"] == str(run)
    handed = f"jsonl:{tmp_path / 'out'}"
    built = printed(
        "embedfit index", said("index", docs, "--model", tiny_bert, "--to-folder", index, "--to", handed, "--json")
    )
    assert built["passages"] >= 3 and built["to"] == handed and Path(built["folder"]).is_dir()
    found = printed("embedfit search", said("search", "--index", index, "mount the screen", "-k", 2, "--json"))
    assert found["query"] == "mount the screen" and len(found["hits"]) == 2


def test_models_and_vectors(tiny_bert: Path, said: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    words = ("encode", tiny_bert, "--input", tmp_path / "texts.txt", "--output", tmp_path / "v.npy", "--json")
    assert printed("embedfit encode", said(*words))["vectors"] == 2
    assert printed("embedfit encode", said(*words, "--windows"))["windows"] == str(tmp_path / "v.windows.jsonl")
    mixed = said("merge-models", tiny_bert, tiny_bert, "--output", tmp_path / "m", "--weights", ".5,.5", "--json")
    assert printed("embedfit merge-models", mixed)["folder"] == str(tmp_path / "m")
    assert printed("embedfit doctor", said("doctor", tiny_bert, "--json"))["dimensions"] > 0


def test_exports(said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bert: Path) -> None:
    data = RetrievalData(
        corpus={"p": Entry(text="a text", title="")}, queries={"q": "a query"}, qrels={"q": {"p": 1.0}}
    )
    write_beir(tmp_path / "beir", data)
    done = printed("embedfit convert", said("convert", tmp_path / "beir", tmp_path / "out.jsonl", "--json"))
    assert (done["source"], done["target"], done["queries"]) == ("beir", "flagembedding", 1)
    ledger = tmp_path / "ledger.sqlite"
    assert printed("embedfit ledger list", said("ledger", "list", "--ledger", ledger, "--json")) == []
    calls = said("ledger", "export", tmp_path / "calls.jsonl", "--ledger", ledger, "--json")
    assert printed("embedfit ledger export", calls) == {"file": str(tmp_path / "calls.jsonl"), "calls": 0}
    monkeypatch.setattr("embedfit.models.graphs.export.to_onnx", lambda folder: folder / "onnx" / "model.onnx")
    files = printed("embedfit export", said("export", tiny_bert, "--onnx", "--json"))["files"]
    assert files == [str(tiny_bert / "onnx" / "model.onnx")]
    monkeypatch.setattr("embedfit.reporting.push.push", lambda *given, **named: "https://hub.example/a/b")
    assert printed("embedfit push", said("push", "--run", tmp_path, "a/b", "--json"))["url"].endswith("a/b")
    monkeypatch.setattr("embedfit.corpus.sources.sample.fetch", lambda *given, **named: [tmp_path / "a.pdf"])
    assert printed("embedfit sample", said("sample", "10k", "--json"))["files"] == [str(tmp_path / "a.pdf")]


def test_the_cache(said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path / "cache"))
    assert printed("embedfit cache list", said("cache", "list", "--json")) == []
    assert printed("embedfit cache size", said("cache", "size", "--json"))["bytes"].keys()
    assert printed("embedfit cache clean", said("cache", "clean", "--json")) == {"deleted_bytes": 0}


def test_the_findings_of_doctor(said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    from embedfit.commands.doctor import Diagnosis

    found = [Diagnosis(what="CPU", state="ok", found="2 cores")]
    monkeypatch.setattr("embedfit.commands.doctor.diagnose", lambda **_: found)
    (one,) = printed("embedfit doctor", said("doctor", "--json"))
    assert one["what"] == "CPU" and one["state"] == "ok"


def test_values_are_json_for_any_reader(said: Callable[..., str], docs: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """Standard output holds one value, whatever the documents are called."""
    (docs / "odd \x1b[31m name.md").write_text("# Odd\n\nHow to clean the odd thing. " * 9)
    index = tmp_path / "ix"
    said("index", docs, "--model", tiny_bert, "--to-folder", index, "--json")
    text: Any = said("search", "--index", index, "clean the odd thing", "-k", 4, "--json")
    assert "\x1b" not in text and any("\x1b" in hit["document"] for hit in json.loads(text)["hits"])
