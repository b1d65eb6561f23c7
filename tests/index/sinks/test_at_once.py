"""Two hand-overs to one name at the same time, where the server has no lock: one of them stays, whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from embedfit.index.search import Index
from embedfit.index.sinks import server as http
from embedfit.index.sinks.client import Connected
from embedfit.index.sinks.handover import IndexHandover
from embedfit.index.sinks.sink import kind_of
from embedfit.progress import Silent
from tests.index.sinks import opensearch_server, qdrant_server
from tests.index.sinks.corpora import QUERIES, documents_index, hand
from tests.index.sinks.ranking import assert_ranks_as
from tests.index.sinks.test_sinks import Breaking
from tests.said import Said


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("at-once"), tiny_bert, count=14)


@pytest.fixture(scope="module")
def small(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("at-once"), tiny_bert, count=9)


@pytest.fixture(params=["qdrant", "opensearch"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(name: str) -> Iterator[Any]:
    with (qdrant_server if name == "qdrant" else opensearch_server).Server() as running:
        yield running


@pytest.fixture
def url(name: str, server: Any) -> str:
    return f"{name}://127.0.0.1:{server.port}/manuals"


def held(server: Any) -> set[str]:
    """The names of what the server holds, without those of the facts."""
    indexes = getattr(server, "indexes", None)
    names = indexes if indexes is not None else {one.name for one in server.client.get_collections().collections}
    return {one for one in names if not one.endswith("_about")}


def target(index: Index) -> str:
    return f"manuals_{IndexHandover(index, Silent()).about.content}"


def assert_holds(index: Index, url: str, server: Any, opened: Callable[[str], Connected]) -> None:
    assert_ranks_as(index, opened(url), QUERIES[:2], atol=2e-3 if url.startswith("opensearch") else 1e-4)
    assert held(server) == {target(index)}


class Meanwhile(IndexHandover):
    """A hand-over during which another one begins and ends."""

    def __init__(self, index: Index, other: Callable[[], None]) -> None:
        super().__init__(index, Silent(), batch_rows=5)
        self.other = other

    def batches(self, start: int = 0):
        for number, batch in enumerate(super().batches(start)):
            if number == 1:
                self.other()
            yield batch


def test_the_later_one_stays_and_is_whole(index: Index, small: Index, url: str, server: Any, opened) -> None:
    def other() -> None:
        hand(small, url)
        assert held(server) == {target(index), target(small)}  # what is being written is not dropped
        assert_ranks_as(small, opened(url), QUERIES[:1], atol=2e-3)

    kind_of(url).open(url).write(Meanwhile(index, other))
    assert_holds(index, url, server, opened)


def test_both_may_move_the_names_at_the_same_moment(index: Index, small: Index, url: str, server: Any, opened) -> None:
    hand(documents_index_of(small, 5), url)
    waiting = [lambda: hand(small, url)]

    def gate(method: str, path: str, _: bytes) -> None:
        if method == "POST" and path.endswith("aliases") and waiting:
            waiting.pop()()

    server.gate = gate
    hand(index, url)
    assert_holds(index, url, server, opened)


def documents_index_of(index: Index, count: int) -> Index:
    """Another index, of fewer passages."""
    folder = index.stored.folder.parent / f"of-{count}"
    return documents_index(folder, Path(index.stored.model.name), count=count)


@pytest.mark.parametrize("swapped", [False, True])
def test_two_first_ones_at_the_same_moment_leave_one(
    index: Index, small: Index, url: str, server: Any, opened, swapped: bool
) -> None:
    first, second = (small, index) if swapped else (index, small)
    waiting = [lambda: hand(second, url)]
    server.gate = lambda how, path, _: (
        waiting.pop()() if how == "POST" and path.endswith("aliases") and waiting else None
    )
    hand(first, url)
    left = index if target(index) in held(server) else small
    assert_holds(left, url, server, opened)


def test_one_that_is_overtaken_at_its_end_gives_way(
    index: Index, small: Index, name: str, url: str, server: Any, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = import_module(f"embedfit.index.sinks.{name}.load")._Loader
    drop, waiting = loader._drop_others, [lambda: hand(small, url)]

    def overtaken(self: Any) -> None:
        if waiting:
            waiting.pop()()
        drop(self)

    monkeypatch.setattr(loader, "_drop_others", overtaken)
    said = Said()
    kind_of(url).open(url).write(IndexHandover(index, said))
    assert "another hand-over has put its rows" in said.lines[-1]
    assert_holds(small, url, server, opened)


def test_what_a_killed_load_left_is_dropped_when_it_is_old(
    index: Index, small: Index, url: str, server: Any, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(http.AtWork, "__exit__", lambda *_: None)
        kind_of(url).open(url).write(Breaking(index, 2))
    hand(small, url)
    assert held(server) == {target(index), target(small)}
    monkeypatch.setattr(http, "_ALIVE_SECONDS", -1)
    hand(small, url)
    assert_holds(small, url, server, opened)
