"""Every block of Python in the README and docs runs, in the order of its page, or says why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import embedfit
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from tests.docs.pages import PAGES, ROOT, blocks

PYTHON = {page: found for page in PAGES if (found := [one for one in blocks(page) if one.language == "python"])}
MANUAL = (
    "Press the volume button to mute the sound of the tv.",
    "Wipe the screen with a soft dry cloth and no water.",
    "Hold the home key to pair the remote with the set.",
    "A reset deletes channels, codes and networks of the set.",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """What a reader has: documents, a BEIR folder, and two runs with a model and an index."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "handbook").mkdir()
    for number, text in enumerate(MANUAL * 3):
        fields = f"---\nlang: de\ndate: 2024-0{number % 9 + 1}-01\ngroups: [hr]\n---\n"
        page = f"{fields}# Page {number}\n\n{text} This is part {number} of the handbook.\n"
        (folder / "handbook" / f"page{number}.md").write_text(page, "utf-8")
    more = "# More\n\nThe guide lists the programmes of the next fourteen days, channel by channel.\n"
    (folder / "more.md").write_text(more, "utf-8")
    data = RetrievalData(
        corpus={f"p{number}": Entry(text=text, title="") for number, text in enumerate(MANUAL)},
        queries={"q0": "mute the sound", "q1": "clean the screen"},
        qrels={"q0": {"p0": 1.0}, "q1": {"p1": 1.0}},
    )
    write_beir(folder / "beir", data)
    embedfit.index_documents(folder / "handbook", folder=folder / "runs" / "mine", model=str(tiny_bert))
    shutil.copytree(tiny_bert, folder / "runs" / "mine" / "merged")
    shutil.copytree(folder / "runs" / "mine", folder / "runs" / "em")
    return folder


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_the_page_runs(
    page: Path, made: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "reader")
    monkeypatch.chdir(tmp_path / "reader")
    names: dict[str, Any] = {"__name__": "page"}
    for block in PYTHON[page]:
        if block.skipped:
            continue
        code = block.text.replace('"minilm"', repr(str(tiny_bert)))  # as small, and on every machine
        exec(compile(block.before, f"{block}, before it", "exec"), names)
        exec(compile(code, str(block), "exec"), names)


def test_a_reason_is_given_in_words() -> None:
    skipped = [block for found in PYTHON.values() for block in found if block.skipped]
    assert all(len(block.skipped.split()) >= 4 for block in skipped)
    assert len(skipped) <= 4, "what is not run may be wrong: run it"
