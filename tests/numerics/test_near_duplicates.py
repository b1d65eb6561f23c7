"""Near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.numerics import near_duplicates
from embedfit.numerics.near_duplicates import close_pairs, clusters, jaccard, runs

CODES = st.lists(st.integers(0, 5), max_size=12)


def hashes(codes: list[int], width: int) -> np.ndarray:
    return runs(np.array(codes, np.uint64), width)


@given(CODES, st.integers(1, 5))
def test_a_text_is_the_set_of_its_runs(codes: list[int], width: int) -> None:
    size = max(1, min(width, len(codes)))
    distinct = {tuple(codes[start : start + size]) for start in range(len(codes) - size + 1)} or {()}
    assert len(hashes(codes, width)) == len(distinct)


@given(CODES, CODES, st.integers(1, 5))
def test_the_jaccard_index_is_that_of_the_sets(one: list[int], other: list[int], width: int) -> None:
    left, right = hashes(one, width), hashes(other, width)
    both, either = set(left.tolist()) & set(right.tolist()), set(left.tolist()) | set(right.tolist())
    assert jaccard(left, right) == len(both) / len(either)


@given(st.lists(CODES, max_size=8))
def test_equal_texts_are_one_cluster_and_texts_without_a_common_run_are_two(texts: list[list[int]]) -> None:
    sets = [hashes(text, 3) for text in texts]
    found = clusters(sets)
    for row, first in enumerate(found):
        assert first <= row and found[first] == first
        equal = [other for other in range(row) if np.array_equal(sets[other], sets[row])]
        assert all(found[other] == first for other in equal)


def test_close_pairs_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((1500, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 0)
    every = list(zip(*(a.tolist() for a in np.nonzero(cosines >= 0.999)), strict=True))
    monkeypatch.setattr(near_duplicates, "_COLUMNS", 700)
    assert sorted(close_pairs(vectors, 0.999)) == every
    some = np.arange(3, 1500, 5)
    assert sorted(close_pairs(vectors, 0.999, some)) == [(a, b) for a, b in every if a % 5 == 3]
