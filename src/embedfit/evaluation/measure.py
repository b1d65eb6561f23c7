"""Measures retrievers on an evaluation set: every metric of every query.

embedfit.index does all scoring, so a row of a report shows exactly what an index of that retriever finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
import numpy.typing as npt

from embedfit.config import WINDOW_TOKENS
from embedfit.evaluation.evalset import EvalSet
from embedfit.index.build import Source, build
from embedfit.index.retriever import DENSE_PARTS, Retriever, union
from embedfit.index.scoring import Asked, Parts, Scores, Words, find
from embedfit.index.search import Asker
from embedfit.index.store.sizes import bytes_a_passage
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import Embedder
from embedfit.numerics.arrays import Doubles, Ints
from embedfit.progress import Reporter
from embedfit.retrieval.metrics import METRICS, Convention, first_ranks, judge, score
from embedfit.runtime import Runtime

#: Gives the passages that each of the queries start to stop may find: (stop - start, N).
Allowed = Callable[[int, int], npt.NDArray[np.bool_]]

#: The number of ranks that are kept for each query, because map@100 and recall@100 read so many.
DEPTH = 100
#: The number of queries that are timed one by one, and the seconds after which the timing stops early.
TIMED = 50
_TIMED_SECONDS = 2.0
_TIMED_DEPTH = 10
#: First-stage scores of one retriever, and queries, that are held at a time. A search has the same batches.
_BLOCK = 16_000_000
_QUERIES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One system on Q queries.

    found: passage ids of each query, best first, at most 100. ranks: (Q,) rank of the first relevant one, 0 if it is
    not among them. values: (Q, M), columns in the order of METRICS. retriever: with the deviations of the passages that
    it searched. bytes_a_passage: None if another machine stores the passages. ms_a_query: median of single queries,
    None if it was not measured.
    """

    found: Sequence[Sequence[str]]
    ranks: Ints
    values: Doubles
    retriever: Retriever | None = None
    bytes_a_passage: float | None = None
    ms_a_query: float | None = None

    def column(self, metric: str) -> Doubles:
        """One metric of every query. (Q,)."""
        column: Doubles = self.values[:, METRICS.index(metric)]
        return column


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Passages as one model holds them.

    asked: gives the evaluation's queries start to stop, as the parts read them. deviations: of the dense parts.
    alone: gives one query as a retriever reads it, to time it; None if another machine encodes queries.
    close: frees memory.
    """

    parts: Parts
    asked: Callable[[int, int], Asked]
    deviations: Mapping[str, float] = field(default_factory=dict)
    alone: Callable[[str, Retriever], Asked] | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that search the same parts. The parts are built when the group's turn comes, and dropped after it.

    rows: name → retriever.
    """

    open: Callable[[], Opened]
    rows: Mapping[str, Retriever]


def measure(
    groups: Sequence[Group],
    eval_set: EvalSet,
    report: Reporter,
    *,
    convention: Convention = "sentence-transformers",
    timed: bool = False,
) -> dict[str, Measured]:
    """Search with every row of every group and measure the rankings. timed: also time single queries."""
    measured: dict[str, Measured] = {}
    for group in groups:
        opened = group.open()
        try:
            rows = {name: one.with_deviations(opened.deviations) for name, one in group.rows.items()}
            rankings = ranked(opened, rows, eval_set, report, convention=convention)
            for name, retriever in rows.items():
                measured[name] = replace(
                    judged(rankings[name], eval_set, convention),
                    retriever=retriever,
                    bytes_a_passage=bytes_a_passage(opened.parts, retriever) if opened.alone else None,
                    ms_a_query=_ms(opened, retriever, eval_set.queries) if timed else None,
                )
        finally:
            opened.close()
    return measured


def ranked(
    opened: Opened,
    rows: Mapping[str, Retriever],
    eval_set: EvalSet,
    report: Reporter,
    *,
    allowed: Allowed | None = None,
    convention: Convention = "sentence-transformers",
) -> dict[str, list[list[str]]]:
    """The ids of the best passages of every query by every row, at most DEPTH, best first.

    Passages are numbered by ascending id, so that equal scores come in the convention's order.
    """
    rankings: dict[str, list[list[str]]] = {name: [] for name in rows}
    queries, ids = len(eval_set.queries), eval_set.passage_ids
    block = max(1, min(_QUERIES, _BLOCK // max(1, len(ids))))
    own = eval_set.own
    with report.task("rank", queries * len(rows), "queries") as task:
        for start in range(0, queries, block):
            stop = min(start + block, queries)
            scores = Scores(opened.parts, replace(opened.asked(start, stop), own=own[start:stop]))
            may = allowed(start, stop) if allowed else None
            for name, retriever in rows.items():
                found = find(scores, retriever, DEPTH, may, last_first=convention == "trec_eval")
                rankings[name].extend([ids[number] for number in best.passages] for best in found)
                task.advance(stop - start, note=name)
    return rankings


def _ms(opened: Opened, retriever: Retriever, queries: Sequence[str]) -> float | None:
    """Median milliseconds from a query's text to its best passages, one query at a time."""
    if opened.alone is None:
        return None
    took: list[float] = []
    for query in queries[:TIMED]:
        started = time.perf_counter()
        find(Scores(opened.parts, opened.alone(query, retriever)), retriever, _TIMED_DEPTH)
        took.append(time.perf_counter() - started)
        if sum(took) > _TIMED_SECONDS:
            break
    return 1000 * median(took) if took else None


def of_model(
    model: LocalModel,
    source: Source,
    rows: Mapping[str, Retriever],
    eval_set: EvalSet,
    runtime: Runtime,
    *,
    words: Callable[[], Words],
    window_tokens: int = WINDOW_TOKENS,
) -> Opened:
    """The parts that an index of a local model holds for the rows. words: BM25, which all models share."""
    every = union(rows.values())
    dense = replace(every, parts=tuple(part for part in every.parts if part.name != "words"))
    built = build(source, model, dense, runtime.vectors, runtime.report, window_tokens=window_tokens)
    parts = replace(built.parts, words=words()) if every.has("words") else built.parts
    plain, asker = Asker(model, None), Asker(model, built.tokens)

    def alone(query: str, retriever: Retriever) -> Asked:
        if retriever.rerank is not None:
            return asker.ask([query])
        return plain.ask([query]) if retriever.has(*DENSE_PARTS) else _texts([query])

    return Opened(
        parts=parts,
        asked=lambda start, stop: asker.ask(eval_set.queries[start:stop]),
        deviations={part.name: part.deviation for part in built.retriever.parts},
        alone=alone,
        close=model.release,
    )


def of_vectors(
    embedder: Embedder,
    eval_set: EvalSet,
    runtime: Runtime,
    *,
    words: Callable[[], Words] | None = None,
) -> Opened:
    """One vector a passage, from any embedder. words: BM25, if a row reads it."""
    passages, queries = runtime.vectors.embed_both(embedder, eval_set.contents, eval_set.queries, report=runtime.report)
    return Opened(
        parts=Parts(size=len(eval_set.contents), one=passages, words=words() if words else None),
        asked=lambda start, stop: Asked(texts=eval_set.queries[start:stop], vectors=queries[start:stop]),
    )


def of_words(words: Words, eval_set: EvalSet) -> Opened:
    """The parts of BM25 alone, which needs no model."""
    return Opened(
        parts=Parts(size=len(eval_set.contents), words=words),
        asked=lambda start, stop: _texts(eval_set.queries[start:stop]),
        alone=lambda query, _: _texts([query]),
    )


def _texts(texts: Sequence[str]) -> Asked:
    return Asked(texts=texts, vectors=np.zeros((len(texts), 0), np.float32))


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
