"""The best of many scores, equal ones in a fixed order."""

from __future__ import annotations

import math

import numpy as np

from embedfit.numerics.arrays import Doubles, Ints, Scores


def best(scores: Scores | Doubles, k: int) -> Ints:
    """Columns of the k highest scores of each row, best first, equal ones by ascending column.

    scores: (..., N) without NaN; returns (..., min(k, N)).
    """
    count = scores.shape[-1]
    k = min(k, count)
    rows = scores.reshape(math.prod(scores.shape[:-1]), count)
    found = np.empty((len(rows), k), np.int64)
    for row in range(len(rows) if k else 0):
        values = rows[row]
        candidates = np.flatnonzero(values >= np.partition(values, count - k)[count - k]) if k < count else None
        falling = -(values if candidates is None else values[candidates])
        order = np.argsort(falling, kind="stable")[:k]
        found[row] = order if candidates is None else candidates[order]
    return found.reshape(*scores.shape[:-1], k)


def ranks(scores: Scores | Doubles) -> Ints:
    """1-based rank of every column, equal scores by ascending column. (..., N)."""
    order = best(scores, scores.shape[-1])
    result = np.empty(scores.shape, np.int64)
    np.put_along_axis(result, order, np.arange(1, scores.shape[-1] + 1), -1)
    return result
