"""The notebook, cell by cell: on excerpts of the two filings, with a writer that answers from the passage."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "embedfit_10k.ipynb"

#: Cut the filings, so that the whole path takes minutes on two cores.
EXCERPTS = """
import pypdfium2

def excerpt(path, pages):
    source, target = pypdfium2.PdfDocument(path), pypdfium2.PdfDocument.new()
    target.import_pages(source, pages)
    short = path.with_name("short_" + path.name)
    target.save(short)
    return short

lyft, uber = excerpt(lyft, list(range(10, 22))), excerpt(uber, list(range(12, 17)))
"""
SMALL = {
    "generate": {"max_passages": 24, "queries_per_passage": 2},
    "mine": {"negatives": 2, "depth": 20},
    "train": {"epochs": 1, "batch_size": 16, "hard_negatives": 1},
    "merge": {"steps": 2},
    "evaluate": {"bootstrap": 200},
}


def cell_tagged(notebook: Any, tag: str) -> Any:
    return next(cell for cell in notebook.cells if tag in cell.metadata.get("tags", []))


def printed(cell: Any) -> str:
    texts = [output.get("text", "") + str(output.get("data", {}).get("text/markdown", "")) for output in cell.outputs]
    return "".join(texts)


def test_it_is_valid_clean_and_needs_one_line_for_bedrock():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert 'GENERATOR = "local"' in cell_tagged(notebook, "parameters").source
    assert sum("GENERATOR =" in cell.source for cell in code) == 1
    for cell in code:
        if not cell.source.startswith("# %pip"):
            compile(cell.source, "cell", "exec")
    deploying = [cell for cell in code if "deploy" in cell.metadata.get("tags", [])]
    assert len(deploying) == 4 and all("if SKIP:" in cell.source for cell in deploying)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_runs_from_documents_to_langchain(data_dir: Path, minilm: Path, tmp_path: Path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = cell_tagged(notebook, "parameters")
    parameters.source += f"\nSAMPLE_FROM = {str(data_dir / '10k')!r}\nSETTINGS = {SMALL!r}\n"
    cell_tagged(notebook, "documents").source += EXCERPTS
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()

    assert "lyft_2021.pdf" in printed(cell_tagged(notebook, "documents"))
    assert "report: " in printed(cell_tagged(notebook, "run"))
    results = printed(cell_tagged(notebook, "results"))
    assert "| system | Hit@5 | MRR@10 | nDCG@10 | Recall@100 |" in results
    assert "Merged + BM25" in results and "Decision:" in results
    assert "questions," in printed(cell_tagged(notebook, "questions"))
    for tag, found in (("untrained", 3), ("use", 3), ("model", 1)):
        assert printed(cell_tagged(notebook, tag)).count("page ") >= found
    skipped = [cell for cell in notebook.cells if "deploy" in cell.metadata.get("tags", [])]
    assert [printed(cell) for cell in skipped] == ["Skipped: DEPLOY is False.\n"] * 4
    assert "the local folder answers" in printed(cell_tagged(notebook, "langchain"))
    assert (tmp_path / "runs" / "10k" / "report.html").is_file()
    assert (tmp_path / "runs" / "10k" / "merged" / "README.md").is_file()
