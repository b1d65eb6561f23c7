"""MCP over HTTP: the route /mcp beside the others, with their keys, bounds and limits.

Each request is answered by itself, as JSON: no session is kept, so that clients can leave none behind.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from embedfit.serving.agents.protocol import Context as Asked
from embedfit.serving.agents.protocol import server_of
from embedfit.serving.agents.tools import Tools
from embedfit.serving.answers import Answers, Operation, Raw
from embedfit.serving.edge.access import Caller
from embedfit.serving.failures import Forbidden
from embedfit.serving.search.searcher import Searcher

PATH = "/mcp"
_CALLER = "embedfit.caller"


@dataclass(slots=True)
class AgentAnswers(Answers):
    """The answers of a server that serves its index to agents too."""

    _manager: StreamableHTTPSessionManager = field(init=False)
    _running: asyncio.Task[None] | None = None
    _ready: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        Answers.__post_init__(self)
        server = server_of(Tools(self._searcher, self.metrics), _caller_of)
        self._manager = StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=self.settings.payload_limit
        )

    def table(self) -> list[tuple[str, Operation]]:
        """The routes of every server, and /mcp."""
        return [*Answers.table(self), (PATH, Operation(self.mcp, body=object, is_raw=True))]

    async def mcp(self, request: Raw, caller: Caller) -> Response:
        """POST /mcp."""
        self._check_origin(request.scope["headers"])
        await self._started()
        unread: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            if unread:
                return unread.pop()
            # The client is still there: a client that leaves cancels this task.
            never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            return await never

        async def send(message: Message) -> None:
            sent.append(message)

        await self._manager.handle_request({**request.scope, _CALLER: caller}, receive, send)
        start, *rest = sent
        kept = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        body = b"".join(message.get("body", b"") for message in rest)
        return Response(body, start["status"], {**kept, "cache-control": "no-store"})

    async def _searcher(self) -> Searcher:
        return self.searcher()

    async def _started(self) -> None:
        """Start what the protocol's package runs in the background, once, in the loop of the server."""
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
            # In a context of its own: that of this request holds a service, which may be replaced.
            self._running = Context().run(asyncio.create_task, self._run(self._ready))
        await asyncio.shield(self._ready)

    async def _run(self, ready: asyncio.Future[None]) -> None:
        async with self._manager.run():
            ready.set_result(None)
            await asyncio.get_running_loop().create_future()

    def _check_origin(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Raise Forbidden for a request by a page of a browser that is not allowed to ask.

        A page elsewhere could otherwise ask a server on its reader's machine, by a name that it lets point there.
        """
        for name, value in headers:
            origin = value.decode("latin-1")
            allowed = self.settings.cors_allow_origin
            if name == b"origin" and not (origin in allowed or "*" in allowed or _is_local(origin)):
                raise Forbidden("Pages of this origin may not ask: start the server with --cors-allow-origin")


def _is_local(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _caller_of(context: Asked) -> Caller:
    request = context.request
    if not isinstance(request, Request):
        raise RuntimeError("This is a bug: a message came without its request.")
    caller: Caller = request.scope[_CALLER]
    return caller
