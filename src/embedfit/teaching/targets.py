"""The targets of corpus distillation: for each query a distribution over passages that the student's softmax learns.

Hinton et al. 2015 (arXiv 1503.02531) distil a classifier in this way. A part of each target goes to the passages that
are known to answer the query: the one that its writer saw, or those that a judge graded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embedfit.numerics.arrays import Floats, Ints
from embedfit.teaching.scores import TeacherScores

#: Passages that are known to answer a query, and how well each does, above 0.
Labels = Mapping[int, float]


def targets(rows: Ints, scores: TeacherScores, labels: Sequence[Labels], *, temperature: float, share: float) -> Floats:
    """Target probabilities of some queries' columns: (B, K), each row with sum 1.

    rows: (B,) numbers of queries. labels: of all Q queries. temperature: divides the teacher's scores before their
    softmax. share: the part of a target, 0 to 1, that its labels get by their weights; a query without a label in its
    columns has the teacher alone.
    """
    taught = scores.scores[rows].astype(np.float64) / temperature
    taught = np.exp(taught - taught.max(1, keepdims=True))
    result = taught / taught.sum(1, keepdims=True)
    for place, row in enumerate(rows.tolist()):
        known = labels[row] if share else {}
        at = [(column, weight) for passage, weight in known.items() if (column := _column(scores, row, passage)) >= 0]
        whole = sum(weight for _, weight in at)
        if whole <= 0:
            continue
        result[place] *= 1 - share
        for column, weight in at:
            result[place, column] += share * weight / whole
    found: Floats = result.astype(np.float32)
    return found


def _column(scores: TeacherScores, row: int, passage: int) -> int:
    """The column of a passage; -1 if the row does not hold it."""
    if scores.whole:
        return passage
    found = np.flatnonzero(scores.columns[row] == passage)
    return int(found[0]) if len(found) else -1


def common_columns(rows: Ints, scores: TeacherScores, values: Floats) -> tuple[Ints, Floats]:
    """The union of some queries' columns, (P,) ascending, and `values` over it: (B, P), NaN where a row has none.

    rows: (B,) numbers of queries; values: (B, K), by each row's own columns.
    """
    if scores.whole:
        return np.arange(scores.columns.shape[1], dtype=np.int64), values
    own = scores.columns[rows]
    union, place = np.unique(own, return_inverse=True)
    spread = np.full((len(rows), len(union)), np.nan, np.float32)
    np.put_along_axis(spread, place.reshape(own.shape), values, 1)
    return union.astype(np.int64), spread
