"""Scores and vectors for those who have rankings and texts of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedfit

PASSAGES = st.lists(st.integers(0, 9), max_size=8)


@given(st.lists(st.tuples(PASSAGES, PASSAGES), max_size=4))
def test_a_score_is_between_0_and_1_or_refused(rows):
    rankings, relevant = [list(row[0]) for row in rows], [set(row[1]) for row in rows]
    names = ["ndcg@10", "hit@1", "recall@3", "map@5", "mrr@10", "precision@2"]
    if not rows or any(len(set(ranking)) != len(ranking) for ranking in rankings):
        with pytest.raises(ValueError, match=r"no query|holds a passage twice"):
            embedfit.evaluate(rankings, relevant, names)
        return
    assert all(0 <= value <= 1 + 1e-9 for value in embedfit.evaluate(rankings, relevant, names).values())


def test_one_string_is_one_text(tiny_bert):
    assert np.array_equal(embedfit.encode(str(tiny_bert), "a text"), embedfit.encode(str(tiny_bert), ["a text"]))
