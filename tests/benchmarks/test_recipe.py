import sys
from pathlib import Path

import pytest

from embedfit.files.beir import read_beir, write_beir
from embedfit.files.retrieval import Entry, RetrievalData

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    """The benchmark over a corpus of its own: 40 passages, a question for each, and one that the first two answer."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import corpora
    import recipe

    monkeypatch.setattr(corpora, "DATA", tmp_path / "data")
    entries = {f"p{n:02}": Entry(text=f"part {n} of the machine", title="") for n in range(40)}
    queries = {f"q{n:02}": f"what is part {n}" for n in range(40)} | {"both": "what are the first parts"}
    qrels = {f"q{n:02}": {f"p{n:02}": 1.0} for n in range(40)} | {"both": {"p00": 1.0, "p01": 1.0}}
    write_beir(tmp_path / "data" / "machine", RetrievalData(corpus=entries, queries=queries, qrels=qrels))
    yield recipe
    for name in ("recipe", "corpora", "train_throughput"):
        sys.modules.pop(name, None)


def test_a_run_knows_nothing_of_later_passages(recipe, tmp_path):
    cell = recipe.Cell(corpus="machine", source="strong", tune="preset", later=True)
    assert cell.key != recipe.Cell(corpus="machine", source="strong", tune="preset").key
    question = recipe.question_of(cell, tmp_path)
    read = read_beir(recipe.beir_of(question.read, tmp_path / "beir"))
    assert len(read.corpus) == 30 and len(question.judging.passage_ids) == 40 and len(question.judging.queries) == 41
    for query, relevant, apart in zip(
        question.judging.query_ids, question.judging.relevant, question.apart, strict=True
    ):
        assert apart == (not relevant.keys() & read.corpus.keys())
        assert (query in read.queries) == (not apart), "a run sees no question about a later passage"
    assert 9 <= question.apart.sum() <= 10
