"""The quality of a ranking by grades of 0 to 3. Some of its passages may have no grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: The gain of a passage of each grade. A passage on the same subject without an answer has no gain.
GAINS = (0.0, 0.0, 1.0, 3.0)
#: A passage with at least this grade answers the question in full or in part.
ANSWERS = 2


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """NDCG@k of one ranking, best first, over the passages that have a grade (0 to 3).

    Passages without a grade are taken out of the list, and those behind them move up. Such condensed lists order
    systems better than counting ungraded passages as wrong (Sakai, "Alternatives to Bpref", SIGIR 2007).
    DCG = Σ gain / log2(rank + 1); the best possible one is over all graded passages of the question.
    """
    known = [GAINS[grades[passage]] for passage in ranking if passage in grades][:k]
    best = _dcg(sorted((GAINS[grade] for grade in grades.values()), reverse=True)[:k])
    return _dcg(known) / best if best else 0.0


def _dcg(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, 1)))


def ungraded(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> int:
    """The number of the first k passages without a grade."""
    return sum(passage not in grades for passage in ranking[:k])


def can_tell(grades: Mapping[str, int]) -> bool:
    """Whether a question's grades can order rankings: whether any passage answers it."""
    return any(grade >= ANSWERS for grade in grades.values())


def weighted_kappa(first: Sequence[int], second: Sequence[int], *, levels: int = len(GAINS)) -> float:
    """Agreement of two gradings of the same passages beyond chance: 1 is full agreement, 0 is that of chance.

    Cohen's kappa with quadratic weights (Cohen 1968). Two gradings that never differ have 1, even if chance would give
    the same.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} grades and {len(second)}")
    counts = np.zeros((levels, levels))
    np.add.at(counts, (np.asarray(first), np.asarray(second)), 1.0)
    steps = np.arange(levels)
    weights = (steps[:, None] - steps[None, :]) ** 2
    seen = float((weights * counts).sum())
    expected = float((weights * np.outer(counts.sum(1), counts.sum(0))).sum() / counts.sum())
    return 1.0 - seen / expected if seen else 1.0
