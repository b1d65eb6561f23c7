"""The scores of a retriever: its first stage over all passages, its second over the best of them.

Evaluation, gate, index and server all score here, so that a row of a report is what search gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedfit.index.retriever import DENSE_PARTS, Part, Retriever
from embedfit.retrieval.fusion import reciprocals, standardised

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.int8]

#: Rows that are turned into float32 at a time.
_BLOCK = 65_536


class Words(Protocol):
    """A lexical index of N passages."""

    def coverage(self, query: str) -> Floats:
        """BM25 of every passage over the query's idf mass: (N,), from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Several vectors of each of N passages.

    vectors: (R, H) float16 unit rows, passage by passage. starts: (N + 1,) the first row of each passage, then R.
    """

    vectors: Halves
    starts: Ints

    def best(self, queries: Floats, otherwise: Floats | None) -> Floats:
        """The highest cosine of each passage's rows. queries: (Q, H); returns (Q, N).

        otherwise: (Q, N), the scores of passages that have no row; None: -1.
        """
        counts = np.diff(self.starts)
        own = np.flatnonzero(counts)
        count = len(counts)
        result = np.full((len(queries), count), -1.0, np.float32) if otherwise is None else otherwise.copy()
        if len(own):
            # The starts of passages that have rows rise strictly, as reduceat wants them.
            result[:, own] = np.maximum.reduceat(cosines(queries, self.vectors), self.starts[own], axis=1)
        return result


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token vectors of N passages.

    vectors: (T, D) int8, each row scaled to its largest value. starts: (N + 1,) the first token of each passage,
    then T.
    """

    vectors: Bytes
    starts: Ints

    def of(self, passages: Ints) -> tuple[Floats, Ints]:
        """Unit rows of the tokens of passages (G,), passage by passage, and how many each has: (L, D), (G,)."""
        found = [self.vectors[self.starts[one] : self.starts[one + 1]] for one in passages.tolist()]
        rows = np.concatenate(found).astype(np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        return rows, np.array([len(one) for one in found], np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Q queries as the parts read them.

    vectors: (Q, H). tokens: of each query (L, D) unit rows, with the weight of each, (L,); () where no part reads
    tokens.
    """

    texts: Sequence[str]
    vectors: Floats
    tokens: Sequence[tuple[Floats, Floats]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a retriever searches: N passages as its parts hold them. None: the part is not there.

    one: (N, H) float16 unit rows.
    """

    size: int
    one: Halves | None = None
    windows: Rows | None = None
    queries: Rows | None = None
    words: Words | None = None
    words_and_queries: Words | None = None
    tokens: Tokens | None = None


def cosines(queries: Floats, rows: Halves) -> Floats:
    """Inner products of queries (Q, H) and float16 rows (R, H), in float32: (Q, R)."""
    result = np.empty((len(queries), len(rows)), np.float32)
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        np.matmul(queries, np.asarray(rows[start:stop], np.float32).T, out=result[:, start:stop])
    return result


class Scores:
    """Raw scores of a block of queries by part, each computed once however many retrievers ask for it."""

    def __init__(self, parts: Parts, asked: Asked) -> None:
        self.parts = parts
        self.asked = asked
        self._raw: dict[str, Floats] = {}
        self._late: dict[int, dict[int, float]] = {}

    def raw(self, name: str) -> Floats:
        """A part's raw scores of all passages: (Q, N)."""
        if name not in self._raw:
            self._raw[name] = self._compute(name)
        return self._raw[name]

    def _compute(self, name: str) -> Floats:
        source = getattr(self.parts, name)
        if source is None:
            raise ValueError(f"the index holds no {name}")
        if name == "one":
            return cosines(self.asked.vectors, source)
        if name == "windows":  # a passage that is one window has no row of its own
            return self.parts.windows.best(self.asked.vectors, self.raw("one"))  # type: ignore[union-attr]
        if name == "queries":
            return self.parts.queries.best(self.asked.vectors, None)  # type: ignore[union-attr]
        rows = [source.coverage(text) for text in self.asked.texts]
        return np.stack(rows) if rows else np.zeros((0, self.parts.size), np.float32)

    def first(self, retriever: Retriever) -> Floats:
        """The first stage: (Q, N). A passage that the only part, words, does not match has -inf."""
        if retriever.method == "reciprocal_rank":
            return self._reciprocal(retriever)
        result = np.zeros((len(self.asked.texts), self.parts.size), np.float32)
        for part in retriever.parts:
            result += self.contribution(part)
        if not retriever.has(*DENSE_PARTS):
            return np.where(result > 0, result, np.float32(-np.inf))
        return result

    def contribution(self, part: Part) -> Floats:
        """What a part adds to the first stage: (Q, N)."""
        result: Floats = self.raw(part.name) * np.float32(part.weight / part.deviation)
        return result

    def _reciprocal(self, retriever: Retriever) -> Floats:
        result = np.zeros((len(self.asked.texts), self.parts.size), np.float32)
        for part in retriever.parts:
            scores = self.raw(part.name)
            gained = reciprocals(scores, weight=part.weight)
            # A passage without a word of the query has no lexical rank: it must not gain by its place.
            matched = np.ones_like(scores, bool) if part.name in DENSE_PARTS else scores > 0
            result += np.where(matched, gained, 0).astype(np.float32)
        return result

    def late(self, query: int, passages: Ints) -> Floats:
        """Late interaction of one query with passages (G,): the weighted sum of its tokens' best cosines. (G,)."""
        known = self._late.setdefault(query, {})
        new = [one for one in passages.tolist() if one not in known]
        if new:
            known.update(zip(new, self._interaction(query, np.array(new, np.int64)).tolist(), strict=True))
        return np.array([known[one] for one in passages.tolist()], np.float32)

    def _interaction(self, query: int, passages: Ints) -> Floats:
        if self.parts.tokens is None:
            raise ValueError("the index holds no tokens")
        vectors, weights = self.asked.tokens[query]
        if not len(vectors):
            return np.zeros(len(passages), np.float32)
        rows, counts = self.parts.tokens.of(passages)
        best = np.zeros((len(vectors), len(passages)), np.float32)
        own = np.flatnonzero(counts)
        if len(own):
            # The starts of passages that have tokens rise strictly, as reduceat wants them.
            starts = (np.cumsum(counts) - counts)[own]
            best[:, own] = np.maximum.reduceat(vectors @ rows.T, starts, axis=1)
        result: Floats = (np.ascontiguousarray(best.T) @ weights).astype(np.float32)
        return result


@dataclass(frozen=True, slots=True)
class Found:
    """The best passages of a query, best first. scores: of the last stage that ordered them."""

    passages: Ints
    scores: Floats


def ordered(scores: Floats, k: int) -> Ints:
    """The k best columns of (N,) scores, best first, equal ones by ascending number; -inf is not found."""
    k = min(k, len(scores))
    if k < len(scores):
        bound = -np.partition(-scores, k - 1)[k - 1]
        candidates = np.flatnonzero(scores >= bound)
    else:
        candidates = np.arange(len(scores))
    candidates = candidates[np.isfinite(scores[candidates])]
    result: Ints = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return result


def find(scores: Scores, retriever: Retriever, k: int, allowed: npt.NDArray[np.bool_] | None = None) -> list[Found]:
    """The k best passages of each query. allowed: (N,) which passages may be found; None: all."""
    first = scores.first(retriever)
    if allowed is not None:
        first = np.where(allowed, first, np.float32(-np.inf))
    found = []
    for query, row in enumerate(first):
        best = ordered(row, max(k, retriever.rerank.depth if retriever.rerank else 0))
        found.append(_reranked(scores, retriever, query, best, row[best], k))
    return found


def _reranked(scores: Scores, retriever: Retriever, query: int, best: Ints, first: Floats, k: int) -> Found:
    """The second stage orders the first `depth` of `best`; the others keep their order behind them.

    Scores of the second stage are deviations from the mean of the reordered passages. Those behind them keep the
    first stage's scores in the same unit, cut so that no score rises from one rank to the next.
    """
    rerank = retriever.rerank
    if rerank is None or len(best) < 2:
        return Found(best[:k], first[:k])
    head, tail = best[: rerank.depth], best[rerank.depth :]
    late = scores.late(query, head)
    mixed = (1 - rerank.weight) * standardised(first[: len(head)]) + rerank.weight * standardised(late)
    order = np.argsort(-mixed, kind="stable")
    mean, deviation = first[: len(head)].mean(), max(float(first[: len(head)].std()), 1e-9)
    behind = np.minimum((1 - rerank.weight) * (first[len(head) :] - mean) / deviation, mixed[order[-1]])
    passages = np.concatenate([head[order], tail])
    return Found(passages[:k], np.concatenate([mixed[order], behind]).astype(np.float32)[:k])
