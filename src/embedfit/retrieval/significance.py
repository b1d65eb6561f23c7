"""The certainty of a mean over queries: intervals, a test of a difference, and the smallest detectable difference.

Queries of one document share its wording and its difficulty, so they are not independent. Resamples and tests draw and
flip whole clusters (documents, or passages if documents are few), never single queries.

All functions take values of Q queries in M columns (metrics × systems) at once, and one `rng` of draws
serves all columns: intervals of two systems come from the same resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from embedfit.numerics.arrays import Doubles, Ints

ClusterBy = Literal["document", "passage"]

#: With fewer documents than this, an interval over documents says little, so passages are the clusters.
MIN_DOCUMENTS = 10

#: With fewer clusters than this, the percentiles of their resamples are too narrow an interval.
FEW_CLUSTERS = 10

_BLOCK = 4_000_000  # random numbers held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The difference a - b of two systems' means over the same queries.

    ci95: cluster bootstrap. p_value: two-sided paired randomisation test. detectable: the true difference
    that this set of queries would show as significant (5%) in four of five repetitions.
    """

    delta: float
    ci95: tuple[float, float]
    p_value: float
    queries: int
    clusters: int
    detectable: float


def clusters_of(documents: Sequence[str], passages: Sequence[str]) -> tuple[Ints, ClusterBy]:
    """The cluster of each query, from the document and passage that answer it.

    Returns (Q,) numbers from 0, and the kind of cluster: documents if there are at least MIN_DOCUMENTS of them and they
    group passages, else passages.
    """
    found = len(set(documents))
    # With as many documents as passages, each passage is its own document; "documents" would promise too much.
    by: ClusterBy = "document" if MIN_DOCUMENTS <= found < len(set(passages)) else "passage"
    return number(documents if by == "document" else passages), by


def number(labels: Sequence[str]) -> Ints:
    """Labels as numbers from 0, in order of first appearance. (Q,)."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def bootstrap_means(values: Doubles, clusters: Ints, *, draws: int, rng: np.random.Generator) -> Doubles:
    """Means over queries when clusters are drawn with replacement. (draws, M).

    values: (Q, M); clusters: (Q,) numbers from 0. A cluster weighs as many queries as it has.
    """
    sums, sizes = _cluster_sums(values, clusters)
    count = len(sizes)
    means = np.empty((draws, values.shape[1]))
    for start, stop in _blocks(draws, count):
        times = rng.multinomial(count, np.full(count, 1 / count), size=stop - start).astype(np.float64)
        means[start:stop] = (times @ sums) / (times @ sizes)[:, None]
    return means


def interval(means: Doubles, clusters: int, *, bounds: tuple[float, float], level: float = 0.95) -> Doubles:
    """The interval of each column of bootstrap means. (M, 2).

    It consists of percentiles, widened for few clusters as Student's t is (Hesterberg, "What Teachers Should Know
    about the Bootstrap", 2015, section 5.3: plain percentiles are too narrow by √((n-1)/n) and by t/z). Fewer than
    FEW_CLUSTERS clusters have too few different resamples for that; their interval is Student's t around the mean.
    bounds: the least and the greatest possible mean, which are the interval of a single cluster.
    """
    if clusters < 2:
        return np.tile(np.array(bounds, dtype=np.float64), (means.shape[1], 1))
    reach = np.sqrt(clusters / (clusters - 1)) * student_quantile(0.5 + level / 2, clusters - 1)
    if clusters < FEW_CLUSTERS:
        centre, half = means.mean(0), reach * means.std(0)
        few: Doubles = np.clip(np.stack([centre - half, centre + half], axis=1), *bounds)
        return few
    tail = NormalDist().cdf(-reach)
    result: Doubles = np.quantile(means, [tail, 1 - tail], axis=0).T
    return result


def randomisation_p(values: Doubles, clusters: Ints, *, draws: int, rng: np.random.Generator) -> Doubles:
    """Two-sided p-value of each column's mean difference being zero. (M,), in (0, 1].

    values: (Q, M) differences between two systems. If the systems were equal, swapping them would change nothing. So
    the test draws `draws` times whether each cluster's differences together keep or change their sign. One is added to
    the count and to the number of draws, because the observed assignment is one of the possible ones (Davison and
    Hinkley 1997, section 4.2.5), so p is never 0. The test is symmetric: values and -values give the same p.
    """
    sums, _ = _cluster_sums(values, clusters)
    observed = np.abs(sums.sum(0))
    threshold = observed - 1e-9 * np.maximum(observed, np.abs(sums).max(0, initial=0.0))  # sums in another order
    extreme = np.zeros(values.shape[1])
    for start, stop in _blocks(draws, len(sums)):
        signs = rng.integers(0, 2, size=(stop - start, len(sums)), dtype=np.int8) * 2.0 - 1.0
        extreme += (np.abs(signs @ sums) >= threshold).sum(0)
    result: Doubles = (1 + extreme) / (1 + draws)
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for so many tests at once, in their order (Holm, Scandinavian Journal of Statistics 1979).

    The smallest is multiplied by the number of tests, the next by one less, and so on; none falls below the one before.
    If all below 5% count as differences, the chance that any of them is none is at most 5%, whatever the tests share.
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = highest
    return corrected


def detectable_difference(means: Doubles, clusters: int) -> Doubles:
    """The smallest true difference found significant at 5% in four of five comparisons. (M,).

    It is (t of that level + t of that power) × standard error. means: (draws, M) bootstrap means of a difference, which
    give the standard error. For a single cluster, which can't show any difference, it is 1, the whole range.
    """
    if clusters < 2:
        return np.ones(means.shape[1])
    error = means.std(0, ddof=1) * np.sqrt(clusters / (clusters - 1))
    reach = student_quantile(0.975, clusters - 1) + student_quantile(0.8, clusters - 1)
    result: Doubles = np.minimum(reach * error, 1.0)
    return result


def compare(
    a: Doubles, b: Doubles, clusters: Ints, *, rng: np.random.Generator, draws: int = 2000, randomisations: int = 10_000
) -> list[Difference]:
    """Compare two systems column by column. a, b: (Q, M) values in [0, 1] of the same queries."""
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if differences.ndim != 2 or len(differences) != len(clusters):
        raise ValueError(f"values of shape {differences.shape} for {len(clusters)} queries")
    if not len(differences):
        return [
            Difference(delta=0.0, ci95=(-1.0, 1.0), p_value=1.0, queries=0, clusters=0, detectable=1.0)
            for _ in range(differences.shape[1])
        ]
    count = len(np.unique(clusters))
    means = bootstrap_means(differences, clusters, draws=draws, rng=rng)
    intervals = interval(means, count, bounds=(-1.0, 1.0))
    p_values = randomisation_p(differences, clusters, draws=randomisations, rng=rng)
    detectable = detectable_difference(means, count)
    return [
        Difference(
            delta=float(differences[:, column].mean()),
            ci95=(float(intervals[column, 0]), float(intervals[column, 1])),
            p_value=float(p_values[column]),
            queries=len(differences),
            clusters=count,
            detectable=float(detectable[column]),
        )
        for column in range(differences.shape[1])
    ]


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t, within 1% for 3 degrees of freedom and 0.1% for 6 or more.

    Exact for 1 and 2; else the expansion of Abramowitz and Stegun, 26.7.5.
    """
    if degrees == 1:
        return float(np.tan(np.pi * (probability - 0.5)))
    if degrees == 2:
        return float((2 * probability - 1) * np.sqrt(2 / (4 * probability * (1 - probability))))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / degrees**power for power, term in enumerate(terms)))


def _cluster_sums(values: Doubles, clusters: Ints) -> tuple[Doubles, Doubles]:
    """Sum of the values (C, M) and number of queries (C,) of each cluster that has any."""
    _, rows = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(rows)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums, sizes.astype(np.float64)


def _blocks(draws: int, width: int) -> list[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, width))
    return [(start, min(start + step, draws)) for start in range(0, draws, step)]
