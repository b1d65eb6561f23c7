"""The passages of an index, in this process or behind a server, for the retrievers of other frameworks."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from embedfit.embedders.client import Patience, aask, ask
from embedfit.embedders.http import HttpSender, Transport
from embedfit.errors import InputError, UsageError
from embedfit.files.textfiles import without_surrogates
from embedfit.index.store.filters import filter_of
from embedfit.llm.transport.retry import CallError, RetryPolicy

if TYPE_CHECKING:  # loads torch, which users of a server don't need
    from embedfit.index.search import Index

#: Conditions on the fields of passages, as docs/search.md lists them. None: no condition.
Wanted = Mapping[str, object] | Sequence[str] | str | None
#: A field of the documents with one of these names is kept as metadata.NAME.
OWN = ("document", "title", "page", "score")
#: A person waits for a search, so that it is tried again for a moment only.
_PATIENCE = RetryPolicy(attempts=3, base_s=0.25, cap_s=2.0)


class Found(BaseModel):
    """A passage that was found. page: 0 if the document's format has no pages."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    passage_id: str
    score: float
    text: str
    document: str
    page: int
    heading: str
    metadata: dict[str, object]

    def described(self) -> dict[str, object]:
        """Document, title, page, score and the fields of the passage, in one dictionary."""
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in self.metadata.items()}
        for name in OWN:
            if name in fields:
                free = f"metadata.{name}"
                while free in fields:
                    free = f"metadata.{free}"
                fields[free] = fields.pop(name)
        return fields | dict(zip(OWN, (self.document, self.heading, self.page, self.score), strict=True))


class Search(Protocol):
    """A way to search an index. Thread-safe."""

    def search(self, query: str, k: int, where: Wanted) -> list[Found]:
        """The k best passages that meet the conditions, best first. Raises EmbedfitError."""

    async def asearch(self, query: str, k: int, where: Wanted) -> list[Found]:
        """search() without blocking the event loop."""


def open_search(index: object, base_url: str | None, api_key: str | None, timeout: float) -> Search:
    """The search of a run folder, an index folder or an opened index, or else of a server.

    base_url: default $EMBEDFIT_BASE_URL, if no index is named. Raises UsageError if both are named or neither is, and
    the errors of opening an index.
    """
    if index is not None and base_url is not None:
        raise UsageError("Both an index and a server are named.", remedy="Leave out index or base_url.")
    url = base_url or (None if index is not None else os.environ.get("EMBEDFIT_BASE_URL"))
    if url is not None:
        return ServedIndex(url, api_key=api_key, timeout=timeout)
    if index is None:
        raise UsageError(
            "No index is named.",
            remedy='Name a run or index folder, index="runs/em", or a server, base_url="http://127.0.0.1:3000"',
        )
    from embedfit.index.search import Index  # loads torch

    if isinstance(index, Index):
        return LocalIndex(index)
    if not isinstance(index, (str, Path)):
        raise UsageError(f"An index is a folder or an embedfit.Index, not a {type(index).__name__}.")
    return LocalIndex(Index.open(index))


class LocalIndex:
    """An index in this process. One search runs at a time, because it takes all cores."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._turn = Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search")

    def search(self, query: str, k: int, where: Wanted) -> list[Found]:
        """The k best passages that meet the conditions, best first. Raises InputError."""
        with self._turn:
            return [Found.model_validate(hit) for hit in self._index.search(query, k, where=where)]

    async def asearch(self, query: str, k: int, where: Wanted) -> list[Found]:
        """search() on a thread of its own."""
        return await asyncio.wrap_future(self._pool.submit(self.search, query, k, where))


class _Answer(BaseModel):
    hits: list[Found]


class ServedIndex:
    """An index behind `embedfit serve`. base_url: with or without /search at its end."""

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout: float = 60.0, transport: Transport = None
    ) -> None:
        """api_key: default $EMBEDFIT_API_KEY. timeout: seconds of one request. transport: httpx's, in tests."""
        self._base = re.sub(r"/search$", "", base_url.rstrip("/"))
        self._sender = HttpSender(
            self._base,
            key_name="EMBEDFIT_API_KEY",
            api_key=api_key,
            timeout=timeout,
            remedy="Is it running? For example: embedfit serve runs/em --port 8080",
            transport=transport,
        )
        self.patience = Patience(policy=_PATIENCE)

    def search(self, query: str, k: int, where: Wanted) -> list[Found]:
        """The k best passages that meet the conditions, best first. Raises CallError, and InputError for a filter."""
        return self._found(ask(self._sender, "/search", _body(query, k, where), self.patience))

    async def asearch(self, query: str, k: int, where: Wanted) -> list[Found]:
        """search() without blocking the event loop."""
        return self._found(await aask(self._sender, "/search", _body(query, k, where), self.patience))

    def _found(self, reply: bytes) -> list[Found]:
        try:
            return _Answer.model_validate_json(reply).hits
        except ValidationError as error:
            shown = reply[:200].decode("utf-8", "replace")
            raise CallError(
                f"The server did not answer /search with passages: {shown!r}",
                status=200,
                remedy="Name a server that serves an index: embedfit serve runs/em --port 8080",
            ) from error


def _body(query: str, k: int, where: Wanted) -> bytes:
    if not isinstance(query, str):
        raise InputError(f"A query is a text, not a {type(query).__name__}.")
    filter_of(where)  # a filter that can't be read is refused before it is sent
    request = {"query": without_surrogates(query), "k": k, "filter": where}
    try:
        return json.dumps(request, default=_plain).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"The filter can't be sent as JSON: {error}") from error


def _plain(value: object) -> object:
    """What filters read and JSON does not know: dates, tuples inside, numbers of numpy."""
    for name in ("isoformat", "item"):
        if hasattr(value, name):
            return getattr(value, name)()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {str(value)[:60]!r}")
