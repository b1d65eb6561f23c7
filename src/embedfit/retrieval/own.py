"""Leaves a query's own passage out of its ranking, if the query is itself a passage.

In ArguAna, Quora and other sets of BEIR a query is a text of the corpus and has the same id there. Every model would
find that passage first. Before scoring, BEIR leaves out a result with the query's id (`ignore_identical_ids`), even if
it is judged relevant. So does every scored ranking here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedfit.numerics.arrays import Ints, Scores


def own_passages(query_ids: Sequence[str], passage_ids: Sequence[str]) -> Ints:
    """The number of the passage that has a query's id, -1 if none has: (Q,)."""
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
