"""Searches of an index, on a thread of their own, in the order in which they arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from threading import Event
from typing import TypeVar

import orjson

from embedfit.errors import InputError
from embedfit.index.search import Hit, Index
from embedfit.index.store.columns import Mask
from embedfit.serving.edge.access import ANYBODY, Caller
from embedfit.serving.failures import BackendFailure, Overloaded, RequestFailure
from embedfit.serving.scheduling.batcher import QUEUE_SECONDS
from embedfit.serving.schemas import SearchRequest, unfit

#: Share of a new measurement in the running mean of the seconds that a query takes.
_NEW_SHARE = 0.1
#: Values of a field that are listed, and characters of the longest.
MOST_LISTED = 50
_LONGEST_LISTED = 200
Read = TypeVar("Read")
_FIELDS = tuple(one.name for one in fields(Hit))


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The body of an answer. empty: queries that found nothing. seconds: the search's time."""

    body: bytes
    empty: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findable:
    """The passages that a caller may find. mask: (N,), None for all. size: how many passages."""

    mask: Mask | None
    size: int


class _Left(Exception):
    """The client has left while its search ran."""


@dataclass(slots=True)
class Searcher:
    """An index that answers requests.

    One thread computes, because a search takes all cores. max_queue_seconds: a search that would wait longer is
    refused.
    """

    index: Index
    max_queue_seconds: float = QUEUE_SECONDS
    clock: Callable[[], float] = time.monotonic
    waiting: int = 0
    _base: Index = field(init=False)
    _findable: dict[str, Findable] = field(default_factory=dict)
    _fields: dict[str, bytes] = field(default_factory=dict)
    _seconds: float = 0.0
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._base = self.index.base
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search")

    def warm_up(self) -> None:
        """Load the models. Raises their errors."""
        for index in (self.index, self._base):
            index.search("warm up", 1)

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
            self._fields[caller.name] = await asyncio.wrap_future(self._pool.submit(self._fields_of, caller))
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
        return await asyncio.wrap_future(self._pool.submit(lambda: function(self.index, self.findable(caller).mask)))

    async def answer(self, request: SearchRequest, caller: Caller = ANYBODY) -> SearchAnswer:
        """The answer as JSON, from the passages that the caller may find.

        Raises Overloaded if too many searches wait, BackendFailure if the search fails. Cancelling the caller takes the
        search out of the queue, or ends it after the query that runs.
        """
        queries = len(request.queries) * (2 if request.base else 1)
        delay = self.waiting * self._seconds
        if delay > self.max_queue_seconds:
            raise Overloaded(retry_after=max(1, min(60, round(delay))))
        gone = Event()
        self.waiting += queries
        try:
            answer = await asyncio.wrap_future(self._pool.submit(self._compute, request, caller, gone))
        except asyncio.CancelledError:
            gone.set()
            raise
        finally:
            self.waiting -= queries
        self._seconds += (_NEW_SHARE if self._seconds else 1.0) * (answer.seconds / queries - self._seconds)
        return answer

    def close(self) -> None:
        """Stop the thread after its current search."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compute(self, request: SearchRequest, caller: Caller, gone: Event) -> SearchAnswer:
        """On the search thread."""
        started, answers = self.clock(), []
        try:
            allowed = self._allowed(request, caller)
            found = {"hits": self._hits(self.index, request, allowed, gone)}
            if request.base:
                found["base"] = self._hits(self._base, request, allowed, gone)
            for query, *hits in zip(request.queries, *found.values(), strict=True):
                answers.append({"query": query, **dict(zip(found, hits, strict=True))})
            body = orjson.dumps({"results": answers} if isinstance(request.query, list) else answers[0])
        except RequestFailure:
            raise
        except _Left:
            body = b""
        except Exception as error:  # whatever torch or numpy raises becomes this request's 424
            raise BackendFailure(f"The search failed: {type(error).__name__}: {error}"[:500]) from error
        empty = sum(not answer["hits"] for answer in answers)
        return SearchAnswer(body, empty, self.clock() - started)

    def _allowed(self, request: SearchRequest, caller: Caller) -> Mask | None:
        within = self.findable(caller).mask
        try:
            return self.index.stored.catalogue.allowed(request.wanted, within)
        except InputError as error:
            raise unfit(error) from error

    def _hits(
        self, index: Index, request: SearchRequest, allowed: Mask | None, gone: Event
    ) -> Iterator[list[dict[str, object]]]:
        """Each query's hits as `embedfit search --json` prints them, with the ranges of characters that it asks for."""
        found = index.search_all(request.queries, request.hits_a_query, allowed=allowed)
        for query, hits in zip(request.queries, found, strict=True):
            if gone.is_set():
                raise _Left
            yield [
                {**{name: getattr(hit, name) for name in _FIELDS}, "marked": self.index.marked(query, hit.text)}
                for hit in hits
            ]
