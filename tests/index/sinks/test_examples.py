"""The scripts in examples/ that search a database by its own means find the index' first stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfit.index.search import Index
from embedfit.index.sinks.handover import export
from embedfit.index.sinks.sink import kind_of
from embedfit.progress import Silent
from examples import search_lancedb, search_postgresql
from tests.index.sinks.corpora import QUERIES, documents_index
from tests.index.sinks.ranking import DEPTH, first_stage


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("examples"), tiny_bert)


@pytest.mark.parametrize("name", ["lancedb", "postgresql"])
def test_the_example_finds_the_first_stage(
    index: Index, tiny_bert: Path, tmp_path: Path, postgres_server: str, name: str
) -> None:
    place, best = {
        "lancedb": (str(tmp_path / "db"), search_lancedb.best),
        "postgresql": (postgres_server, search_postgresql.best),
    }[name]
    url = f"lancedb://{place}" if name == "lancedb" else place
    export(index, kind_of(url).open(url), Silent())
    for query in QUERIES:
        expected = first_stage(index).search(query, DEPTH)
        found = best(place, str(tiny_bert), query)
        assert [(one, text) for _, one, text in found] == [(hit.passage_id, hit.text) for hit in expected]
        assert [score for score, *_ in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
