"""A corpus that changes: every database then holds exactly the new one, and the user reads what changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.commands.indexing import index_documents
from embedfit.index.search import Index
from embedfit.index.sinks.changes import Changes, matched
from embedfit.index.sinks.client import Connected
from embedfit.index.sinks.handover import IndexHandover
from embedfit.index.sinks.postgres import load
from embedfit.index.sinks.sink import Digest, Row, kind_of
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime
from tests.index.sinks import opensearch_server, qdrant_server
from tests.index.sinks.corpora import QUERIES, text_of
from tests.index.sinks.ranking import assert_ranks_as
from tests.said import Said

PLACES = ("lancedb", "postgresql", "qdrant", "opensearch")
CHANGED = "index: passages since the last hand-over: 1 new, 1 changed, 1 gone, 10 the same"
IDS = st.dictionaries(st.text(max_size=3), st.sampled_from("abc"))


@given(before=IDS, after=IDS)
def test_every_passage_of_both_is_matched_once(before: dict[str, str], after: dict[str, str]) -> None:
    sides = [[Digest(name, one[name]) for name in sorted(one)] for one in (before, after)]
    pairs = list(matched(*sides))
    changes = Changes()
    for pair in pairs:
        changes.add(pair)
    for place, side in enumerate(sides):
        assert [pair[place] for pair in pairs if pair[place] is not None] == list(range(len(side)))
    for was, number, is_same in pairs:
        if was is not None and number is not None:
            assert sides[0][was].id == sides[1][number].id and is_same == (sides[0][was] == sides[1][number])
    assert changes.new + changes.changed + changes.same == len(after)
    assert changes.gone == len(before.keys() - after.keys()) and changes.new == len(after.keys() - before.keys())
    assert changes.same == len(before.items() & after.items())


@pytest.fixture(scope="module")
def both(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, Index]:
    """Twelve passages, and the same with the first gone, one changed, and a new one before all others."""
    folder = tmp_path_factory.mktemp("changes")
    texts = {f"p{n:02}": text_of(n) for n in range(12)}
    first = made(folder, "before", tiny_bert, texts)
    return first, made(folder, "after", tiny_bert, {**texts, "p00": None, "p05": text_of(77), "a": text_of(78)})


def made(folder: Path, name: str, model: Path, texts: dict[str, str | None]) -> Index:
    rows = [{"_id": one, "title": "", "text": text, "n": text[:7]} for one, text in texts.items() if text]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runtime = Runtime(vectors=VectorStore(folder / "vectors"))
    return index_documents(folder / "corpus.jsonl", folder=folder / name, model=str(model), runtime=runtime)


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "lancedb":
        yield f"lancedb://{tmp_path / 'db'}"
    elif request.param == "postgresql":
        yield f"{request.getfixturevalue('postgres_server')}&table=changes"
    else:
        server = qdrant_server if request.param == "qdrant" else opensearch_server
        with server.Server() as running:
            yield f"{request.param}://127.0.0.1:{running.port}/manuals"


def handed(index: Index, url: str) -> list[str]:
    """Hand an index over. Returns what the user reads."""
    said = Said()
    kind_of(url).open(url).write(IndexHandover(index, said, batch_rows=5))
    return [line for line in said.lines if "z-score" not in line]


def test_a_changed_corpus_is_found_as_it_is_now(
    both: tuple[Index, Index], url: str, opened: Callable[[str], Connected]
) -> None:
    before, after = both
    atol = 2e-3 if url.startswith("opensearch") else 1e-4
    assert handed(before, url) == []
    assert handed(after, url) == [CHANGED]
    store = opened(url)
    assert_ranks_as(after, store, QUERIES, atol=atol)
    found = {hit.passage_id: hit for hit in store.search("note", 20)}
    assert set(found) == {passage.passage_id for passage in after.passages()}
    assert found["p05"].text == text_of(77) and found["p05"].metadata["n"] == "Note 77"
    assert_ranks_as(after, store, QUERIES[:1], {"n": "Note 77"}, atol=atol)
    (line,) = handed(after, url)
    assert line.endswith("holds these rows already")
    assert handed(before, url) == [CHANGED]
    assert_ranks_as(before, store, QUERIES, atol=atol)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "opensearch-files"])
def test_files_say_what_changed(both: tuple[Index, Index], tmp_path: Path, kind: str) -> None:
    lines = [handed(index, f"{kind}:{tmp_path / 'out'}") for index in (*both, both[1])]
    assert lines == [[], [CHANGED], ["index: passages since the last hand-over: 0 new, 0 changed, 0 gone, 12 the same"]]


def test_postgresql_is_sent_only_what_changed(
    both: tuple[Index, Index], postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = load._Loader._send

    def watched(self: load._Loader, rows: Sequence[Row]) -> None:
        sent.extend(row.id for row in rows)
        send(self, rows)

    monkeypatch.setattr(load._Loader, "_send", watched)
    url = f"{postgres_server}&table=sent"
    handed(both[0], url)
    assert len(sent) == 12
    handed(both[1], url)
    assert sent[12:] == ["a", "p05"]
