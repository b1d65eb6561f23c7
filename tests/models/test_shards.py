"""Shards of stored values: what is found, merged, deleted, and written by several processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.models.store import shards as module
from embedfit.models.store.shards import KEY_BYTES, Shards, StoredVectors, key_of, keys_of

KEYS = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES) | st.sampled_from([bytes(16), bytes(15) + b"a", b"a" * 16])
#: Batches of values by key, as they are added one after the other.
BATCHES = st.lists(st.dictionaries(KEYS, st.binary(max_size=20), max_size=6), max_size=30)
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fresh(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("shards")
    return Shards(folder / "one", folder / ".lock")


def held(shards: Shards, keys: list[bytes]) -> Mapping[bytes, bytes]:
    found = shards.find(keys_of(keys))
    missing = set(found.missing.tolist())
    present = [key for place, key in enumerate(keys) if place not in missing]
    return dict(zip(present, shards.find(keys_of(present)).values(), strict=True))


@QUICK
@given(batches=BATCHES, asked=st.lists(KEYS, max_size=4), gone=st.integers(0, 5))
def test_what_was_added_is_found_whatever_was_merged(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[bytes, bytes]], asked: list[bytes], gone: int
) -> None:
    shards, known = fresh(tmp_path_factory), dict[bytes, bytes]()
    for batch in batches:
        new = {key: value for key, value in batch.items() if key not in known}  # a key has one value
        shards.add(list(new), list(new.values()))
        known |= new
    assert held(shards, list(known)) == known
    assert held(shards, asked) == {key: known[key] for key in asked if key in known}
    assert held(Shards(shards.folder, shards.folder.parent / ".lock"), list(known)) == known
    deleted = list(known)[:gone]
    assert shards.delete(keys_of([*deleted, b"n" * 16]), dry=True) == len(deleted)
    assert shards.delete(keys_of([*deleted, b"n" * 16])) == len(deleted)
    assert held(shards, list(known)) == {key: known[key] for key in list(known)[gone:]}


def test_few_files_hold_many_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL", 3_000)
    shards = Shards(tmp_path / "one", tmp_path / ".lock")
    keys = [key_of("passage", f"text {number}") for number in range(90)]
    for key in keys:
        shards.add([key], [key * 6])
    sizes = [path.stat().st_size for path in shards.paths()]
    assert len(sizes) < 20
    assert max(sizes) < 2 * 3_000
    assert list(shards.find(keys_of(keys)).values()) == [key * 6 for key in keys]


def test_deleted_values_are_overwritten(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "one", tmp_path / ".lock")
    shards.add([b"k" * 16, b"l" * 16], [b"secret", b"public"])
    (path,) = shards.paths()
    still = path.open("rb")
    shards.delete(keys_of([b"k" * 16]))
    assert b"secret" not in still.read(), "the bytes of the old file"
    still.close()
    (path,) = shards.paths()
    assert b"k" * 16 not in path.read_bytes()


def test_a_damaged_shard_is_not_merged(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "one", tmp_path / ".lock")
    keys = [key_of("passage", str(number)) for number in range(9)]
    for key in keys[:7]:
        shards.add([key], [b"right"])
    path = shards.paths()[3]
    path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    for key in keys[7:]:
        shards.add([key], [b"right"])
    found = shards.find(keys_of(keys))
    assert len(found.missing) == 1
    assert set(held(shards, keys).values()) == {b"right"}


def _adds(folder: Path, first: int) -> None:
    shards = Shards(folder / "one", folder / ".lock")
    for number in range(first, first + 60, 3):
        keys = [key_of("passage", str(one)) for one in range(number, number + 3)]
        shards.add(keys, [key + bytes(16) for key in keys])
        found = shards.find(keys_of(keys))
        assert not len(found.missing)
        assert all(value[:16] == key for key, value in zip(keys, found.values(), strict=True))


def test_several_processes_add_and_merge(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_adds, args=(tmp_path, first)) for first in (0, 30, 60)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    keys = keys_of([key_of("passage", str(number)) for number in range(120)])
    shards = Shards(tmp_path / "one", tmp_path / ".lock")
    assert not len(shards.find(keys).missing)
    vectors = StoredVectors(shards.find(keys))
    assert vectors.shape == (120, 8)
    np.testing.assert_array_equal(vectors[:].view("S16")[:, 0], keys)
