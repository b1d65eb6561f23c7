"""Files of shards: whole or absent, named by content, the same whoever writes them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.errors import EmbedfitError
from embedfit.scale.shards import FolderShards, name_of

PARTS = st.lists(st.one_of(st.text(max_size=8), st.binary(max_size=8)), max_size=4)


def _bytes(parts: list[str | bytes]) -> list[bytes]:
    return [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts]


@given(PARTS, PARTS)
def test_only_equal_parts_have_one_name(first: list[str | bytes], second: list[str | bytes]) -> None:
    assert (name_of(*first) == name_of(*second)) == (_bytes(first) == _bytes(second))


def test_a_shard_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    shards, name = FolderShards(tmp_path), name_of("a")
    with pytest.raises(ZeroDivisionError), shards.writing(name) as file:
        file.write(b"half")
        assert not shards.has(name)
        raise ZeroDivisionError
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    shards.write(name, b"whole")
    shards.write(name, b"is not written again")
    assert shards.read(name) == b"whole" and shards.has(name)


def test_many_writers_of_one_shard_leave_one_whole_file(tmp_path: Path) -> None:
    shards, name, data = FolderShards(tmp_path), name_of("a"), b"x" * 1_000_000
    writers = [threading.Thread(target=shards.write, args=(name, data)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [shards.path(name)]
    assert shards.read(name) == data


def test_a_full_disk_is_an_error_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EmbedfitError, match="is full"):
        FolderShards(tmp_path).write("ab", b"data")
    assert not FolderShards(tmp_path).has("ab")
