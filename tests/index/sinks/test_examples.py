"""The scripts in examples/ that search a database by its own means find the index' first stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks import corpora
from embedfit.commands.indexing import index_documents
from embedfit.errors import ModelError
from embedfit.index.search import Index
from embedfit.index.sinks.client import connect
from embedfit.index.sinks.handover import export
from embedfit.index.sinks.sink import kind_of
from embedfit.models.sources import resolve_model
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Silent
from embedfit.runtime import Runtime
from examples import search_lancedb, search_postgresql, search_qdrant
from tests.index.sinks.corpora import QUERIES, documents_index
from tests.index.sinks.qdrant_server import Server
from tests.index.sinks.ranking import DEPTH, assert_ranks_as, first_stage

PLACES = pytest.mark.parametrize("name", ["lancedb", "postgresql", "qdrant"])


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("examples"), tiny_bert)


@pytest.fixture
def qdrant_url() -> Iterator[str]:
    with Server() as server:
        yield f"qdrant://127.0.0.1:{server.port}/manuals"


@pytest.fixture(scope="module")
def minilm() -> Path:
    try:
        return resolve_model("minilm")
    except ModelError as error:
        pytest.skip(f"MiniLM is not here: {error.message}")


@pytest.fixture(scope="module")
def emanual(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    if not (corpora.DATA / "emanual").is_dir():
        pytest.skip("the corpora are not here: set EMBEDFIT_DATA")
    folder = tmp_path_factory.mktemp("emanual")
    runtime = Runtime(vectors=VectorStore(folder / "vectors"))
    return index_documents(corpora.DATA / "emanual", folder=folder / "ix", model=str(minilm), runtime=runtime)


@PLACES
def test_the_example_finds_the_first_stage(
    index: Index, tiny_bert: Path, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    assert_example_finds(index, tiny_bert, QUERIES, tmp_path, name, request)


@pytest.mark.slow
@pytest.mark.timeout(1_800)  # the first one builds the index
@PLACES
def test_emanual_ranks_as_in_the_index(
    emanual: Index, minilm: Path, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    queries = corpora.corpus("emanual").queries[:60]
    url = assert_example_finds(emanual, minilm, queries[:20], tmp_path, name, request)
    with connect(url, minilm) as store:
        assert_ranks_as(emanual, store, queries)


def assert_example_finds(
    index: Index, model: Path, queries: Sequence[str], folder: Path, name: str, request: pytest.FixtureRequest
) -> str:
    """Hand an index over, and compare what the example finds with its first stage. Returns the URL."""
    if name == "lancedb":
        url, place, best = f"lancedb://{folder / 'db'}", str(folder / "db"), search_lancedb.best
    elif name == "postgresql":
        url = place = request.getfixturevalue("postgres_server")
        best = search_postgresql.best
    else:
        url = place = request.getfixturevalue("qdrant_url")
        best = search_qdrant.best
    export(index, kind_of(url).open(url), Silent())
    for query in queries:
        expected = first_stage(index).search(query, DEPTH)
        found = best(place, str(model), query)
        assert [(one, text) for _, one, text in found] == [(hit.passage_id, hit.text) for hit in expected]
        assert [score for score, *_ in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    return url
