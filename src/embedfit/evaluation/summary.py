"""Turns every metric of every query into the means, intervals and comparisons of summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.evaluation.measure import Measured
from embedfit.numerics.arrays import Doubles, Ints
from embedfit.path.artefacts import METRIC, Comparison, System
from embedfit.retrieval.metrics import METRICS
from embedfit.retrieval.significance import bootstrap_means, compare, interval

#: Metrics that systems are compared on; the first is the one that decides.
COMPARED = (METRIC, "hit@5", "mrr@10")


@dataclass(frozen=True, slots=True)
class Resamples:
    """The resampling of queries for intervals and tests.

    clusters: (Q,) numbers; queries with the same number are drawn together. draws: the number of resamples.
    """

    clusters: Ints
    draws: int
    rng: np.random.Generator

    def interval(self, values: Doubles, rows: Sequence[int] | None = None, *, bounds: tuple[float, float]) -> Doubles:
        """The 95% interval of each column's mean, (M, 2). values: (Q, M), for the queries `rows` or for all."""
        clusters = self.clusters if rows is None else self.clusters[list(rows)]
        means = bootstrap_means(values, clusters, draws=self.draws, rng=self.rng)
        return interval(means, len(np.unique(clusters)), bounds=bounds)


def systems_table(measured: Mapping[str, Measured], resamples: Resamples) -> dict[str, System]:
    """Every system's means and intervals. All systems share the same resamples."""
    values = np.concatenate([system.values for system in measured.values()], axis=1)
    intervals = resamples.interval(values, bounds=(0.0, 1.0)).reshape(len(measured), len(METRICS), 2)
    return {
        name: System(
            metrics=dict(zip(METRICS, system.values.mean(0).tolist(), strict=True)),
            ci95=dict(zip(METRICS, of_system.tolist(), strict=True)),
        )
        for (name, system), of_system in zip(measured.items(), intervals, strict=True)
    }


def comparisons(
    measured: Mapping[str, Measured], pairs: Sequence[tuple[str, str]], resamples: Resamples
) -> tuple[Comparison, ...]:
    """Each pair's comparison on each metric of COMPARED. Pairs with a system that was not measured are left out."""
    columns = [(a, b, metric) for a, b in pairs if a in measured and b in measured for metric in COMPARED]
    if not columns:
        return ()
    first = np.stack([measured[a].column(metric) for a, _, metric in columns], axis=1)
    second = np.stack([measured[b].column(metric) for _, b, metric in columns], axis=1)
    results = compare(first, second, resamples.clusters, draws=resamples.draws, rng=resamples.rng)
    return tuple(
        Comparison(
            a=a,
            b=b,
            metric=metric,
            delta=result.delta,
            ci95=result.ci95,
            p_value=result.p_value,
            queries=result.queries,
            clusters=result.clusters,
            minimum_detectable=result.detectable,
        )
        for (a, b, metric), result in zip(columns, results, strict=True)
    )
