"""From every metric of every query to means, intervals and comparisons, as summary.json holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedfit.evaluation.measure import Measured
from embedfit.numerics.arrays import Ints
from embedfit.retrieval.metrics import METRICS
from embedfit.retrieval.significance import bootstrap_means, compare, interval

#: Metrics that systems are compared on; the first is the one that decides.
COMPARED = ("ndcg@10", "hit@5", "mrr@10")


def systems_table(
    measured: Mapping[str, Measured], clusters: Ints, *, draws: int, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """Name → {"metrics": {metric: mean}, "ci95": {metric: [low, high]}}."""
    values = np.concatenate([system.values for system in measured.values()], axis=1)
    count = len(np.unique(clusters))
    intervals = interval(bootstrap_means(values, clusters, draws=draws, rng=rng), count, bounds=(0.0, 1.0))
    intervals = intervals.reshape(len(measured), len(METRICS), 2)
    return {
        name: {
            "metrics": dict(zip(METRICS, system.values.mean(0).tolist(), strict=True)),
            "ci95": dict(zip(METRICS, of_system.tolist(), strict=True)),
        }
        for (name, system), of_system in zip(measured.items(), intervals, strict=True)
    }


def comparisons(
    measured: Mapping[str, Measured],
    pairs: Sequence[tuple[str, str]],
    clusters: Ints,
    *,
    draws: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Each pair on each metric of COMPARED. Pairs with a system that was not measured are left out."""
    columns = [(a, b, metric) for a, b in pairs if a in measured and b in measured for metric in COMPARED]
    if not columns:
        return []
    first = np.stack([measured[a].column(metric) for a, _, metric in columns], axis=1)
    second = np.stack([measured[b].column(metric) for _, b, metric in columns], axis=1)
    results = compare(first, second, clusters, draws=draws, rng=rng)
    return [
        {
            "a": a,
            "b": b,
            "metric": metric,
            "delta": result.delta,
            "ci95": list(result.ci95),
            "p_value": result.p_value,
            "queries": result.queries,
            "clusters": result.clusters,
            "minimum_detectable": result.detectable,
        }
        for (a, b, metric), result in zip(columns, results, strict=True)
    ]
