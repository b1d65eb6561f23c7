"""Draws the questions to judge from many: some of every kind, in the shares in which people ask them."""

from __future__ import annotations

import numpy as np

from embedfit.numerics.arrays import Floats, Ints

_ROUNDS = 12
#: Two questions with at least this cosine ask the same, so only one of them is judged.
ALIKE = 0.95


def clusters(vectors: Floats, count: int, *, rng: np.random.Generator) -> Ints:
    """k-means from k-means++ (Arthur and Vassilvitskii 2007): the cluster of each row. vectors: (N, H) unit rows.

    Returns (N,) numbers below min(count, N).
    """
    centres = vectors[_spread(vectors, min(count, len(vectors)), rng)]
    own = np.zeros(len(vectors), np.int64)
    for _ in range(_ROUNDS):
        before, own = own, (vectors @ centres.T).argmax(1)
        if (before == own).all():
            break
        sums = np.zeros_like(centres)
        np.add.at(sums, own, vectors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-9), centres)
    return own


def _spread(vectors: Floats, count: int, rng: np.random.Generator) -> list[int]:
    """The numbers of the first centres. Each is drawn with a chance by its squared distance to those before it."""
    chosen = [int(rng.integers(len(vectors)))]
    distances = np.maximum(1.0 - vectors @ vectors[chosen[0]], 0.0).astype(np.float64)
    while len(chosen) < count:
        total = distances.sum()
        if total <= 0:  # all others are equal to one that is chosen
            chosen += [row for row in range(len(vectors)) if row not in set(chosen)][: count - len(chosen)]
            break
        row = int(rng.choice(len(vectors), p=distances / total))
        chosen.append(row)
        distances = np.minimum(distances, np.maximum(1.0 - vectors @ vectors[row], 0.0))
    return chosen


def drawn(vectors: Floats, times: Ints, count: int, *, rng: np.random.Generator) -> Ints:
    """At most `count` rows to judge, ascending. vectors: (N, H) unit rows; times: (N,) how often each was asked.

    Systematic sampling (Madow 1949) over the rows in the order of their clusters: each cluster gets places by its share
    of all times asked, and a frequent question is drawn only once. Only one of several rows that are ALIKE is drawn,
    unless there are too few others.
    """
    every = np.lexsort((np.arange(len(vectors)), clusters(vectors, count, rng=rng)))
    order, limit = every, ALIKE
    taken: list[int] = []
    while len(taken) < min(count, len(vectors)):
        if not len(order):
            order, limit = np.setdiff1d(every, taken), np.inf
        wanted = count - len(taken)
        ends = np.cumsum(times[order], dtype=np.float64)
        points = (np.arange(wanted) + rng.random()) * ends[-1] / wanted
        for row in order[np.unique(np.searchsorted(ends, points, side="right").clip(max=len(order) - 1))].tolist():
            if not taken or float((vectors[taken] @ vectors[row]).max()) < limit:
                taken.append(row)
        alike = (vectors[order] @ vectors[taken].T).max(1) >= limit
        order = order[~(alike | np.isin(order, taken))]
    return np.sort(np.array(taken, np.int64))
