"""Searches of an index, and the order of given texts for a query."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from threading import Event
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import orjson

from embedfit.errors import InputError
from embedfit.index.search import Hit, Index
from embedfit.index.store.columns import Mask
from embedfit.numerics.arrays import Floats
from embedfit.serving.edge.access import ANYBODY, Caller
from embedfit.serving.failures import Invalid, NotFound
from embedfit.serving.scheduling.batcher import QUEUE_SECONDS
from embedfit.serving.schemas import SearchRequest, unfit
from embedfit.serving.search.line import Left, Line
from embedfit.serving.search.query_log import QueryLog

if TYPE_CHECKING:
    from embedfit.models.cross_encoder import CrossEncoder

#: Values of a field that are listed, and characters of the longest.
MOST_LISTED = 50
_LONGEST_LISTED = 200
Read = TypeVar("Read")
#: Texts that are reranked between two looks whether the client has left.
_TEXTS_AT_A_TIME = 8
#: Characters of a text that are reranked for each token of the window, as on the embedding routes.
_CHARACTERS_A_TOKEN = 250
_FIELDS = tuple(one.name for one in fields(Hit))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAnswer:
    """The body of an answer. empty: queries that found nothing. seconds: the time of each step of the search."""

    body: bytes
    empty: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """The order of N texts for a query.

    order: their numbers, best first. scores: (N,) mean cosines of the query's tokens with each text's best, weighted;
    of a cross-encoder probabilities. sums: (N,) the same before the division by the weights, as searches add them; of a
    cross-encoder its outputs. tokens: those that were read.
    """

    order: list[int]
    scores: Floats
    sums: Floats
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findable:
    """The passages that a caller may find. mask: (N,), None for all. size: how many passages."""

    mask: Mask | None
    size: int


class Searcher:
    """An index that answers requests.

    line: where its work waits. query_log: gets the queries that are answered. reranker: orders given texts; None: late
    interaction does.
    """

    def __init__(
        self,
        index: Index,
        *,
        max_queue_seconds: float = QUEUE_SECONDS,
        query_log: QueryLog | None = None,
        reranker: CrossEncoder | None = None,
    ) -> None:
        self.index = index
        self.reranker = reranker
        self.query_log = query_log
        self.line = Line(max_queue_seconds=max_queue_seconds)
        self._base = index.base
        self._findable: dict[str, Findable] = {}
        self._fields: dict[str, bytes] = {}

    def warm_up(self) -> None:
        """Load the models. Raises their errors."""
        for index in (self.index, self._base):
            index.search("warm up", 1)
        if self.reranker is not None:
            self.reranker.scores([("warm up", "warm up")])

    def findable(self, caller: Caller) -> Findable:
        """The passages that a caller may find. Raises InputError if its filter does not fit the index."""
        if caller.name not in self._findable:
            try:
                mask = None if caller.forced is None else self.index.stored.catalogue.allowed(caller.forced)
            except InputError as error:
                raise InputError(
                    f"The filter of the key {caller.name!r} does not fit {self.index.stored.folder}: {error.message}",
                    remedy=error.remedy,
                ) from error
            size = len(self.index) if mask is None else int(mask.sum())
            self._findable[caller.name] = Findable(mask=mask, size=size)
        return self._findable[caller.name]

    async def fields(self, caller: Caller) -> bytes:
        """The fields of the passages that a caller may find, with their most frequent values, as JSON."""
        if caller.name not in self._fields:
            self._fields[caller.name] = await asyncio.wrap_future(self.line.submit(lambda: self._fields_of(caller)))
        return self._fields[caller.name]

    def _fields_of(self, caller: Caller) -> bytes:
        """On the search thread."""
        findable, catalogue, found = self.findable(caller), self.index.stored.catalogue, []
        for one in catalogue.fields(findable.mask):
            values = catalogue.values(one.name, findable.mask, MOST_LISTED + 1)
            listed = [
                {"value": value, "passages": count}
                for value, count in values[:MOST_LISTED]
                if len(str(value)) <= _LONGEST_LISTED
            ]
            about = {name: getattr(one, name) for name in ("name", "kinds", "is_list", "passages")}
            found.append(about | {"values": listed, "complete": len(listed) == len(values)})
        return orjson.dumps({"passages": findable.size, "fields": found})

    async def read(self, function: Callable[[Index, Mask | None], Read], caller: Caller) -> Read:
        """The result of a function that reads the index on the search thread; the mask is that of the caller."""
        found = self.line.submit(lambda: function(self.index, self.findable(caller).mask))
        return await asyncio.wrap_future(found)

    async def answer(self, request: SearchRequest, caller: Caller = ANYBODY) -> SearchAnswer:
        """The answer as JSON, from the passages that the caller may find.

        Raises Overloaded if too many searches wait, BackendFailure if the search fails. Cancelling the caller takes the
        search out of the queue, or ends it after the query that runs.
        """
        queries = len(request.queries) * (2 if request.base else 1)
        answer = await self.line.run("queries", queries, lambda gone: self._compute(request, caller, gone))
        if self.query_log is not None:
            self.query_log.add(request.queries)
        return answer

    async def rerank(self, query: str, texts: Sequence[str], *, truncate: bool = True) -> Reranked:
        """The order of texts for a query, by the cross-encoder or by late interaction with the index' model.

        truncate: texts that are longer than the model's window are cut; else Invalid is raised. Raises NotFound if the
        index holds no tokens and there is no cross-encoder, Overloaded and BackendFailure as answer() does.
        """
        reranker = self.reranker
        if reranker is not None:
            return await self.line.run(
                "texts", len(texts), lambda gone: self._judged(reranker, query, texts, gone, truncate)
            )
        if self.index.stored.tokens is None:
            raise NotFound(
                "The index holds no token vectors, by which texts are reranked. Build it with them: "
                "embedfit index … --tokens; or serve it with a cross-encoder: --reranker MODEL"
            )
        return await self.line.run("texts", len(texts), lambda gone: self._reranked(query, texts, gone, truncate))

    def close(self) -> None:
        """Stop the thread after its current search."""
        self.line.close()

    def _compute(self, request: SearchRequest, caller: Caller, gone: Event) -> SearchAnswer:
        """On the search thread."""
        seconds: dict[str, float] = {}
        allowed, answers = self._allowed(request, caller), []
        found = {"hits": self._hits(self.index, request, allowed, gone, seconds)}
        if request.base:
            found["base"] = self._hits(self._base, request, allowed, gone, {})
        for query, *hits in zip(request.queries, *found.values(), strict=True):
            answers.append({"query": query, **dict(zip(found, hits, strict=True))})
        body = orjson.dumps({"results": answers} if isinstance(request.query, list) else answers[0])
        return SearchAnswer(body=body, empty=sum(not answer["hits"] for answer in answers), seconds=seconds)

    def _allowed(self, request: SearchRequest, caller: Caller) -> Mask | None:
        within = self.findable(caller).mask
        try:
            return self.index.stored.catalogue.allowed(request.wanted, within)
        except InputError as error:
            raise unfit(error) from error

    def _hits(
        self, index: Index, request: SearchRequest, allowed: Mask | None, gone: Event, seconds: dict[str, float]
    ) -> Iterator[list[dict[str, object]]]:
        """Each query's hits as `embedfit search --json` prints them, with the ranges of characters that it asks for."""
        found = index.search_all(request.queries, request.hits_a_query, allowed=allowed, seconds=seconds)
        for query, hits in zip(request.queries, found, strict=True):
            if gone.is_set():
                raise Left
            started = time.perf_counter()
            shown = [
                {**{name: getattr(hit, name) for name in _FIELDS}, "marked": self.index.marked(query, hit.text)}
                for hit in hits
            ]
            seconds["texts"] = seconds.get("texts", 0.0) + time.perf_counter() - started
            yield shown

    def _reranked(self, query: str, texts: Sequence[str], gone: Event, truncate: bool) -> Reranked:
        """On the search thread."""
        window, asked = self.index.asker.window, self.index.asked(query)
        sums, tokens, mass = [], 0, 0.0
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            if gone.is_set():
                raise Left
            some = [text[: window * _CHARACTERS_A_TOKEN] for text in texts[start : start + _TEXTS_AT_A_TIME]]
            found = self.index.late(asked, some)
            if not truncate and max(found.lengths) > window:
                raise Invalid(f"`texts` must have less than {window} tokens. Given: {max(found.lengths)}")
            sums.append(found.sums)
            tokens += sum(min(length, window) for length in found.lengths)
            mass = found.mass
        whole = np.concatenate(sums)
        return Reranked(
            order=np.argsort(-whole, kind="stable").tolist(), scores=whole / max(mass, 1e-9), sums=whole, tokens=tokens
        )

    def _judged(
        self, reranker: CrossEncoder, query: str, texts: Sequence[str], gone: Event, truncate: bool
    ) -> Reranked:
        """On the search thread."""
        most = self.index.asker.window * _CHARACTERS_A_TOKEN
        pairs = [(query[:most], text[:most]) for text in texts]
        lengths, cut = reranker.lengths(pairs)
        if cut and not truncate:
            raise Invalid(f"{cut} of the `texts` are longer than the reranker reads: {max(lengths)} tokens.")
        scores = []
        for start in range(0, len(pairs), _TEXTS_AT_A_TIME):
            if gone.is_set():
                raise Left
            scores.append(reranker.scores(pairs[start : start + _TEXTS_AT_A_TIME]))
        found = np.concatenate(scores)
        sure = np.clip(found.astype(np.float64), 1e-12, 1 - 1e-12)
        return Reranked(
            order=np.argsort(-found, kind="stable").tolist(),
            scores=found,
            sums=(np.log(sure) - np.log1p(-sure)).astype(np.float32),
            tokens=sum(lengths),
        )
