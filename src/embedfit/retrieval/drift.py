"""Whether two samples of vectors come from one distribution, and whether scores have fallen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedfit.numerics.arrays import Doubles, Floats

#: Permutations of the two-sample test. Its smallest p is one in so many and one.
PERMUTATIONS = 999
#: A question is found badly if its best passage scores below this share of the old questions.
LOW_SHARE = 0.05
#: Deviations of a normal distribution outside of which 1.67% of it lie, a third of 5%.
_DEVIATIONS = 2.394


@dataclass(frozen=True, slots=True, kw_only=True)
class Lower:
    """The share of new scores below the old ones' LOW_SHARE quantile. excess: that share minus the old one's.

    interval: of the excess, 98.3% (Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 1998, method 10), so that it knows how few old and new scores there are.
    """

    threshold: float
    share: float
    old_share: float
    interval: tuple[float, float]

    @property
    def has_fallen(self) -> bool:
        """Whether the interval lies above 0."""
        return self.interval[0] > 0


def two_sample_p(old: Floats, new: Floats, *, rng: np.random.Generator, permutations: int = PERMUTATIONS) -> float:
    """The p-value of "old and new come from one distribution". old: (N, H), new: (M, H); both at least 2 rows.

    A permutation test of the maximum mean discrepancy with a Gaussian kernel, whose width is the median distance
    (Gretton and others, "A kernel two-sample test", JMLR 2012). It is valid for every number of rows.
    """
    rows = np.concatenate([old, new]).astype(np.float64)
    squares = np.maximum((rows**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * rows @ rows.T, 0)
    apart = squares[np.triu_indices(len(rows), 1)]
    kernel = np.exp(-squares / max(2 * float(np.median(apart)), 1e-12))
    weights = np.concatenate([np.full(len(old), 1 / len(old)), np.full(len(new), -1 / len(new))])
    observed = float(weights @ kernel @ weights)
    shuffled = rng.permuted(np.tile(weights, (permutations, 1)), axis=1)
    found: Doubles = ((shuffled @ kernel) * shuffled).sum(1)
    return (1 + int((found >= observed - 1e-12).sum())) / (1 + permutations)


def lower(old: Floats, new: Floats) -> Lower:
    """How many new scores (M,) are as low as the lowest old ones (N,)."""
    threshold = float(np.quantile(old, LOW_SHARE))
    before, after = int((old < threshold).sum()), int((new < threshold).sum())
    share, old_share = after / len(new), before / len(old)
    low, high = _wilson(after, len(new))
    old_low, old_high = _wilson(before, len(old))
    excess = share - old_share
    return Lower(
        threshold=threshold,
        share=share,
        old_share=old_share,
        interval=(
            excess - float(np.hypot(share - low, old_high - old_share)),
            excess + float(np.hypot(high - share, old_share - old_low)),
        ),
    )


def _wilson(count: int, of: int, z: float = _DEVIATIONS) -> tuple[float, float]:
    """The interval of a share (Wilson 1927)."""
    share, wide = count / of, z * z / of
    middle, half = share + wide / 2, z * float(np.sqrt(share * (1 - share) / of + wide / (4 * of)))
    return (middle - half) / (1 + wide), (middle + half) / (1 + wide)
