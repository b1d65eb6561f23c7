"""Fusion of several rankings into one, by reciprocal ranks or by weighted sums of standardised scores."""

from __future__ import annotations

import numpy as np

from embedfit.numerics.arrays import Doubles, Scores
from embedfit.numerics.ranking import ranks

#: Added to each rank, so that the first ranks don't outweigh all others.
RANK_CONSTANT = 60


def reciprocals(scores: Scores, *, weight: float = 1.0, k: int = RANK_CONSTANT) -> Doubles:
    """Weight / (k + rank) of every passage (Cormack, Clarke and Büttcher, SIGIR 2009). scores: (..., N)."""
    result: Doubles = weight / (k + ranks(scores))
    return result


def standardised(scores: Scores) -> Scores:
    """Scores with mean 0 and deviation 1 over the passages of a query, or zeros if all are equal: (..., N).

    Passages that are left out (-inf) stay so and don't count.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        rows, kept = scores.reshape(-1, scores.shape[-1]), finite.reshape(-1, scores.shape[-1])
        result = np.full(rows.shape, -np.inf, np.float32)
        for row, own in enumerate(kept):
            if own.any():
                result[row, own] = standardised(rows[row, own])
        return result.reshape(scores.shape)
    mean = scores.mean(-1, keepdims=True)
    deviation = scores.std(-1, keepdims=True)
    scaled: Scores = np.where(deviation > 1e-9, (scores - mean) / np.maximum(deviation, 1e-9), 0.0).astype(np.float32)
    return scaled


def weighted_sum(dense: Scores, lexical: Scores, *, weight: float = 0.5) -> Scores:
    """Fused score: weight × standardised dense + (1 - weight) × standardised lexical. Scores and result: (..., N).

    A passage that is left out of both (-inf) stays so.
    """
    left_out = np.isneginf(dense)
    parts = (np.where(left_out, np.float32(0), standardised(scores)) for scores in (dense, lexical))
    fused = weight * next(parts) + (1 - weight) * next(parts)
    result: Scores = np.where(left_out, -np.inf, fused).astype(np.float32)
    return result
