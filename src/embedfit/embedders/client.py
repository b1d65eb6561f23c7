"""The client of embedding servers: splitting, retries and prompts, written once for use with and without an event loop.

A kind of server is a Wire (the form of its requests and replies) and a Sender (the way of a request to it).
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np

from embedfit.errors import UsageError
from embedfit.files.textfiles import Json
from embedfit.llm.transport.retry import CallError, RetryPolicy
from embedfit.models.architecture import document_instruction
from embedfit.models.store.vectors import Storage
from embedfit.numerics.arrays import Vectors
from embedfit.path.workspace import sha256_json

Item = TypeVar("Item")
Result = TypeVar("Result")
#: A coroutine function whose coroutines neither take values nor give any before the end.
Job = Callable[[Item], Coroutine[None, None, Result]]

_BATCH_LIMIT = re.compile(r"maximum allowed batch size (\d{1,9})")
#: Statuses by which a server refuses the content of a request. TEI's changed from 413 to 422 with version 1.9.
_REFUSALS = (400, 413, 422)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A server's description of itself. The defaults are TEI's.

    rows, body_bytes: the most texts, and bytes of the whole body, in one request. prompts: None if it does not list
    them. default_prompt: the text that it puts before texts of requests that name no prompt. has_towers: it encodes
    queries in another way than passages, and goes by the prompt's name.
    """

    rows: int = 32
    body_bytes: int = 2_000_000
    prompts: dict[str, str] | None = None
    default_prompt: str = ""
    has_towers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """The protocol of a kind of server.

    path: the address of requests. body: (texts, name of a prompt or None) → the request as JSON. rows: the reply's JSON
    → one vector a text; TEI's is that already; may raise KeyError or TypeError. info_path: the address of the server's
    description, "" for none. read_info: that description as JSON → ServerInfo. info: used without a description.
    """

    path: str
    body: Callable[[Sequence[str], str | None], dict[str, object]]
    rows: Callable[[Json], Json] = lambda value: value
    info_path: str = ""
    read_info: Callable[[Json], ServerInfo] | None = None
    info: ServerInfo = ServerInfo()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The number of tries of a request, and the waits between them: sleep blocks, asleep waits on an event loop."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    rng: random.Random = field(default_factory=random.Random)
    sleep: Callable[[float], None] = time.sleep
    asleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Sender(Protocol):
    """One way to a server. Thread-safe."""

    def send(self, path: str, body: bytes | None) -> bytes:
        """POST a body of JSON, or GET if it is None. Returns the reply's body. Raises CallError."""

    async def asend(self, path: str, body: bytes | None) -> bytes:
        """send() without blocking the event loop."""

    def close(self) -> None:
        """Close the connections. The next request opens new ones."""


class ServerEmbedder:
    """An embedding model behind a server.

    name: for people. address: identifies server and model; with the instructions it makes the key. query_instruction:
    the client puts it before queries; None: the server's own prompt "query" is used, if it has one.
    document_instruction: the client puts it before passages; None: the server's own prompt for passages, if it has one.
    concurrency: requests at the same time for a long list of texts.
    """

    storage: Storage = "probed"

    def __init__(
        self,
        wire: Wire,
        sender: Sender,
        *,
        name: str,
        address: Sequence[str],
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        concurrency: int = 4,
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self.instruction = query_instruction or ""
        self.key = sha256_json([*address, query_instruction is None, document_instruction])
        self._wire, self._sender = wire, sender
        self._query_instruction, self._document_instruction = query_instruction, document_instruction
        self.patience = patience or Patience()
        self._blocking = _Blocking(sender, concurrency)
        self._on_loop = _OnLoop(sender, concurrency)
        self._info: ServerInfo | None = None
        #: For a server that lists no prompts: their names, with True for those that it took and False for refused ones.
        self._takes: dict[str, bool] = {}

    def embed(self, texts: Sequence[str], *, is_query: bool = False) -> Vectors:
        """Unit rows: (N, H) float32; (0, 0) for no texts. Raises CallError."""
        return _finish(self._embed(self._blocking, texts, is_query))

    async def aembed(self, texts: Sequence[str], *, is_query: bool = False) -> Vectors:
        """The same as embed, without blocking the event loop."""
        return await self._embed(self._on_loop, texts, is_query)

    def release(self) -> None:
        """Close the connections."""
        self._sender.close()

    async def _embed(self, way: _Way, texts: Sequence[str], is_query: bool) -> Vectors:
        if not texts:
            return np.zeros((0, 0), np.float32)
        info = await self._described(way)
        prefix, names = self._prompts(info, is_query)
        # A server refuses a whole batch (400) for one empty text. A blank has no tokens either, and is accepted.
        prepared = [prefix + text or " " for text in texts]
        for name in names:
            if self._takes.get(name) is False:
                continue
            try:
                vectors = await self._all(way, info, prepared, name)
            except CallError as error:
                told = error.status in _REFUSALS and "prompt" in error.message.lower()
                if not told or info.prompts is not None or name in self._takes:
                    raise
                self._takes[name] = False
            else:
                self._takes[name] = True
                return vectors
        return await self._all(way, info, prepared, None)

    def _prompts(self, info: ServerInfo, is_query: bool) -> tuple[str, tuple[str, ...]]:
        """The text to put before the texts here, and the names of prompts to ask the server for, until it takes one.

        The server's own prompt is preferred if it is the same text, because only the server can leave a prompt out of
        the pooling. The name "" asks it to put no prompt before the texts, not even its default one. Raises UsageError
        for an instruction of the client's own where only the server's prompts tell queries from passages.
        """
        given = self._query_instruction if is_query else self._document_instruction
        if info.has_towers:
            theirs = (info.prompts or {}).get("query" if is_query else "document")
            if given is not None and given != theirs:
                raise UsageError(
                    f"{self.name} encodes queries and passages in different ways, and tells them apart by its own "
                    f"prompts, so it can't take {given!r} before {'queries' if is_query else 'passages'}.",
                    remedy="Leave the instruction out: the server puts its own.",
                )
            return "", ("query",) if is_query else ("document",)
        if info.prompts is None:
            own = ("query",) if is_query else ("document", "passage")
            return ("", own) if given is None else (given, ("",))
        role = "query" if is_query else "document"
        theirs = info.prompts.get(role, "") if is_query else document_instruction(info.prompts)
        wanted = theirs if given is None else given
        if info.prompts.get(role) == wanted and (wanted or info.default_prompt):
            return "", (role,)
        return wanted, ("",) if info.default_prompt else ()

    async def _described(self, way: _Way) -> ServerInfo:
        """The server's description; the usual one if a proxy hides it."""
        if self._info is not None:
            return self._info
        info = self._wire.info
        if self._wire.info_path and self._wire.read_info is not None:
            try:
                info = self._wire.read_info(json.loads(await way.send(self._wire.info_path, None)))
            except CallError as error:
                if error.retryable:
                    return info  # not kept: the next call may get the description
            except (ValueError, TypeError, AttributeError):
                pass  # the page is no description
        self._info = info
        return info

    async def _all(self, way: _Way, info: ServerInfo, texts: Sequence[str], prompt: str | None) -> Vectors:
        async def request(part: range) -> Vectors:
            return await self._request(way, texts[part.start : part.stop], prompt)

        parts = split(texts, info, overhead=len(_json(self._wire.body([], prompt))))
        try:
            return np.concatenate(await way.each(request, parts))
        except CallError as error:
            told = _BATCH_LIMIT.search(error.message)
            if told is None or not 1 <= int(told[1]) < info.rows:
                raise
            self._info = smaller = replace(info, rows=int(told[1]))
        return await self._all(way, smaller, texts, prompt)

    async def _request(self, way: _Way, texts: Sequence[str], prompt: str | None) -> Vectors:
        body = _json(self._wire.body(texts, prompt))
        return self._unit_rows(await _patiently(way, self._wire.path, body, self.patience), len(texts))

    def _unit_rows(self, reply: bytes, count: int) -> Vectors:
        try:
            vectors = np.asarray(self._wire.rows(json.loads(reply)), np.float32)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CallError(f"{self.name} did not answer with vectors: {reply[:200]!r}", status=200) from error
        if vectors.ndim != 2 or len(vectors) != count or not vectors.size:
            raise CallError(f"{self.name} sent {vectors.shape} numbers for {count} texts.", status=200)
        if not np.isfinite(vectors).all():
            raise CallError(f"{self.name} sent vectors that are not numbers (NaN).", status=200)
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit


@dataclass(frozen=True, slots=True)
class _Blocking:
    """Awaitables that never wait for an event loop, and so run to their end without one."""

    sender: Sender
    concurrency: int

    async def send(self, path: str, body: bytes | None) -> bytes:
        return self.sender.send(path, body)

    async def pause(self, patience: Patience, seconds: float) -> None:
        patience.sleep(seconds)

    async def each(self, function: Job[Item, Result], items: Sequence[Item]) -> list[Result]:
        if len(items) == 1:
            return [await function(items[0])]
        with ThreadPoolExecutor(min(self.concurrency, len(items))) as pool:
            # A failure cancels the calls that have not started.
            return list(pool.map(lambda item: _finish(function(item)), items))


@dataclass(frozen=True, slots=True)
class _OnLoop:
    """Awaitables of the running event loop."""

    sender: Sender
    concurrency: int

    async def send(self, path: str, body: bytes | None) -> bytes:
        return await self.sender.asend(path, body)

    async def pause(self, patience: Patience, seconds: float) -> None:
        await patience.asleep(seconds)

    async def each(self, function: Job[Item, Result], items: Sequence[Item]) -> list[Result]:
        gate = asyncio.Semaphore(self.concurrency)

        async def one(item: Item) -> Result:
            async with gate:
                return await function(item)

        tasks = [asyncio.ensure_future(one(item)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:  # a failure cancels the others
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


_Way = _Blocking | _OnLoop


def ask(sender: Sender, path: str, body: bytes | None, patience: Patience) -> bytes:
    """The reply's body, after as many tries as patience allows. Raises CallError."""
    return _finish(_patiently(_Blocking(sender, 1), path, body, patience))


async def aask(sender: Sender, path: str, body: bytes | None, patience: Patience) -> bytes:
    """ask() without blocking the event loop."""
    return await _patiently(_OnLoop(sender, 1), path, body, patience)


async def _patiently(way: _Way, path: str, body: bytes | None, patience: Patience) -> bytes:
    attempt = 1
    while True:
        try:
            return await way.send(path, body)
        except CallError as error:
            if patience.policy.gives_up(error, attempt, 0.0):
                raise
            await way.pause(patience, patience.policy.delay(error, attempt, patience.rng))
        attempt += 1


def _finish(coroutine: Coroutine[None, None, Result]) -> Result:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("This is a bug: a blocking call waited for an event loop.")


def split(texts: Sequence[str], info: ServerInfo, overhead: int = 200) -> list[range]:
    """Consecutive ranges of texts that fit the server's limits. overhead: bytes of the body beside the texts.

    Raises CallError naming the text that fits into no request.
    """
    room = info.body_bytes - overhead
    ranges: list[range] = []
    start, used = 0, 0
    for index, text in enumerate(texts):
        size = len(_json(text)) + 2  # a comma and a blank
        if size > room:
            raise CallError(
                f"Text {index} has {size - 2:,} bytes; the server takes {info.body_bytes:,} in a request.",
                status=413,
                remedy="Cut it into passages: the model sees only the first few hundred tokens anyway.",
            )
        if index > start and (index - start >= info.rows or used + size > room):
            ranges.append(range(start, index))
            start, used = index, 0
        used += size
    if texts:
        ranges.append(range(start, len(texts)))
    return ranges


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
