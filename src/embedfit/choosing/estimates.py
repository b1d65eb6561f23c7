"""Mean differences between retrievers and their uncertainty, by one judge or by a judge corrected by a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedfit.numerics.arrays import Doubles, Ints
from embedfit.retrieval.significance import bootstrap_means

DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Differences:
    """M mean differences, and the same of resampled questions.

    delta: (M,). draws: (B, M), the differences in each resample. clusters: the number of clusters that are drawn from;
    the smaller number if there are two samples. trust: (M,) λ, the weight of the judge's opinion; 0 if only a
    person's grades count.
    """

    delta: Doubles
    draws: Doubles
    clusters: int
    trust: Doubles


def plain(values: Doubles, clusters: Ints, *, rng: np.random.Generator) -> Differences:
    """Means of differences (Q, M), resampled by cluster, (Q,)."""
    count = len(np.unique(clusters))
    trust = np.zeros(values.shape[1])
    return Differences(values.mean(0), bootstrap_means(values, clusters, draws=DRAWS, rng=rng), count, trust)


def corrected(
    judge: Doubles, person: Doubles, both: npt.NDArray[np.bool_], clusters: Ints, *, rng: np.random.Generator
) -> Differences:
    """Means of differences by a judge whose errors a person's grades of some questions take out.

    Prediction-powered inference with power tuning (PPI++, Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453):

        θ = mean of person over both + λ × (mean of judge over the others - mean of judge over both)

    whatever the judge's bias, θ is unbiased; λ = cov(person, judge) / ((1 + n / N) var(judge)) makes its variance the
    least that is possible, and 0 leaves the judge out. n questions were graded by both, N by the judge alone.

    judge: (Q, M) differences by the judge. person: (Q, M) by the person, read only at `both`. both: (Q,) whether a
    person graded the question too, true for at least two.
    """
    ours, theirs, others = person[both], judge[both], judge[~both]
    count = len(np.unique(clusters[both]))
    if not len(others):
        return plain(ours, clusters[both], rng=rng)
    trust = _tuned(ours, theirs, len(others))
    rectifier = plain(ours - trust * theirs, clusters[both], rng=rng)
    opinion = plain(trust * others, clusters[~both], rng=rng)
    return Differences(rectifier.delta + opinion.delta, rectifier.draws + opinion.draws, count, trust)


def _tuned(person: Doubles, judge: Doubles, others: int) -> Doubles:
    """λ of each column, between 0 and 1. person, judge: (n, M)."""
    n = len(person)
    spread = judge.var(0, ddof=1)
    shared = ((person - person.mean(0)) * (judge - judge.mean(0))).sum(0) / (n - 1)
    best = np.divide(shared, (1 + n / others) * spread, out=np.zeros_like(spread), where=spread > 1e-12)
    tuned: Doubles = np.clip(best, 0.0, 1.0)
    return tuned
