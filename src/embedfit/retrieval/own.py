"""Queries that are passages themselves: a query's own passage is left out of its ranking.

In ArguAna, Quora and other sets of BEIR a query is a text of the corpus and has its id there. Every model would find
it first. BEIR leaves out a result whose id is the query's before it scores (`ignore_identical_ids`), whether or not it
is judged relevant, and so does every ranking here that is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedfit.numerics.arrays import Ints, Scores


def own_passages(query_ids: Sequence[str], passage_ids: Sequence[str]) -> Ints:
    """The number of the passage that has a query's id, -1 where none has. (Q,)."""
    number = {passage_id: row for row, passage_id in enumerate(passage_ids)}
    return np.array([number.get(query_id, -1) for query_id in query_ids], np.int64)


def without_own(scores: Scores, own: Ints | None) -> Scores:
    """Scores with -inf for each query's own passage, which no ranking lists. scores: (Q, N); own: (Q,)."""
    if own is None or not (own >= 0).any():
        return scores
    rows = np.flatnonzero(own >= 0)
    result = scores.copy()
    result[rows, own[rows]] = -np.inf
    return result
