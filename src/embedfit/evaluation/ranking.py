"""Every system's ranking of the passages for every query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embedfit.errors import InputError
from embedfit.models.windows import max_pool
from embedfit.progress import Reporter, Silent
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import parts_of, reciprocal_rank, weighted_sum
from embedfit.retrieval.metrics import Convention, rank
from embedfit.retrieval.own import without_own

Scores = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Ranks that are kept of each query: what map@100 and recall@100 look at.
DEPTH = 100
_BLOCK = 16_000_000  # scores held at a time by one system


class Scorer(Protocol):
    """A system with its passages and queries at hand."""

    def scores(self, start: int, stop: int) -> Scores:
        """Scores of all passages for queries start to stop: (stop - start, N). -inf: not found at all."""


@dataclass(frozen=True, slots=True)
class Dense:
    """Cosine of unit vectors. queries: (Q, H); passages: (N, H).

    starts: where passages holds windows, the row of each passage's first one (N,); the best of them counts.
    own: (Q,) the passage that each query is itself, -1 for none.
    """

    queries: Vectors
    passages: Vectors
    starts: Ints | None = None
    own: Ints | None = None

    def scores(self, start: int, stop: int) -> Scores:
        """Inner products."""
        result: Scores = self.queries[start:stop] @ self.passages.T
        pooled = result if self.starts is None else max_pool(result, self.starts)
        return without_own(pooled, None if self.own is None else self.own[start:stop])


class Lexical:
    """BM25. A passage that shares no word with the query is not found, wherever it stands in the corpus.

    own: (Q,) the passage that each query is itself, -1 for none.
    """

    def __init__(self, passages: Sequence[str], queries: Sequence[str], own: Ints | None = None) -> None:
        self._index = Bm25(passages)
        self._queries = queries
        self._own = own
        self._count = len(passages)
        self._last: tuple[tuple[int, int], Scores] | None = None

    def raw(self, start: int, stop: int) -> Scores:
        """BM25 scores, 0 where no word is shared, -inf for a query's own passage.

        The last block is kept: hybrids ask for the same one.
        """
        if self._last is None or self._last[0] != (start, stop):
            rows = [self._index.scores(query) for query in self._queries[start:stop]]
            scores = np.stack(rows) if rows else np.zeros((0, self._count), np.float32)
            self._last = (start, stop), without_own(scores, None if self._own is None else self._own[start:stop])
        return self._last[1]

    def scores(self, start: int, stop: int) -> Scores:
        """BM25 scores, -inf where no word is shared."""
        raw = self.raw(start, stop)
        return np.where(raw > 0, raw, np.float32(-np.inf))


Fuse = Callable[[Scores, Scores], Scores]

FUSIONS: dict[str, Callable[..., Scores]] = {"reciprocal_rank": reciprocal_rank, "weighted_sum": weighted_sum}


def fusion_of(setting: Mapping[str, Any] | None, *, windowed: bool = False) -> Fuse:
    """The fusion that merge.json names, {"method", "weight", "windowed_weight"}; without one, even reciprocal ranks.

    windowed: as in parts_of.
    """
    method, weight = parts_of(setting or {}, windowed=windowed)
    if method not in FUSIONS:
        raise InputError(f"merge.json: fusion.method {method!r} is none of {', '.join(FUSIONS)}.")
    return lambda dense, lexical: FUSIONS[method](dense, lexical, weight=weight)


@dataclass(frozen=True, slots=True)
class Hybrid:
    """A dense and a lexical system made one."""

    dense: Dense
    lexical: Lexical
    fuse: Fuse

    def scores(self, start: int, stop: int) -> Scores:
        """Fused scores."""
        return self.fuse(self.dense.scores(start, stop), self.lexical.raw(start, stop))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best passages of each query, best first, at most DEPTH: rows of passage numbers."""

    rows: list[npt.NDArray[np.int64]]

    def ids(self, passage_ids: Sequence[str]) -> list[list[str]]:
        """The rows as passage ids."""
        return [[passage_ids[number] for number in row] for row in self.rows]


def rank_all(
    scorers: Mapping[str, Scorer],
    passage_ids: Sequence[str],
    queries: int,
    *,
    report: Reporter | None = None,
    convention: Convention = "sentence-transformers",
) -> dict[str, Ranking]:
    """Rank with each system, block of queries by block, equal scores in the convention's order."""
    rankings: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in scorers}
    block = max(1, _BLOCK // max(1, len(passage_ids)))
    with (report or Silent()).task("rank", queries * len(scorers), "queries") as task:
        for start in range(0, queries, block):
            stop = min(start + block, queries)
            for name, scorer in scorers.items():
                scores = scorer.scores(start, stop)
                best = rank(scores, passage_ids, DEPTH, convention)
                found = np.isfinite(np.take_along_axis(scores, best, 1)).sum(1)
                rankings[name].extend(row[:count] for row, count in zip(best, found, strict=True))
                task.advance(stop - start, note=name)
    return {name: Ranking(rows) for name, rows in rankings.items()}
