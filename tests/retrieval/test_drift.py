"""The two-sample test and the share of low scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.retrieval.drift import lower, two_sample_p


def rows(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((count, 8)) + shift
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_equal_distributions_are_rejected_as_rarely_as_the_level_says():
    found = [two_sample_p(rows(2 * seed, 15), rows(2 * seed + 1, 25), rng=np.random.default_rng(seed), permutations=99)
             for seed in range(200)]  # fmt: skip
    assert np.mean(np.array(found) <= 0.1) <= 0.16  # 0.1, and more than three deviations
    assert 0.35 < np.mean(np.array(found) <= 0.5) < 0.65


def test_another_distribution_is_seen():
    p = two_sample_p(rows(0, 60), rows(1, 60, shift=1.0), rng=np.random.default_rng(0))
    assert p == pytest.approx(1 / 1000)


@given(seed=st.integers(0, 1_000), old=st.integers(2, 12), new=st.integers(2, 12))
@settings(max_examples=20)
def test_neither_the_order_nor_a_rotation_matters(seed, old, new):
    one, other = rows(seed, old), rows(seed + 1, new)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0].astype(np.float32)
    p = two_sample_p(one, other, rng=np.random.default_rng(0))
    assert 0 < p <= 1
    assert two_sample_p(one @ turn, other @ turn, rng=np.random.default_rng(0)) == pytest.approx(p, abs=0.02)


def test_equal_texts_differ_from_nothing():
    same = np.ones((5, 8), np.float32)
    assert two_sample_p(same, same[:3], rng=np.random.default_rng(0)) == 1


def test_the_interval_is_newcombes():
    """The interval of 10 of 50 against 5 of 100, worked out by hand from Wilson's limits."""
    old = np.arange(100, dtype=np.float32)
    found = lower(old, np.concatenate([np.full(10, -1), np.full(40, 50)]).astype(np.float32))
    assert (found.share, found.old_share) == (0.2, 0.05)
    assert found.interval == pytest.approx((0.0207, 0.3159), abs=1e-3)


def test_scores_that_fell_are_seen_and_a_few_are_not():
    old = np.random.default_rng(0).normal(0.7, 0.05, 200).astype(np.float32)
    assert lower(old, old - np.float32(0.1)).has_fallen
    assert not lower(old, old[:100]).has_fallen
    assert not lower(old, np.array([0.1] + 9 * [0.7], np.float32)).has_fallen
