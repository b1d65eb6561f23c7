"""Qdrant finds what the index finds, holds the old rows or the new ones, and keeps a key to itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from qdrant_client.http import models

from embedfit.commands.indexing import index_documents, update_index
from embedfit.errors import EmbedfitError, InputError, ModelError, UsageError
from embedfit.index.search import Index
from embedfit.index.sinks import named
from embedfit.index.sinks.client import Connected, connect
from embedfit.index.sinks.handover import IndexHandover
from embedfit.index.sinks.qdrant import load, search
from embedfit.index.sinks.sink import Question, kind_of
from embedfit.index.store.filters import filter_of
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Value
from embedfit.progress import Silent
from embedfit.runtime import Runtime
from tests.index.sinks.corpora import LONG, QUERIES, documents_index, expanded_index, hand
from tests.index.sinks.qdrant_server import Server
from tests.index.sinks.ranking import assert_filters_as, assert_ranks_as
from tests.index.sinks.test_lancedb import FILTERS
from tests.index.sinks.test_postgres import WHERE
from tests.index.sinks.test_sinks import Breaking


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("qdrant"), tiny_bert)


@pytest.fixture(scope="module")
def small(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("qdrant"), tiny_bert, count=9)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    return f"qdrant://127.0.0.1:{server.port}/manuals"


@pytest.fixture(scope="module")
def store(index: Index, tiny_bert: Path) -> Iterator[Connected]:
    with Server() as server:
        url = f"qdrant://localhost:{server.port}"
        hand(index, url)
        with connect(url, tiny_bert) as opened:
            yield opened


@pytest.fixture(scope="module")
def question(store: Connected) -> Question:
    return store.ask("pump")


def names(server: Server) -> set[str]:
    return {one.name for one in server.client.get_collections().collections}


def test_it_ranks_as_the_index(index: Index, store: Connected) -> None:
    assert_ranks_as(index, store, QUERIES)


@pytest.mark.parametrize("first", [1, 5, 20])
def test_few_passages_are_compared_and_the_best_are_still_found(
    index: Index, store: Connected, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(search, "FIRST", first)
    for query in ("clean the pump filter", "note 7", "nothing of this kind"):
        question = store.ask(query)
        found = [(one.id, one.score) for one in store.candidates(question, 3, filter_of(["year>2004"]))]
        every = store.candidates(question, 40, filter_of(["year>2004"]))
        assert found == [(one.id, pytest.approx(one.score, abs=1e-5)) for one in every[:3]]


@pytest.mark.parametrize("where", [*FILTERS, {"folder": {"contains": ""}}, {"document": {"!=": 'say "hi"'}}], ids=str)
def test_it_filters_as_the_index(index: Index, store: Connected, where: dict[str, Value] | list[str]) -> None:
    assert_ranks_as(index, store, QUERIES[:1], where)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=WHERE)
def test_any_filter_means_what_it_means_in_the_index(
    index: Index, store: Connected, question: Question, where: dict[str, object]
) -> None:
    """Either both refuse it, or the same passages meet it."""
    assert_filters_as(index, store, question, where)


def test_written_queries_count_too(tiny_bert: Path, tmp_path: Path, url: str, opened) -> None:
    queries = [(f"how to clean {n}", f"note {n} please") if n % 3 else () for n in range(12)]
    index = expanded_index(tmp_path, tiny_bert, queries=queries)
    hand(index, url)
    assert_ranks_as(index, opened(url), QUERIES)


@pytest.mark.slow
def test_fields_with_odd_names_are_found(tiny_bert: Path, tmp_path: Path, url: str, opened) -> None:
    fields = ({"my.field": 3, 'a "b"[]': ["x", 1]}, {"my.field": "2024-02-03"}, {"_2": 1})
    rows = [{"_id": f"{n}", "title": "", "text": f"The filter {n}. {LONG}", **own} for n, own in enumerate(fields)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for where in (
        {"my.field": 3}, {"_2": {"<": 2}}, {"my.field": {"exists": False}}, {"my.field": {">": "2024-01"}},
        {'a "b"[]': "x"}, {'a "b"[]': {"!=": "y"}},
    ):  # fmt: skip
        assert_filtered(tmp_path / "corpus.jsonl", tiny_bert, tmp_path, url, where, opened)


@pytest.mark.slow
def test_folders_are_found(tiny_bert: Path, tmp_path: Path, url: str, opened) -> None:
    for name in ("a.b/one.md", "a.b/c/two.md", "a/three.md", "four.md"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(f"{name}: the filter. {LONG}")
    for wanted in ("a.b", "a.b/", "a", "a.b/c", ""):
        assert_filtered(tmp_path / "docs", tiny_bert, tmp_path, url, {"folder": {"contains": wanted}}, opened)


def assert_filtered(docs: Path, model: Path, folder: Path, url: str, where: object, opened) -> None:
    """A filter finds some passages, and the same as in the index."""
    runtime = Runtime(vectors=VectorStore(folder / "vectors"))
    index = index_documents(docs, folder=folder / "ix", model=str(model), runtime=runtime)
    hand(index, url)
    assert index.search("filter", 3, where=where), where
    assert_ranks_as(index, opened(url), ["filter"], where)


def test_every_collection_says_which_model_made_it(index: Index, server: Server, url: str) -> None:
    hand(index, url)
    fingerprint = IndexHandover(index, Silent()).about.fingerprint
    for name in names(server):
        metadata = server.client.get_collection(name).config.metadata
        assert metadata is None or metadata["fingerprint"] == fingerprint
    facts = load.facts_of(server.client, "manuals_about")
    assert facts is not None and fingerprint in facts["about"]


def test_another_model_is_refused(store: Connected, question: Question, other_bert: Path) -> None:
    with pytest.raises(ModelError, match="can't be compared"):
        connect(store._url, other_bert)
    with pytest.raises(ModelError, match="can't be compared"):
        store.candidates(replace(question, fingerprint="other"), 3)
    with pytest.raises(ModelError, match="3 numbers"):
        store.candidates(replace(question, vector=question.vector[:3]), 3)


def test_an_interrupted_load_goes_on_and_is_not_seen(
    index: Index, small: Index, server: Server, url: str, opened
) -> None:
    hand(small, url)
    before = opened(url)
    with pytest.raises(KeyboardInterrupt):
        kind_of(url).open(url).write(Breaking(index, 3))
    assert_ranks_as(small, before, QUERIES[:2])
    content = IndexHandover(index, Silent()).about.content
    server.client.delete(f"manuals_{content}", models.PointIdsList(points=[2]))  # a request that got through in part
    starts = []

    class Counting(IndexHandover):
        def batches(self, start: int = 0):
            starts.append(start)
            return super().batches(start)

    kind_of(url).open(url).write(Counting(index, Silent(), batch_rows=7))
    assert starts == [2]
    assert_ranks_as(index, before, QUERIES)  # one that was opened before sees the new rows
    assert names(server) == {f"manuals_{content}", f"manuals_{content}_about"}
    asked = before.ask("pump")
    hand(small, url)
    with pytest.raises(InputError, match="handed over"):  # its terms have other numbers now
        before.candidates(asked, 3)
    assert_ranks_as(small, before, QUERIES[:2])


def test_the_same_rows_are_not_written_again(small: Index, server: Server, url: str) -> None:
    hand(small, url)
    wrote = []
    server.gate = lambda method, path, _: wrote.append((method, path)) if method in ("PUT", "DELETE") else None  # type: ignore[func-returns-value]
    hand(small, url)
    assert not wrote


@pytest.mark.slow
def test_added_and_removed_documents_follow(tiny_bert: Path, tmp_path: Path, url: str, opened) -> None:
    index = documents_index(tmp_path, tiny_bert, count=12)
    hand(index, url)
    store = opened(url)
    (tmp_path / "more.md").write_text("A kettle boils water.")
    runtime = Runtime(vectors=VectorStore(tmp_path / "vectors"))
    changed = update_index(tmp_path / "ix", add=[tmp_path / "more.md"], remove=["it's"], runtime=runtime)
    hand(changed, url)
    assert_ranks_as(changed, store, ["kettle", *QUERIES[:2]])
    assert "it's" not in {hit.document for hit in store.search("note", 13)}


@pytest.mark.parametrize("taken", ["collection", "about", "alias"])
def test_others_collections_are_not_touched(small: Index, server: Server, url: str, taken: str) -> None:
    name = {"collection": "manuals", "about": "manuals_about", "alias": "mine"}[taken]
    server.client.create_collection(name, models.VectorParams(size=3, distance=models.Distance.COSINE))
    if taken == "alias":
        alias = models.CreateAlias(alias_name="manuals", collection_name="mine")
        server.client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    with pytest.raises(UsageError, match="is not touched"):
        hand(small, url)
    assert names(server) == {name}
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


class Odd(IndexHandover):
    """A hand-over with another row."""

    changed: dict[str, object]

    def batches(self, start: int = 0):
        for batch in super().batches(start):
            yield [replace(row, **self.changed) if row.number == 2 else row for row in batch]


def test_a_vector_of_another_dimension_is_refused(small: Index, url: str) -> None:
    handover = Odd(small, Silent())
    handover.changed = {"vector": np.ones(3, np.float32)}
    with pytest.raises(EmbedfitError, match="don't fit the collection"):
        kind_of(url).open(url).write(handover)
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


def test_nul_in_a_text_stays(small: Index, url: str, opened) -> None:
    handover = Odd(small, Silent())
    handover.changed = {"text": "a\0b", "metadata": {"year": 2002}}
    kind_of(url).open(url).write(handover)
    assert "a\0b" in {hit.text for hit in opened(url).search("note", 9)}


def test_requests_are_bounded(index: Index, server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_REQUEST_BYTES", 10_000)
    monkeypatch.setattr(named, "_CHUNK", 1_000)
    hand(index, url)
    assert server.largest < 150_000
    content = IndexHandover(index, Silent())
    assert load.read_questions(server.client, "manuals_about", -(-len(content.questions) // 1000)) == (
        content.questions
    )


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (500, "Service internal error: No space left on device", "disk is full"),
        pytest.param(403, "Forbidden: Write access", "asks for an API key", marks=pytest.mark.slow),
        pytest.param(429, "Too many requests", "overloaded", marks=pytest.mark.slow),
        pytest.param(413, "payload too large", "refused: payload too large", marks=pytest.mark.slow),
        (0, "", "connection failed or was lost"),
    ],
)
def test_what_the_server_refuses_is_said_and_the_old_rows_stay(
    index: Index, small: Index, server: Server, url: str, opened, status: int, answer: str, said: str
) -> None:
    hand(small, url)
    seen = []

    def gate(method: str, path: str, _: bytes) -> tuple[int, str] | None:
        seen.append(path)
        return (status, answer) if method == "PUT" and sum(one.endswith("/points") for one in seen) > 4 else None

    server.gate = gate
    with pytest.raises(EmbedfitError, match=said) as caught:
        hand(index, url)
    assert "un" in str(caught.value)
    server.gate = lambda *_: None
    assert_ranks_as(small, opened(url), QUERIES[:1])
    hand(index, url)
    assert_ranks_as(index, opened(url), QUERIES[:1])


def test_a_search_says_what_the_server_refuses(small: Index, server: Server, url: str, opened) -> None:
    hand(small, url)
    store = opened(url)
    server.gate = lambda _, path, __: (0, "") if path.endswith("query") else None
    with pytest.raises(EmbedfitError, match="was lost"):
        store.search("pump")
    facts = load.facts_of(server.client, "manuals_about")
    server.client.delete_collection(f"manuals_{facts[load.MARK]}")
    server.gate = lambda *_: None
    with pytest.raises(EmbedfitError, match="refused"):
        store.search("pump")


def test_a_key_opens_the_server_and_is_never_shown(
    small: Index, server: Server, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.api_key = "s3cret/@"
    place = f"127.0.0.1:{server.port}/manuals"
    for url in (
        f"qdrant://{place}", f"qdrant://:s3cret@{place}", f"qdrant://:s3c/ret@{place}", f"qdrant://s3cret@{place}",
        f"qdrant://{place}?api_key=s3cret", "qdrant://:s3cret@127.0.0.1:1/a", "qdrant://:s3cret@h:port/a",
        "qdrant://:s3cret@127.0.0.1:1/Big Name", "qdrant://:s3cret@127.0.0.1:1/a?tls=maybe", "qdrant://?api_key=s3cret",
    ):  # fmt: skip
        with pytest.raises(EmbedfitError) as caught:
            hand(small, url)
        error: BaseException | None = caught.value
        while error is not None:
            assert "s3c" not in str(error), error
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    hand(small, f"qdrant://:s3cret%2F%40@{place}")
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret/@")
    assert_ranks_as(small, opened(f"qdrant://{place}"), QUERIES[:1])
    assert "s3cret" not in repr(load.place_of(f"qdrant://{place}"))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("qdrant://db.example", "https://db.example:6333"), ("qdrant://localhost", "http://localhost:6333"),
        ("qdrant://db.example:80/x?tls=false", "http://db.example:80"), ("qdrant://[::1]:7/x", "http://[::1]:7"),
        ("qdrant://127.0.0.2/x?tls=true", "https://127.0.0.2:6333"),
    ],
)  # fmt: skip
def test_a_connection_to_another_machine_is_encrypted(url: str, address: str) -> None:
    assert load.place_of(url).address == address
