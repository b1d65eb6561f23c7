"""The scores of a retriever: its first stage over all passages, its second over the best of them.

Evaluation, gate, index and server all score with this module, so a row of a report shows exactly what search finds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedfit.index.retriever import DENSE_PARTS, Part, Retriever
from embedfit.index.rows import RoughQuery, Rows, Tokens, best_of, cosines, product
from embedfit.numerics import ranking
from embedfit.numerics.arrays import Floats, Halves, Ints
from embedfit.retrieval.fusion import reciprocals, standardised
from embedfit.retrieval.own import without_own

__all__ = ["Asked", "Found", "Parts", "Rows", "Scores", "Tokens", "Words", "find", "ordered"]


class Words(Protocol):
    """A lexical index of N passages."""

    def coverage(self, query: str) -> Floats:
        """BM25 of every passage over the query's idf mass: (N,), from 0 to 1."""


class Near(Protocol):
    """A finder of the passages of a large index that are worth scoring."""

    def candidates(
        self, scores: Scores, retriever: Retriever, query: int, depth: int, allowed: npt.NDArray[np.bool_] | None
    ) -> Ints | None:
        """Allowed passages (G,), ascending, that are likely to hold the `depth` best. None: all must be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Q queries as the parts read them.

    vectors: (Q, H). tokens: each query's (L, D) unit rows with their weights (L,); () if no part reads tokens. own:
    (Q,) the passage that is the query itself and must not be found, -1 for none; see retrieval.own.
    """

    texts: Sequence[str]
    vectors: Floats
    tokens: Sequence[tuple[Floats, Floats]] = ()
    own: Ints | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """N passages as a retriever's parts hold them. A part that is not there is None.

    one: (N, H) unit rows; float16 in an index. near: finds candidates if scoring all passages takes too long.
    """

    size: int
    one: Halves | Floats | None = None
    windows: Rows | None = None
    queries: Rows | None = None
    words: Words | None = None
    words_and_queries: Words | None = None
    tokens: Tokens | None = None
    near: Near | None = None


class Scores:
    """Raw scores of a block of queries by each part. They are computed once for all retrievers that use them.

    seconds: the time that words and late interaction ("tokens") took so far.
    """

    def __init__(self, parts: Parts, asked: Asked) -> None:
        self.parts = parts
        self.asked = asked
        self.seconds: defaultdict[str, float] = defaultdict(float)
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
        started = time.perf_counter()
        rows = [source.coverage(text) for text in self.asked.texts]
        self.seconds["words"] += time.perf_counter() - started
        return np.stack(rows) if rows else np.zeros((0, self.parts.size), np.float32)

    def first(self, retriever: Retriever, allowed: npt.NDArray[np.bool_] | None = None) -> Floats:
        """The first stage: (Q, N). If words are the only part, a passage that matches no word has -inf.

        allowed: (N,) which passages may be found; ranks are counted among them.
        """
        if retriever.method == "reciprocal_rank":
            return without_own(self._reciprocal(retriever, allowed), self.asked.own)
        result = np.zeros((len(self.asked.texts), self.parts.size), np.float32)
        for part in retriever.parts:
            result += self.contribution(part)
        if not retriever.has(*DENSE_PARTS):
            result = np.where(result > 0, result, np.float32(-np.inf))
        return without_own(result, self.asked.own)

    def contribution(self, part: Part) -> Floats:
        """A part's addend in the first stage's sum: (Q, N)."""
        result: Floats = self.raw(part.name) * np.float32(part.weight / part.deviation)
        return result

    def some(self, name: str, query: int, passages: Ints) -> Floats:
        """A part's raw scores of one query and some passages (G,), equal to those in raw(): (G,)."""
        if name in self._raw or name not in DENSE_PARTS:
            known: Floats = self.raw(name)[query, passages]
            return known
        asked = self.asked.vectors[query : query + 1]
        if name == "one":
            assert self.parts.one is not None
            return _only(cosines(asked, self.parts.one[passages]))
        rows: Rows = getattr(self.parts, name)
        otherwise = self.some("one", query, passages)[None] if name == "windows" else None
        return _only(rows.some(passages).best(asked, otherwise))

    def some_first(self, retriever: Retriever, query: int, passages: Ints) -> Floats:
        """The first stage of one query and some passages (G,), equal to that in first(): (G,)."""
        result = np.zeros(len(passages), np.float32)
        for part in retriever.parts:
            result += self.some_contribution(part, query, passages)
        return result

    def some_contribution(self, part: Part, query: int, passages: Ints) -> Floats:
        """A part's addend in the first stage's sum for one query and some passages: (G,)."""
        result: Floats = self.some(part.name, query, passages) * np.float32(part.weight / part.deviation)
        return result

    def _reciprocal(self, retriever: Retriever, allowed: npt.NDArray[np.bool_] | None) -> Floats:
        result = np.zeros((len(self.asked.texts), self.parts.size), np.float32)
        for part in retriever.parts:
            scores = without_own(self.raw(part.name), self.asked.own)  # the others move up a rank
            if allowed is not None:
                scores = np.where(allowed, scores, np.float32(-np.inf))
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
            started = time.perf_counter()
            known.update(zip(new, self._interaction(query, np.array(new, np.int64)).tolist(), strict=True))
            self.seconds["tokens"] += time.perf_counter() - started
        return np.array([known[one] for one in passages.tolist()], np.float32)

    def _interaction(self, query: int, passages: Ints) -> Floats:
        if self.parts.tokens is None:
            raise ValueError("the index holds no tokens")
        vectors, weights = self.asked.tokens[query]
        if not len(vectors):
            return np.zeros(len(passages), np.float32)
        best = self.parts.tokens.best(vectors, passages)
        result: Floats = product(np.ascontiguousarray(best.T), weights)
        return result


def _only(rows: Floats) -> Floats:
    row: Floats = rows[0]
    return row


@dataclass(frozen=True, slots=True)
class Found:
    """The best passages of a query, best first. scores: those of the last stage that ordered them."""

    passages: Ints
    scores: Floats


def ordered(scores: Floats, k: int, *, last_first: bool = False) -> Ints:
    """The numbers of the k best of N scores (N,), best first. A score of -inf is never among them.

    Equal scores come in ascending order of their numbers, with last_first in descending order.
    """
    found = len(scores) - 1 - ranking.best(scores[::-1], k) if last_first else ranking.best(scores, k)
    return found[np.isfinite(scores[found])]


def find(
    scores: Scores,
    retriever: Retriever,
    k: int,
    allowed: npt.NDArray[np.bool_] | None = None,
    *,
    last_first: bool = False,
) -> list[Found]:
    """The k best passages of each query. allowed: (N,) or (Q, N), which passages may be found; None: all.

    last_first: the order of equal scores, as in ordered().
    """
    depth = max(k, retriever.rerank.depth if retriever.rerank else 0)
    as_searched = not last_first and (allowed is None or allowed.ndim == 1)
    short = _candidates(scores, retriever, depth, allowed) if as_searched else None
    if short is None and as_searched:
        short = shortlists(scores, retriever, depth, allowed)
    if short is None:
        first = scores.first(retriever, allowed)
        if allowed is not None:
            first = np.where(allowed, first, np.float32(-np.inf))
        short = [(np.arange(scores.parts.size), row) for row in first]
    found = []
    for query, (passages, row) in enumerate(short):
        best = ordered(row, depth, last_first=last_first)
        found.append(reranked(scores, retriever, query, passages[best], row[best], k))
    return found


# --- large indexes: only passages that are likely to be among the best are scored

#: Candidates whose vectors are gathered at a time.
_CANDIDATES = 1_024


def _candidates(
    scores: Scores, retriever: Retriever, depth: int, allowed: npt.NDArray[np.bool_] | None
) -> list[tuple[Ints, Floats]] | None:
    """For each query its candidates (G,), ascending, and their first-stage scores (G,). None: all must be scored."""
    if scores.parts.near is None:
        return None
    own = scores.asked.own
    found = []
    for query in range(len(scores.asked.texts)):
        passages = scores.parts.near.candidates(scores, retriever, query, depth, allowed)
        if passages is None:
            return None
        if own is not None:
            passages = passages[passages != own[query]]
        blocks = [passages[start : start + _CANDIDATES] for start in range(0, len(passages), _CANDIDATES)]
        exact = [scores.some_first(retriever, query, block) for block in blocks]
        found.append((passages, np.concatenate([*exact, np.zeros(0, np.float32)])))
    return found


# --- few queries: half precision finds a short list that surely holds the best ones

#: From this many passages on, and up to this many queries at a time, a search spends its time reading the vectors.
SHORT_FROM = 10_000
_FEW = 4
#: The rounding error of a sum in float32, as a share of a part's weight. It is added to the bound.
_SUM_ERROR = 1e-6


def shortlists(
    scores: Scores, retriever: Retriever, depth: int, allowed: npt.NDArray[np.bool_] | None
) -> list[tuple[Ints, Floats]] | None:
    """For each query passages (G,) that hold its `depth` best, ascending, and their first-stage scores (G,).

    The result is None if scoring every passage in float32 is as fast. A sum in half precision reads float16 vectors
    without conversion, in a fifth of the time, and its error has a bound. So each of the `depth` best passages lies at
    most two bounds below the `depth`-th best sum. The passages above that line are then scored in float32.
    """
    dense = retriever.method == "sum" and retriever.has(*DENSE_PARTS)
    few = len(scores.asked.texts) <= _FEW
    halves = scores.parts.one is None or scores.parts.one.dtype == np.float16
    if not (dense and halves and few and scores.parts.size >= SHORT_FROM and depth * 20 <= scores.parts.size):
        return None
    own = scores.asked.own
    found = []
    for query in range(len(scores.asked.texts)):
        rough, bound = _rough_first(scores, retriever, query)
        if allowed is not None:
            rough[~allowed] = -np.inf
        if own is not None and own[query] >= 0:
            rough[own[query]] = -np.inf
        best = ordered(rough, depth)
        least = rough[best[-1]] - 2 * bound if len(best) else np.inf
        passages = np.flatnonzero(rough >= least)
        exact = scores.some_first(retriever, query, passages)
        if (np.abs(exact - rough[passages]) > bound).any():
            return None  # this processor rounds in another way than the bound assumes
        found.append((passages, exact))
    return found


def _rough_first(scores: Scores, retriever: Retriever, query: int) -> tuple[Floats, float]:
    """The first stage in half precision, (N,), and a bound of its error."""
    parts = scores.parts
    rough = RoughQuery(scores.asked.vectors[query])
    one = (
        rough.cosines(np.asarray(parts.one, np.float16))
        if parts.one is not None and retriever.has("one", "windows")
        else None
    )
    result = np.zeros(parts.size, np.float32)
    bound = 0.0
    for part in retriever.parts:
        weight = part.weight / part.deviation
        if part.name not in DENSE_PARTS:
            result += scores.raw(part.name)[query] * np.float32(weight)
            bound += abs(weight) * _SUM_ERROR
            continue
        raw = one
        if part.name != "one":
            rows: Rows = getattr(parts, part.name)
            otherwise = one[None] if part.name == "windows" and one is not None else None
            raw = best_of(rough.cosines(rows.vectors)[None], rows.starts, otherwise)[0]
        assert raw is not None
        result += raw * np.float32(weight)
        bound += abs(weight) * (rough.error + _SUM_ERROR)
    return result, bound


def reranked(scores: Scores, retriever: Retriever, query: int, best: Ints, first: Floats, k: int) -> Found:
    """The first `depth` of `best` in the order of the second stage, then the others in their old order.

    Scores of the second stage are deviations from the mean of the reordered passages. The other passages keep the
    first stage's scores in the same unit, cut so that no score rises from one rank to the next.
    """
    rerank = retriever.rerank
    if rerank is None or len(best) < 2:
        return Found(best[:k], first[:k])
    head, tail = best[: rerank.depth], best[rerank.depth :]
    late = scores.late(query, head)
    mixed = (1 - rerank.weight) * standardised(first[: len(head)]) + rerank.weight * standardised(late)
    order = ranking.best(mixed, len(mixed))
    mean, deviation = first[: len(head)].mean(), max(float(first[: len(head)].std()), 1e-9)
    behind = np.minimum((1 - rerank.weight) * (first[len(head) :] - mean) / deviation, mixed[order[-1]])
    passages = np.concatenate([head[order], tail])
    return Found(passages[:k], np.concatenate([mixed[order], behind]).astype(np.float32)[:k])
