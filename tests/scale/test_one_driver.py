"""A run has one driver at a time, and no clock decides what is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

import embedfit
from embedfit.errors import EmbedfitError
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from tests.training.conftest import WORDS


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.md").write_text(f"# Part {number}\n\n" + f"The {WORDS[number]} part of a machine. " * 12)
    return folder


def test_a_second_driver_is_refused(docs: Path, tmp_path: Path, tiny_bert: Path) -> None:
    run = tmp_path / "run"
    with Workspace(run).lock(), pytest.raises(EmbedfitError, match="Another embedfit is at work"):
        embedfit.run(docs, run=run, settings={"model": str(tiny_bert)}, until="ingest")
    embedfit.run(docs, run=run, settings={"model": str(tiny_bert)}, until="ingest")


class Lines:
    text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("apart", [-(10**9), 10**9])
def test_clocks_that_are_apart_decide_nothing(docs: Path, tmp_path: Path, tiny_bert: Path, apart: int) -> None:
    """The driver that goes on may have another clock than the one that began."""
    settings, lines = {"model": str(tiny_bert)}, Lines()
    embedfit.run(docs, run=tmp_path / "run", settings=settings, until="ingest", runtime=Runtime(clock=lambda: 2e9))
    before = (tmp_path / "run" / "passages.jsonl").read_bytes()
    later = Runtime(clock=lambda: 2e9 + apart, report=LogLines(lines))
    embedfit.run(docs, run=tmp_path / "run", settings=settings, until="ingest", runtime=later)
    assert "ingest: up to date" in lines.text and (tmp_path / "run" / "passages.jsonl").read_bytes() == before
