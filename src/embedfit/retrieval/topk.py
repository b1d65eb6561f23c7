"""Exact nearest passages by inner product, in blocks that fit the memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


def top_k(queries: Vectors, passages: Vectors, k: int, *, block: int = 65_536) -> tuple[Ids, Scores]:
    """The k best passages of each query: ids (Q, k) and scores (Q, k), best first, ties by lower id.

    queries: (Q, H); passages: (N, H). Only Q × (block + k) scores are held at a time.
    """
    k = min(k, len(passages))
    best_ids = np.zeros((len(queries), 0), np.int64)
    best_scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(passages), block):
        scores = queries @ passages[start : start + block].T
        ids = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        # Earlier blocks come first, so that a stable order breaks ties by the lower id.
        scores = np.concatenate([best_scores, scores], axis=1)
        ids = np.concatenate([best_ids, ids], axis=1)
        order = _largest(scores, k)
        best_scores = np.take_along_axis(scores, order, 1)
        best_ids = np.take_along_axis(ids, order, 1)
    return best_ids, best_scores


def _largest(scores: Scores, k: int) -> Ids:
    """Columns of the k largest of each row, best first, ties by lower column. scores: (Q, M)."""
    if k < scores.shape[1]:
        # The k-th largest value of each row; everything above it is in, and of its equals the first ones.
        threshold = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        above = scores > threshold
        equal = scores == threshold
        room = k - above.sum(1, keepdims=True)
        chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
        columns = np.nonzero(chosen)[1].reshape(len(scores), k)
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    values = np.take_along_axis(scores, columns, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    result: Ids = np.take_along_axis(columns, order, 1)
    return result
