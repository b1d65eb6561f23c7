"""A run folder that embedfit 0.1.0 made is read, used, and brought up to date.

tests/golden/first_edition was made by that version (without its weights, page and scores):
`embedfit run docs --run run --preset offline --model tiny-bert --set train.epochs=1 --set evaluate.bootstrap=100
--set generate.queries_per_passage=2 --set generate.max_passages=12 --yes`, with the tiny BERT of tests/conftest.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedfit.cli import main as cli
from embedfit.commands import runs
from embedfit.commands.indexing import load_or_build
from embedfit.config import load
from embedfit.path.workspace import Workspace
from tests.conftest import make_tiny_bert

FIRST = Path(__file__).parent / "golden" / "first_edition"
DOCUMENTS = sorted((FIRST / "docs").iterdir())


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder beside its documents and its base model, with the weights that it shipped: the base's."""
    shutil.copytree(FIRST, tmp_path / "first")
    base = make_tiny_bert(tmp_path / "first" / "tiny-bert")
    shutil.copy(base / "model.safetensors", tmp_path / "first" / "run" / "merged")
    monkeypatch.chdir("/")
    return tmp_path / "first" / "run"


def command(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert (caught.value.code or 0) == code


def test_status_says_what_is_true_and_what_to_do(
    first: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    command("status", "--run", str(first), "--json")
    said = json.loads(capsys.readouterr().out)
    expected = dict.fromkeys(("ingest", "generate", "mine", "train", "merge", "check", "evaluate", "report"), "stale")
    assert said["stages"] == {**expected, "choose": "missing"}
    for name in expected:
        assert said["why"][name].startswith("it was made by embedfit 0.1.0")
    assert f"embedfit run --run {first}" in said["next"] and "can be used as it is" in said["next"]
    assert said["cost"]["calls"] == 28, "of summary.json, for the ledger of then is not here"
    command("status", "--run", str(first))
    assert f"run: embedfit run --run {first}. It does each stage again" in capsys.readouterr().out


def test_its_settings_and_documents_are_found_from_anywhere(first: Path) -> None:
    found = load(first / "embedfit.toml")
    assert found.docs == (str(first.parent / "docs"),)
    assert (found.model, found.preset, found.generate.max_passages) == (str(first.parent / "tiny-bert"), "offline", 12)


def test_it_is_reported_and_searched_as_it_is(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (first / "summary.json").read_bytes()
    command("report", "--run", str(first))
    assert "<html" in (first / "report.html").read_text("utf-8")
    index = load_or_build(first)
    assert {hit.document for hit in index.search("mute the sound", k=10)} == {one.name for one in DOCUMENTS}
    capsys.readouterr()
    command("search", "--run", str(first), "mute the sound")
    assert "the base has it at" in capsys.readouterr().out
    assert (first / "summary.json").read_bytes() == before


def test_a_stage_whose_input_is_not_there_says_so(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first / "passages.jsonl").unlink()
    command("mine", "--run", str(first), code=1)
    said = capsys.readouterr().err
    assert "passages.jsonl" in said and "embedfit ingest" in said and "Traceback" not in said


def test_it_is_brought_up_to_date(first: Path) -> None:
    runs.run(run=first, until="ingest")
    runs.run_stage("mine", run=first)
    found = {name: Workspace(first).read_manifest(name) for name in ("ingest", "mine")}
    assert all(one is not None and one.settings is not None for one in found.values())
