"""The rows of an adaptation's report: frozen vectors, map, moved vectors and BM25 on the same questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import Group, Measured, Opened, measure, of_words
from embedfit.evaluation.summary import Resamples, comparisons, systems_table
from embedfit.index.retriever import BASE, BM25
from embedfit.index.scoring import Asked, Parts
from embedfit.models.query_map import QueryMap
from embedfit.models.store.vectors import Embedder
from embedfit.numerics.arrays import Vectors
from embedfit.path.artefacts import Comparison, System
from embedfit.path.systems import ADAPTED
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The measured systems by name, and each one against the frozen vectors."""

    systems: Mapping[str, System]
    comparisons: tuple[Comparison, ...]
    cluster_by: str


def measured(
    eval_set: EvalSet,
    embedder: Embedder,
    made: QueryMap,
    moved: Mapping[str, Vectors],
    runtime: Runtime,
    *,
    draws: int,
    seed: int,
) -> Rows:
    """Every row. moved: passage id → new vector (H,); empty: no row has moved vectors."""
    passages, queries = runtime.vectors.embed_both(embedder, eval_set.contents, eval_set.queries, report=runtime.report)
    changed = passages.copy()
    for number, one in enumerate(eval_set.passage_ids):
        if one in moved:
            changed[number] = moved[one]
    pairs = {"frozen": (passages, queries), "mapped": (passages, made(queries))}
    if moved:
        pairs |= {"moved": (changed, queries), "mapped_moved": (changed, pairs["mapped"][1])}
    groups = [Group(open=partial(_opened, *both, eval_set), rows={name: BASE}) for name, both in pairs.items()]
    groups.append(Group(open=lambda: of_words(Bm25(eval_set.contents), eval_set), rows={"bm25": BM25}))
    found: dict[str, Measured] = measure(groups, eval_set, runtime.report)
    clusters, cluster_by = eval_set.clusters()
    resamples = Resamples(clusters, draws, np.random.default_rng(seed))
    against = [(name, other) for name, (_, others) in ADAPTED.items() for other in others]
    return Rows(
        systems=systems_table(found, resamples),
        comparisons=comparisons(found, against, resamples),
        cluster_by=cluster_by,
    )


def _opened(passages: Vectors, queries: Vectors, eval_set: EvalSet) -> Opened:
    return Opened(
        parts=Parts(size=len(passages), one=passages),
        asked=lambda start, stop: Asked(texts=eval_set.queries[start:stop], vectors=queries[start:stop]),
    )
