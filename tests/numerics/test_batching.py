"""Batches by length, and padding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfit.numerics.batching import batches_by_length, pad


@given(lengths=st.lists(st.integers(0, 50), max_size=40), budget=st.integers(1, 200), overhead=st.none() | st.just(30))
def test_batches_hold_every_text_once_and_keep_the_budget(
    lengths: list[int], budget: int, overhead: int | None
) -> None:
    batches = list(batches_by_length(lengths, budget, overhead=overhead))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[index] for index in batch]
        assert len(batch) == 1 or len(batch) * max(sizes) <= budget
        assert overhead is None or sum(max(sizes) - size for size in sizes[:-1]) <= overhead
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(rows=st.lists(st.lists(st.integers(5, 9), max_size=6), min_size=1, max_size=5))
def test_padded_rows_are_the_rows_and_nothing_else(rows: list[list[int]]) -> None:
    for given_rows in (rows, [np.array(row, np.int32) for row in rows]):
        ids, mask = pad(given_rows, 1)
        assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
        assert [line[kept == 1].tolist() for line, kept in zip(ids, mask, strict=True)] == rows
        assert (ids[mask == 0] == 1).all() and mask.sum(1).tolist() == [len(row) for row in rows]
