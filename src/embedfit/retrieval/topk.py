"""Exact nearest passages by inner product, in blocks that fit the memory."""

from __future__ import annotations

import numpy as np

from embedfit.numerics.arrays import Ints, Scores, Vectors
from embedfit.numerics.ranking import best


def top_k(queries: Vectors, passages: Vectors, k: int, *, block: int = 65_536) -> tuple[Ints, Scores]:
    """The k best passages of each query: ids (Q, k) and scores (Q, k), best first, ties by lower id.

    queries: (Q, H); passages: (N, H). Only Q × (block + k) scores are held at a time.
    """
    best_ids = np.zeros((len(queries), 0), np.int64)
    best_scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(passages), block):
        scores = queries @ passages[start : start + block].T
        ids = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        # Earlier blocks stay in front, so that equal scores keep the order of their ids.
        scores = np.concatenate([best_scores, scores], axis=1)
        ids = np.concatenate([best_ids, ids], axis=1)
        order = best(scores, k)
        best_scores = np.take_along_axis(scores, order, 1)
        best_ids = np.take_along_axis(ids, order, 1)
    return best_ids, best_scores
