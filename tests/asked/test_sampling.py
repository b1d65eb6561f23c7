"""Questions that judge: some of every kind, by how often people ask them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfit.asked.sampling import clusters, drawn


def blobs(sizes, *, dimensions=16, spread=0.02, seed=0):
    """Unit rows around one axis each, and which axis."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.eye(dimensions, dtype=np.float32)[kind] + rng.normal(0, spread, (len(kind), dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), kind


def test_clusters_are_the_kinds():
    vectors, kind = blobs([30, 5, 60])
    found = clusters(vectors, 3, rng=np.random.default_rng(1))
    assert len({(int(a), int(b)) for a, b in zip(found, kind, strict=True)}) == 3


def test_every_kind_has_its_share():
    vectors, kind = blobs([120, 40, 40], spread=0.15)
    chosen = drawn(vectors, np.ones(200, np.int64), 10, rng=np.random.default_rng(0))
    counts = np.bincount(kind[chosen], minlength=3)
    assert len(chosen) == 10 and counts[0] in (5, 6, 7) and min(counts) >= 1


def test_how_often_a_question_was_asked_counts():
    vectors, kind = blobs([50, 50], spread=0.15)
    times = np.where(kind == 0, 9, 1)
    chosen = drawn(vectors, times, 20, rng=np.random.default_rng(0))
    assert np.count_nonzero(kind[chosen] == 0) > 14


def test_a_question_that_fills_the_log_is_taken_once():
    vectors, _ = blobs([1] * 12)
    chosen = drawn(vectors, np.array([1000] + [1] * 11), 8, rng=np.random.default_rng(0))
    assert 0 in chosen and len(set(chosen.tolist())) == 8


def test_of_questions_that_ask_the_same_one_is_taken():
    vectors, kind = blobs([40, 40, 40], spread=0.001)
    ones = np.ones(120, np.int64)
    assert sorted(kind[drawn(vectors, ones, 3, rng=np.random.default_rng(0))]) == [0, 1, 2]
    assert len(drawn(vectors, ones, 30, rng=np.random.default_rng(0))) == 30, "unless there are too few others"


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_rows_are_distinct_and_a_seed_gives_the_same(size, count, seed):
    rng = np.random.default_rng(size)
    vectors = rng.normal(size=(size, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    times = rng.integers(1, 50, size)
    first = drawn(vectors, times, count, rng=np.random.default_rng(seed))
    assert (first == drawn(vectors, times, count, rng=np.random.default_rng(seed))).all()
    assert len(set(first.tolist())) == len(first) == min(count, size)
    assert (np.diff(first) > 0).all()
