"""Two rankings made one: reciprocal rank fusion and weighted sums of normalised scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]

#: Added to a rank before it divides: the first ranks must not outweigh all others.
RANK_CONSTANT = 60
#: The dense scores' part beside BM25's, of one vector a passage and of one for every window: windows find far more
#: alone, and with people's queries their best part was .7 or near it on three corpora of four (docs/recipe.md).
DENSE_WEIGHT = 0.5
WINDOWED_WEIGHT = 0.7


def parts_of(setting: Mapping[str, Any], *, windowed: bool = False) -> tuple[str, float]:
    """Method and weight of the dense scores that merge.json names; where it names none, even reciprocal ranks.

    windowed: of dense scores that are the best of a passage's windows, which may have a weight of their own.
    """
    weight = setting.get("weight", DENSE_WEIGHT)
    if windowed:
        weight = setting.get("windowed_weight", weight)
    return str(setting.get("method", "reciprocal_rank")), float(weight)


def ranks(scores: Scores) -> npt.NDArray[np.int64]:
    """1-based rank of every passage. scores: (..., N); ties by lower id."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    result = np.empty(scores.shape, np.int64)
    np.put_along_axis(result, order, np.arange(1, scores.shape[-1] + 1), -1)
    return result


def reciprocals(scores: Scores, *, weight: float = 1.0, k: int = RANK_CONSTANT) -> npt.NDArray[np.float64]:
    """Weight / (k + rank) of every passage (Cormack, Clarke and Büttcher, SIGIR 2009). scores: (..., N)."""
    result: npt.NDArray[np.float64] = weight / (k + ranks(scores))
    return result


def reciprocal_rank(dense: Scores, lexical: Scores, *, weight: float = 0.5, k: int = RANK_CONSTANT) -> Scores:
    """Fused score: weight / (k + dense rank) + (1 - weight) / (k + lexical rank). Scores and result: (..., N).

    Cormack, Clarke and Büttcher, SIGIR 2009, with a weight. A passage that BM25 does not match at
    all (score 0) has no lexical rank: it must not gain by its place in the corpus. A passage that is left out
    (dense score -inf) stays so.
    """
    lexical_part = np.where(lexical > 0, reciprocals(lexical, k=k), 0.0)
    fused = reciprocals(dense, weight=weight, k=k) + (1 - weight) * lexical_part
    result: Scores = np.where(np.isneginf(dense), -np.inf, fused).astype(np.float32)
    return result


def standardised(scores: Scores) -> Scores:
    """Scores with mean 0 and deviation 1 over the passages of a query; zeros where all are equal. (..., N).

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
