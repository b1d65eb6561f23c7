"""The best of many scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedfit.numerics.ranking import best, ranks

SCORES = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.sampled_from([-np.inf, 0, 1, 2]))


@given(SCORES, st.integers(0, 8))
def test_the_best_are_the_beginning_of_a_stable_sort(scores: np.ndarray, k: int) -> None:
    np.testing.assert_array_equal(best(scores, k), np.argsort(-scores, axis=-1, kind="stable")[..., :k])


@given(SCORES)
def test_the_rank_of_the_nth_best_is_n(scores: np.ndarray) -> None:
    order = np.take_along_axis(ranks(scores), best(scores, scores.shape[-1]), -1)
    np.testing.assert_array_equal(order, np.broadcast_to(np.arange(1, scores.shape[-1] + 1), scores.shape))


def test_no_score_has_no_best() -> None:
    assert best(np.zeros((2, 0), np.float32), 3).shape == (2, 0)
    assert best(np.zeros((0, 4), np.float32), 3).shape == (0, 3)
