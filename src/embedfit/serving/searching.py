"""Searches of an index, off the event loop: one thread, in the order in which they came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from threading import Event
from typing import Any

import orjson

from embedfit.errors import InputError
from embedfit.index.columns import Mask
from embedfit.index.search import Hit, Index
from embedfit.serving.batcher import QUEUE_SECONDS
from embedfit.serving.failures import BackendFailure, Overloaded, RequestFailure
from embedfit.serving.requests import SearchRequest, unfit

#: Share of a new measurement in the running mean of the seconds that a query takes.
_NEW_SHARE = 0.1
_FIELDS = tuple(one.name for one in fields(Hit))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAnswer:
    """The body of an answer. empty: queries that found nothing."""

    body: bytes
    empty: int


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
    _seconds: float = 0.0
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._base = self.index.base
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search")

    def warm_up(self) -> None:
        """Load the models. Raises what they raise."""
        for index in (self.index, self._base):
            index.search("warm up", 1)

    async def answer(self, request: SearchRequest) -> SearchAnswer:
        """The answer as JSON.

        Raises Overloaded where too many searches wait, BackendFailure where the search fails. Cancelling the caller
        takes the search out of the queue, or ends it after the query at which it is.
        """
        queries = len(request.queries) * (2 if request.base else 1)
        delay = self.waiting * self._seconds
        if delay > self.max_queue_seconds:
            raise Overloaded(retry_after=max(1, min(60, round(delay))))
        gone = Event()
        self.waiting += queries
        try:
            answer, took = await asyncio.wrap_future(self._pool.submit(self._compute, request, gone))
        except asyncio.CancelledError:
            gone.set()
            raise
        finally:
            self.waiting -= queries
        mean = took / queries
        self._seconds += (_NEW_SHARE if self._seconds else 1.0) * (mean - self._seconds)
        return answer

    def close(self) -> None:
        """Stop the thread after the search that it computes."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compute(self, request: SearchRequest, gone: Event) -> tuple[SearchAnswer, float]:
        """On the search thread."""
        started = self.clock()
        try:
            allowed = self._allowed(request)
            found = [self._hits(self.index, request, allowed, gone)]
            if request.base:
                found.append(self._hits(self._base, request, allowed, gone))
            answers, empty = [], 0
            for query, *hits in zip(request.queries, *found, strict=True):
                empty += not hits[0]
                answers.append({"query": query, **dict(zip(("hits", "base"), hits, strict=False))})
            body = orjson.dumps({"results": answers} if request.many else answers[0])
        except RequestFailure:
            raise
        except _Left:
            return SearchAnswer(body=b"", empty=0), self.clock() - started
        except Exception as error:  # whatever torch or numpy raises becomes this request's 424
            raise BackendFailure(f"The search failed: {type(error).__name__}: {error}"[:500]) from error
        return SearchAnswer(body=body, empty=empty), self.clock() - started

    def _allowed(self, request: SearchRequest) -> Mask | None:
        try:
            return self.index.stored.catalogue.allowed(request.wanted)
        except InputError as error:
            raise unfit(error) from error

    def _hits(
        self, index: Index, request: SearchRequest, allowed: Mask | None, gone: Event
    ) -> Iterator[list[dict[str, Any]]]:
        for query, hits in zip(
            request.queries, index.search_all(request.queries, request.k, allowed=allowed), strict=True
        ):
            if gone.is_set():
                raise _Left
            yield [self._as_json(query, hit) for hit in hits]

    def _as_json(self, query: str, hit: Hit) -> dict[str, Any]:
        """What `embedfit search --json` prints of a hit, and the ranges of characters that the query asks for."""
        return {**{name: getattr(hit, name) for name in _FIELDS}, "marked": self.index.marked(query, hit.text)}
