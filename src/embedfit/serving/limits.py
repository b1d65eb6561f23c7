"""What a connection may cost before its request is whole: header bytes, and time for header and body."""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TIMED_OUT = b"408 Request Timeout", b'{"error":"The request was not complete in time","error_type":"Timeout"}'
_TOO_LARGE = (
    b"431 Request Header Fields Too Large",
    b'{"error":"The header is too large","error_type":"Validation"}',
)
_TOO_MANY = b"503 Service Unavailable", b'{"error":"Too many connections","error_type":"Overloaded"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds of one connection. Time-outs are in seconds, and of the whole header or body."""

    header_timeout: float = 10.0
    body_timeout: float = 30.0
    header_bytes: int = 65_536
    connections: int = 2_112


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds that it does not have.

    It also tells the application of a lost connection, through scope["extensions"]["embedfit.lost"]:
    a list of functions to call.
    """

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    _timer: TimerHandle | None = None
    _header_bytes = 0
    _in_header = False
    _lost: list[Callable[[], None]]

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the clock for the first header."""
        super().connection_made(transport)
        self._lost = []
        if len(self.connections) > self.limits.connections:
            self._refuse(*_TOO_MANY)
            return
        self._arm(self.limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application."""
        self._disarm()
        super().connection_lost(exc)
        for tell in list(self._lost):
            tell()

    def data_received(self, data: bytes) -> None:
        """Count header bytes; start the clock where these are the first of a request."""
        if self.transport.is_closing():
            return
        is_between_requests = self.cycle is None or self.cycle.response_complete
        if is_between_requests and self._timer is None:
            self._arm(self.limits.header_timeout)
        if self._in_header or is_between_requests:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_header and self._header_bytes > self.limits.header_bytes:
            self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A header starts."""
        super().on_message_begin()
        self._in_header = True
        scope: Any = self.scope
        scope["extensions"] = {"embedfit.lost": self._lost}

    def on_headers_complete(self) -> None:
        """A body starts."""
        self._in_header = False
        self._header_bytes = 0
        super().on_headers_complete()
        self._arm(self.limits.body_timeout)

    def on_message_complete(self) -> None:
        """The request is whole: its time is no longer the client's."""
        self._disarm()
        super().on_message_complete()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._timed_out)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        self._timer = None
        self._refuse(*_TIMED_OUT)

    def _refuse(self, status: bytes, body: bytes) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


def bounded_protocol(limits: ConnectionLimits) -> type[BoundedProtocol]:
    """The protocol with these limits; uvicorn makes its instances itself, so they are the class's."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": limits})
