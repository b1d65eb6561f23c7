"""Systems and an evaluation set in, every metric of every query out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedfit.errors import UsageError
from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.ranking import Dense, Fuse, Hybrid, Lexical, Scorer, rank_all
from embedfit.models.local import LocalModel, stored_windows
from embedfit.models.vectors import Embedder, VectorCache
from embedfit.progress import Reporter
from embedfit.retrieval.metrics import METRICS, Convention, Floats, Ints, first_ranks, judge, score

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One system on Q queries.

    found: passage ids of each query, best first, at most 100. ranks: (Q,) rank of the first relevant
    one, 0 if it is not among them. values: (Q, M), columns in the order of METRICS.
    """

    found: Sequence[Sequence[str]]
    ranks: Ints
    values: Floats

    def column(self, metric: str) -> Floats:
        """One metric of every query. (Q,)."""
        column: Floats = self.values[:, METRICS.index(metric)]
        return column


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which systems to measure, in the order of the report.

    embedders: name → how to get one, opened in turn so that one model is in memory at a time.
    windowed: name → the dense system, of embedders, that has a vector for every window of a passage there.
    window_tokens: of such a window.
    lexical: name → what BM25 reads of each passage. hybrids: name → (dense system, fusion).
    order: the names as reported.
    """

    embedders: Mapping[str, Callable[[], Embedder]]
    lexical: Mapping[str, Sequence[str]]
    hybrids: Mapping[str, tuple[str, Fuse]]
    order: Sequence[str]
    windowed: Mapping[str, str] = field(default_factory=dict)
    window_tokens: int = 0


def measure(
    plan: Plan,
    eval_set: EvalSet,
    cache: VectorCache,
    report: Reporter,
    convention: Convention = "sentence-transformers",
) -> dict[str, Measured]:
    """Embed, rank and judge."""
    dense: dict[str, Dense] = {}
    for name, open_one in plan.embedders.items():
        embedder = open_one()
        dense[name] = encode(embedder, eval_set, cache, report)
        for row in (row for row, of in plan.windowed.items() if of == name):
            dense[row] = in_windows(dense[name], embedder, eval_set, plan.window_tokens, cache, report)
    lexical = {name: Lexical(contents, eval_set.queries, eval_set.own) for name, contents in plan.lexical.items()}
    first = next(iter(lexical.values())) if lexical else None
    if first is None and plan.hybrids:
        first = Lexical(eval_set.contents, eval_set.queries, eval_set.own)
    hybrids = {name: Hybrid(dense[of], first, fuse) for name, (of, fuse) in plan.hybrids.items() if first is not None}
    every: dict[str, Scorer] = {**dense, **lexical, **hybrids}
    scorers = {name: every[name] for name in plan.order}
    rankings = rank_all(scorers, eval_set.passage_ids, len(eval_set.queries), report=report, convention=convention)
    return {name: judged(ranking.ids(eval_set.passage_ids), eval_set, convention) for name, ranking in rankings.items()}


def encode(embedder: Embedder, eval_set: EvalSet, cache: VectorCache, report: Reporter) -> Dense:
    """A dense system with its vectors."""
    passages, queries = cache.embed_both(embedder, eval_set.contents, eval_set.queries, report=report)
    return Dense(queries, passages, own=eval_set.own)


def in_windows(
    whole: Dense, embedder: Embedder, eval_set: EvalSet, max_tokens: int, cache: VectorCache, report: Reporter
) -> Dense:
    """The system with a vector for every window of a passage. Raises UsageError where its tokenizer is not here.

    whole: with one vector a passage. max_tokens: of a window.
    """
    if not isinstance(embedder, LocalModel):
        raise UsageError(
            f"{embedder.name} can't read windows: its tokenizer is not here.", remedy="Name a model's folder."
        )
    windows, starts = stored_windows(embedder, eval_set.contents, whole.passages, max_tokens, cache, report)
    return Dense(whole.queries, windows, starts, own=whole.own)


def judged(
    found: Sequence[Sequence[str]], eval_set: EvalSet, convention: Convention = "sentence-transformers"
) -> Measured:
    """Rankings with their ranks and metrics."""
    judgement = judge(found, eval_set.relevant)
    values = score(judgement, METRICS, convention)
    return Measured(
        found=found,
        ranks=first_ranks(judgement),
        values=np.stack([values[metric] for metric in METRICS], axis=1),
    )
