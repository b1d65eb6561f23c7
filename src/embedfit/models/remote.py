"""Texts to unit vectors by a server: TEI or embedfit over HTTP, or a SageMaker endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embedfit.errors import EmbedfitError, MissingDependency
from embedfit.models.architecture import document_instruction

Vectors = npt.NDArray[np.float32]

#: What SageMaker's invoke_endpoint takes in one request, in bytes.
SAGEMAKER_BYTES = 6_291_456
#: What TEI takes unless told otherwise.
TEI_ROWS, TEI_BYTES = 32, 2_000_000

_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_TRIES = 6
_BATCH_LIMIT = re.compile(r"maximum allowed batch size (\d+)")


class RemoteError(EmbedfitError):
    """A server did not give vectors. status: of the HTTP reply, None where none came."""

    def __init__(self, message: str, *, status: int | None = None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in _RETRYABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server takes in one request: texts, and bytes of the whole body."""

    rows: int = TEI_ROWS
    body_bytes: int = TEI_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server says of itself.

    prompts: None where it does not say. default_prompt: what it puts before texts of requests that name no prompt.
    """

    limits: Limits
    prompts: dict[str, str] | None = None
    default_prompt: str = ""


class Transport(Protocol):
    """One way to send a request."""

    def info(self) -> ServerInfo:
        """The server's limits. May ask it."""

    def send(self, body: bytes) -> bytes:
        """The reply to a JSON body. Raises RemoteError."""

    async def asend(self, body: bytes) -> bytes:
        """The same, without blocking the event loop."""


def split(texts: Sequence[str], limits: Limits, overhead: int = 200) -> list[range]:
    """Consecutive ranges of texts that fit the limits. overhead: bytes of the body beside the texts.

    Raises RemoteError naming the text that fits into no request.
    """
    room = limits.body_bytes - overhead
    ranges: list[range] = []
    start, used = 0, 0
    for index, text in enumerate(texts):
        size = len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) + 1
        if size > room:
            raise RemoteError(
                f"Text {index} has {size:,} bytes; the server takes {limits.body_bytes:,} in a request.",
                remedy="Cut it into passages: the model sees only the first few hundred tokens anyway.",
            )
        if index > start and (index - start >= limits.rows or used + size > room):
            ranges.append(range(start, index))
            start, used = index, 0
        used += size
    if texts:
        ranges.append(range(start, len(texts)))
    return ranges


class RemoteEncoder:
    """A server with the face of models.encoder.Encoder: encode() gives unit rows.

    query_instruction: put before queries here; None: the server's own prompt "query" is used, where it has one.
    document_instruction: put before passages here; None: what the server says that its model has.
    concurrency: requests at the same time for a long list of texts.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        concurrency: int = 4,
        sleep: Callable[[float], None] = time.sleep,
        asleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.transport = transport
        self.query_instruction = query_instruction
        self.document_instruction = document_instruction
        self.concurrency = concurrency
        self._sleep, self._asleep = sleep, asleep
        self._info: ServerInfo | None = None
        #: False once the server has said that it knows no prompt "query"
        self._has_query_prompt = True

    # --- without an event loop

    def encode(self, texts: Sequence[str], *, is_query: bool = False) -> Vectors:
        """Vectors of texts: (N, H) float32, unit rows; (0, 0) for no texts. Raises RemoteError."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        info = self._known_info()
        prefix, name = self._prompt(info, is_query)
        prepared = _prefixed(texts, prefix)
        if name and info.prompts is None:
            # The first request settles whether the server knows the prompt; the others may then go side by side.
            try:
                first = self._encode(prepared[:1], info.limits, name)
            except RemoteError as error:
                self._forget_prompt(error)
                return self._encode(prepared, info.limits, None)
            rest = self._encode(prepared[1:], info.limits, name) if len(prepared) > 1 else first[:0]
            return np.concatenate([first, rest])
        return self._encode(prepared, info.limits, name)

    def _encode(self, texts: Sequence[str], limits: Limits, prompt_name: str | None) -> Vectors:
        try:
            parts = split(texts, limits)
            if len(parts) == 1:
                return self._request(texts, prompt_name)
            with ThreadPoolExecutor(min(self.concurrency, len(parts))) as pool:
                jobs = [pool.submit(self._request, texts[part.start : part.stop], prompt_name) for part in parts]
                try:
                    return np.concatenate([job.result() for job in jobs])
                except BaseException:
                    for job in jobs:
                        job.cancel()
                    raise
        except RemoteError as error:
            smaller = self._smaller(error, limits)
            if smaller is None:
                raise
            return self._encode(texts, smaller, prompt_name)

    def _request(self, texts: Sequence[str], prompt_name: str | None) -> Vectors:
        body = _body(texts, prompt_name)
        for attempt in range(_TRIES):
            try:
                return _vectors(self.transport.send(body), len(texts))
            except RemoteError as error:
                if not error.retryable or attempt == _TRIES - 1:
                    raise
                self._sleep(_pause(attempt))
        raise RemoteError("This is a bug: no attempt was made.")

    # --- on an event loop

    async def aencode(self, texts: Sequence[str], *, is_query: bool = False) -> Vectors:
        """The same as encode, without blocking the event loop."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        info = self._info if self._info is not None else await asyncio.to_thread(self._known_info)
        prefix, name = self._prompt(info, is_query)
        prepared = _prefixed(texts, prefix)
        if name and info.prompts is None:
            try:
                first = await self._aencode(prepared[:1], info.limits, name)
            except RemoteError as error:
                self._forget_prompt(error)
                return await self._aencode(prepared, info.limits, None)
            if len(prepared) == 1:
                return first
            return np.concatenate([first, await self._aencode(prepared[1:], info.limits, name)])
        return await self._aencode(prepared, info.limits, name)

    async def _aencode(self, texts: Sequence[str], limits: Limits, prompt_name: str | None) -> Vectors:
        gate = asyncio.Semaphore(self.concurrency)

        async def one(part: range) -> Vectors:
            async with gate:
                return await self._arequest(texts[part.start : part.stop], prompt_name)

        try:
            return np.concatenate(await asyncio.gather(*(one(part) for part in split(texts, limits))))
        except RemoteError as error:
            smaller = self._smaller(error, limits)
            if smaller is None:
                raise
            return await self._aencode(texts, smaller, prompt_name)

    async def _arequest(self, texts: Sequence[str], prompt_name: str | None) -> Vectors:
        body = _body(texts, prompt_name)
        for attempt in range(_TRIES):
            try:
                return _vectors(await self.transport.asend(body), len(texts))
            except RemoteError as error:
                if not error.retryable or attempt == _TRIES - 1:
                    raise
                await self._asleep(_pause(attempt))
        raise RemoteError("This is a bug: no attempt was made.")

    # --- both

    def _prompt(self, info: ServerInfo, is_query: bool) -> tuple[str, str | None]:
        """What is put before the texts here, and the name of the prompt that the server is asked to put there.

        The server's own is preferred where it is the same text: only so can it leave a prompt out of the pooling.
        The name "" asks it to put nothing there.
        """
        role, given = ("query", self.query_instruction) if is_query else ("document", self.document_instruction)
        known = info.prompts or {}
        if given is None and is_query and info.prompts is None:
            return "", role if self._has_query_prompt else None
        wanted = document_instruction(known) if given is None and not is_query else given
        wanted = known.get(role, "") if wanted is None else wanted
        if role in known and known[role] == wanted and (wanted or info.default_prompt):
            return "", role
        return wanted, "" if info.default_prompt else None

    def _known_info(self) -> ServerInfo:
        info = self._info if self._info is not None else self.transport.info()
        self._info = info
        return info

    def _forget_prompt(self, error: RemoteError) -> None:
        """Raise, unless the error says that the model has no prompt of that name."""
        if error.status not in (400, 413, 422) or "prompt" not in error.message:
            raise error
        self._has_query_prompt = False

    def _smaller(self, error: RemoteError, limits: Limits) -> Limits | None:
        """The limits that a server's refusal tells, or None where it is about something else."""
        told = _BATCH_LIMIT.search(error.message)
        if told is None or int(told.group(1)) >= limits.rows or int(told.group(1)) < 1:
            return None
        smaller = Limits(rows=int(told.group(1)), body_bytes=limits.body_bytes)
        self._info = replace(self._known_info(), limits=smaller)
        return smaller


def _pause(attempt: int) -> float:
    """Seconds before the next try: exponential with full jitter."""
    return random.uniform(0, min(0.25 * 2**attempt, 8.0))


def _prefixed(texts: Sequence[str], prefix: str) -> list[str]:
    # A server answers 400 to a whole batch for one empty text; a blank has the same tokens: none of its own.
    return [prefix + text or " " for text in texts]


def _body(texts: Sequence[str], prompt_name: str | None) -> bytes:
    value: dict[str, Any] = {"inputs": list(texts), "truncate": True}
    if prompt_name is not None:
        value["prompt_name"] = prompt_name
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _vectors(reply: bytes, count: int) -> Vectors:
    try:
        vectors = np.asarray(json.loads(reply), np.float32)
    except (ValueError, TypeError) as error:
        raise RemoteError(f"The server's reply is no list of vectors: {reply[:200]!r}", status=200) from error
    if vectors.ndim != 2 or len(vectors) != count:
        raise RemoteError(f"The server sent {vectors.shape} numbers for {count} texts.", status=200)
    if not np.isfinite(vectors).all():
        raise RemoteError("The server sent vectors that are not numbers (NaN).", status=200)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


class HttpTransport:
    """TEI's or embedfit's own server.

    base_url: with or without /v1 or /embed at its end. api_key: default $EMBEDFIT_API_KEY; "" for none.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None, timeout: float = 60.0) -> None:
        try:
            import httpx  # an optional package
        except ImportError as error:
            raise MissingDependency("httpx", extra="langchain", needed_for="A server's vectors") from error
        self._httpx = httpx
        self.base_url = re.sub(r"/(v1|embed|embeddings|v1/embeddings)$", "", base_url.rstrip("/"))
        self._headers = {"Content-Type": "application/json"}
        key = os.environ.get("EMBEDFIT_API_KEY", "") if api_key is None else api_key
        if key.strip():
            self._headers["Authorization"] = f"Bearer {key.strip()}"
        self._timeout = timeout
        # Made once: reading the certificates takes longer than a request.
        self._verify = httpx.create_ssl_context()
        self._client = httpx.Client(headers=self._headers, timeout=timeout, verify=self._verify)
        # Nobody closes an Embeddings object, so its connections go with it.
        weakref.finalize(self, self._client.close)

    def info(self) -> ServerInfo:
        """Limits and prompts from /info; TEI's defaults where a proxy hides it."""
        try:
            reply = self._client.get(f"{self.base_url}/info")
            value = reply.json() if reply.status_code == 200 else {}
        except (self._httpx.HTTPError, ValueError):
            value = {}
        limits = Limits(
            rows=int(value.get("max_client_batch_size") or TEI_ROWS),
            body_bytes=int(value.get("payload_limit") or TEI_BYTES),
        )
        return ServerInfo(
            limits=limits, prompts=value.get("prompts"), default_prompt=str(value.get("default_prompt") or "")
        )

    def send(self, body: bytes) -> bytes:
        """POST to /embed."""
        try:
            reply = self._client.post(f"{self.base_url}/embed", content=body)
        except self._httpx.HTTPError as error:
            raise self._no_reply(error) from error
        return self._content(reply)

    async def asend(self, body: bytes) -> bytes:
        """POST to /embed. A client of its own each time: an event loop can't use another loop's connections."""
        try:
            async with self._httpx.AsyncClient(
                headers=self._headers, timeout=self._timeout, verify=self._verify
            ) as client:
                reply = await client.post(f"{self.base_url}/embed", content=body)
        except self._httpx.HTTPError as error:
            raise self._no_reply(error) from error
        return self._content(reply)

    def _no_reply(self, error: Exception) -> RemoteError:
        return RemoteError(
            f"{self.base_url} can't be reached: {type(error).__name__}: {error}",
            remedy="Is it running? For example: embedfit serve MODEL --port 8080",
        )

    def _content(self, reply: Any) -> bytes:  # noqa: ANN401 - httpx.Response
        if reply.status_code == 200:
            content: bytes = reply.content
            return content
        raise RemoteError(
            f"{self.base_url} answered {reply.status_code}: {_message(reply.text)}",
            status=reply.status_code,
            remedy="Give the server's key as api_key, or set EMBEDFIT_API_KEY." if reply.status_code == 401 else None,
        )


class SagemakerTransport:
    """A SageMaker endpoint.

    client: of boto3's sagemaker-runtime. rows: texts in one request; where that is too many, the container's
    first refusal says how many it takes.
    """

    def __init__(self, client: Any, endpoint: str, *, rows: int = TEI_ROWS) -> None:  # noqa: ANN401
        self._client = client
        self.endpoint = endpoint
        self._rows = rows

    def info(self) -> ServerInfo:
        """SageMaker's own limit of bytes; invoke_endpoint can't ask for the container's."""
        return ServerInfo(limits=Limits(rows=self._rows, body_bytes=SAGEMAKER_BYTES))

    def send(self, body: bytes) -> bytes:
        """invoke_endpoint."""
        from botocore.exceptions import BotoCoreError, ClientError  # boto3 is an optional package

        try:
            reply = self._client.invoke_endpoint(
                EndpointName=self.endpoint, ContentType="application/json", Accept="application/json", Body=body
            )
            content: bytes = reply["Body"].read()
            return content
        except ClientError as error:
            raise self._refused(error) from error
        except BotoCoreError as error:
            raise RemoteError(f"The endpoint {self.endpoint} can't be reached: {error}", status=400) from error

    async def asend(self, body: bytes) -> bytes:
        """invoke_endpoint in a thread: boto3 has no other way."""
        return await asyncio.to_thread(self.send, body)

    def _refused(self, error: Any) -> RemoteError:  # noqa: ANN401 - botocore has no types
        """The container's own status and message, which SageMaker wraps into a ModelError of status 424."""
        reply = error.response
        code = reply.get("Error", {}).get("Code", "")
        status = reply.get("OriginalStatusCode") or reply.get("ResponseMetadata", {}).get("HTTPStatusCode")
        text = reply.get("OriginalMessage") or reply.get("Error", {}).get("Message", "")
        return RemoteError(
            f"The endpoint {self.endpoint} answered {code} {status}: {_message(text)}",
            status=int(status) if status else 400,
            remedy=f"Look at it: embedfit deploy sagemaker status --name {self.endpoint}",
        )


def _message(text: str) -> str:
    """TEI's message out of its JSON."""
    try:
        value = json.loads(text)
        return str(value.get("error") or value.get("message") or text)[:500]
    except (ValueError, AttributeError):
        return text[:500]
