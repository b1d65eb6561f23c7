"""The choice of a query's hard negatives among its candidates."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from embedfit.numerics.arrays import Ints, Scores


def below_positive(scores: Scores, positive: float, max_relative_score: float) -> npt.NDArray[np.bool_]:
    """Candidates scoring at most max_relative_score × the positive (NV-Retriever, arXiv 2407.15831). scores: (K,).

    A passage that scores near the positive is more likely an unmarked answer than a mistake to learn from.
    """
    result: npt.NDArray[np.bool_] = scores <= max_relative_score * positive if positive > 0 else scores < positive
    return result


def select(
    candidates: Ints,
    scores: Scores,
    *,
    positive: float,
    excluded: Collection[int],
    count: int,
    max_relative_score: float,
    rng: np.random.Generator,
) -> list[int]:
    """Up to `count` hard negatives of one query, hardest first.

    candidates: (K,) passage numbers in falling order of their scores (K,). excluded: the positives and their
    near-duplicates. The negatives are drawn from the 2 × count hardest candidates that pass, so that queries of one
    passage do not all get the same ones.
    """
    allowed = below_positive(scores, positive, max_relative_score)
    passed = [
        int(candidate)
        for candidate, ok in zip(candidates, allowed, strict=True)
        if ok and int(candidate) not in excluded
    ]
    pool = passed[: 2 * count]
    if len(pool) <= count:
        return pool
    drawn = sorted(rng.choice(len(pool), size=count, replace=False))
    return [pool[place] for place in drawn]
