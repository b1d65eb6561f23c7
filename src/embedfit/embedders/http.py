"""Requests to a server by HTTP."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from embedfit.errors import MissingDependency
from embedfit.llm.transport.retry import CallError, retry_after
from embedfit.network.addresses import certificates, checked_address

if TYPE_CHECKING:
    import httpx

#: A transport that both of httpx's clients take, such as MockTransport.
Transport: TypeAlias = Any


class HttpSender:
    """A server at a URL.

    api_key: default that of the environment variable key_name; "" for none. remedy: the advice if the server does not
    answer. transport: httpx's, in tests. Raises MissingDependency without httpx, UsageError for an invalid address.
    """

    def __init__(
        self,
        url: str,
        *,
        key_name: str,
        api_key: str | None = None,
        timeout: float = 120.0,
        remedy: str = "Is the server running, and is the URL right?",
        transport: Transport = None,
    ) -> None:
        try:
            import httpx  # an optional package
        except ImportError as error:
            raise MissingDependency("httpx", extra="openai", needed_for="A server's vectors") from error
        self._key = (os.environ.get(key_name, "") if api_key is None else api_key).strip()
        parts = checked_address(url, self._key, key_name=key_name, example="http://localhost:8080")
        self._url, self._key_name, self._remedy = url, key_name, remedy
        self._shown = url.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)
        self._failures = (httpx.HTTPError, httpx.InvalidURL)
        self._settings = {
            "headers": {"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            "timeout": timeout,
            "transport": transport,
        }
        self._client: httpx.Client | None = None
        self._close: Callable[[], object] | None = None

    def send(self, path: str, body: bytes | None) -> bytes:
        """POST the body, or GET without a body."""
        import httpx

        client = self._client
        if client is None:
            client = self._client = httpx.Client(verify=certificates(), **self._settings)
            self._close = weakref.finalize(self, client.close)  # nobody closes LangChain's objects
        try:
            return self._content(client.request(_method(body), self._url + path, content=body))
        except self._failures as error:
            raise self._no_reply(error) from error

    async def asend(self, path: str, body: bytes | None) -> bytes:
        """send() on an event loop, with a client of its own: a loop can't use another loop's connections."""
        import httpx

        try:
            async with httpx.AsyncClient(verify=certificates(), **self._settings) as client:
                return self._content(await client.request(_method(body), self._url + path, content=body))
        except self._failures as error:
            raise self._no_reply(error) from error

    def close(self) -> None:
        """Close the connections."""
        close, self._close, self._client = self._close, None, None
        if close is not None:
            close()

    def _no_reply(self, error: Exception) -> CallError:
        hopeless = type(error).__name__ in ("InvalidURL", "UnsupportedProtocol", "LocalProtocolError")
        return CallError(
            f"{self._shown} can't be reached: {type(error).__name__}: {error}",
            status=400 if hopeless else None,
            remedy=self._remedy,
        )

    def _content(self, reply: httpx.Response) -> bytes:
        if reply.is_success:
            return reply.content
        text = message_in(reply.text)
        if self._key:
            text = text.replace(self._key, "***")
        remedy = f"Give the server's key as api_key, or set {self._key_name}." if reply.status_code == 401 else None
        raise CallError(
            f"{self._shown} answered {reply.status_code}: {text}",
            status=reply.status_code,
            remedy=remedy,
            retry_after=retry_after(reply.headers, text),
        )


def _method(body: bytes | None) -> str:
    return "GET" if body is None else "POST"


def message_in(text: str) -> str:
    """A server's message, taken out of TEI's or OpenAI's JSON if it is in one."""
    try:
        value = json.loads(text)
        error = value.get("error") or value.get("message") or text
        return str(error.get("message") or error if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError, RecursionError):
        return text[:500]
