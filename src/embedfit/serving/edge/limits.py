"""Bounds of connections: their number, the bytes of a header, and the time of header, body and answer.

uvicorn has no public seam at which a header ends or a body is whole, so its protocol is subclassed here; the
hooks in use are the parser's callbacks, `send_400_response` and `on_response_complete`; a test names them, and the
versions of uvicorn that may be installed end at the newest that passed it.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
import time
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from embedfit.serving.edge.bodies import Pace, PaceLimits

_BAD_REQUEST = b"400 Bad Request", b'{"error":"This is not an HTTP request","error_type":"Validation"}'
_TIMED_OUT = b"408 Request Timeout", b'{"error":"The request was not complete in time","error_type":"Timeout"}'
_TOO_LARGE = (
    b"431 Request Header Fields Too Large",
    b'{"error":"The header is too large","error_type":"Validation"}',
)
_TOO_MANY = b"503 Service Unavailable", b'{"error":"Too many connections","error_type":"Overloaded"}'

_HEADER_END = b"\r\n\r\n"
#: A header that offers another protocol. With it the parser would leave the body out; without it, it reads the
#: request as usual. Java's client offers HTTP/2 with every first request.
_OFFER = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
_NO_OFFER = b"\r\nignored"
#: Bytes on the wire that each byte of a body may cost: a chunk of one byte costs six.
_CHUNKED_OVERHEAD = 16
_SWEEP_SECONDS = 1.0
_ANSWER_PACE = PaceLimits(credit=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds of connections. Time-outs are seconds for a whole header or body.

    pipelined: requests of one connection that may wait for an answer. answer_pace: the least speed at which a client
    reads its answer. unread_bytes: the bytes of unread answers on all connections together.
    """

    header_timeout: float = 10.0
    body_timeout: float = 30.0
    header_bytes: int = 65_536
    connections: int = 2_112
    pipelined: int = 64
    answer_pace: PaceLimits = _ANSWER_PACE
    unread_bytes: int = 256 << 20


class _Refused(Exception):
    """Ends the parser's work on a request that is refused."""


class Connections:
    """All connections of one server, with those that are silent and those that do not read their answer.

    A client may be slow or silent as long as there is room. If there is none, the connection that has been silent
    longest is closed.
    """

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.clock = clock
        self._open: set[BoundedProtocol] = set()
        self._silent: dict[BoundedProtocol, None] = {}  # connections without a whole header, the longest silent first
        self._sweeping = self._has_cut = False

    def opened(self, one: BoundedProtocol, loop: AbstractEventLoop) -> bool:
        """Take in a connection. False: there is no room, and no connection that may be closed."""
        self._open.add(one)
        if len(self._open) > self.limits.connections and not self._make_room():
            return False
        self._silent[one] = None
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)
        return True

    def _make_room(self) -> bool:
        if self._silent:
            longest = next(iter(self._silent))
            self.closed(longest)
            longest.make_room()
            return True
        now = self.clock()
        for one in self._open:
            one.reads_too_slowly(now)
        greedy = [one for one in self._open if one.unread() or one.pipeline]
        if not greedy:
            return False
        worst = min(greedy, key=lambda one: (one.answer_due, -one.unread(), -len(one.pipeline)))
        self.closed(worst)
        worst.abort()
        return True

    def closed(self, one: BoundedProtocol) -> None:
        """Forget a connection."""
        self._open.discard(one)
        self._silent.pop(one, None)

    def spoke(self, one: BoundedProtocol) -> None:
        """A whole header came."""
        self._silent.pop(one, None)

    def answered(self, one: BoundedProtocol) -> None:
        """The next header is the client's to send."""
        if one in self._open:
            self._silent[one] = None

    def bound_unread(self) -> None:
        """Cut off the slowest readers while too much is unread. A single reader is never cut off for that."""
        unread = {one: size for one in self._open if (size := one.unread())}
        total = sum(unread.values())
        while total > self.limits.unread_bytes and len(unread) > 1:
            slowest = min(unread, key=lambda one: one.answer_due)
            total -= unread.pop(slowest)
            self.closed(slowest)
            slowest.abort()

    def _sweep(self, loop: AbstractEventLoop) -> None:
        now = self.clock()
        if self._has_cut:  # one sweep ago: by now the connections and their answers are freed
            _give_memory_back()
        slow = [one for one in self._open if one.reads_too_slowly(now)]
        for one in slow:
            one.abort()
        self._has_cut = bool(slow)
        self.bound_unread()
        if self._open or self._has_cut:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)
        else:
            self._sweeping = False


def _give_memory_back() -> None:
    """Return free memory to the system: glibc would keep large freed blocks for later."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such function
            ctypes.CDLL(None).malloc_trim(0)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds that it does not have.

    It tells the application two things in scope["extensions"]: "embedfit.lost" is a list of functions that
    are called when the client has left; "embedfit.whole" says whether the body is there.
    """

    def __init__(
        self,
        all_connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = all_connections
        self._limits = all_connections.limits
        self._lost: list[Callable[[], None]] = []
        self._told: dict[str, object] = {}
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._timer: TimerHandle | None = None
        self._refusal = _BAD_REQUEST
        self._in_header = self._in_body = self._is_whole = False
        self._wire_bytes = self._body_bytes = self._field_bytes = 0
        self._tail = b""
        self._unread = 0
        self._answer_pace: Pace | None = None

    # The connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the clock for the first header."""
        super().connection_made(transport)
        if self._all.opened(self, self.loop):
            self._arm(self._limits.header_timeout)
        else:
            self._refuse(*_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application."""
        self._disarm()
        self._all.closed(self)
        super().connection_lost(exc)
        self._leave()

    def abort(self) -> None:
        """Cut off the client, and drop the bytes that it has not read."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        for cycle in self._unanswered:  # uvicorn only knows the last request's
            cycle.disconnected = True
            cycle.message_event.set()
        for tell in list(self._lost):
            tell()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. Its whole requests are answered, and then the connection closes."""
        if self.transport.is_closing() or self._is_answered() or not self._is_whole:
            return False
        self.cycle.keep_alive = False
        return True

    def make_room(self) -> None:
        """Close, to make room for another connection. A client in the middle of a header gets the reason."""
        if self._in_header:
            self._refuse(*_TIMED_OUT)
        else:
            self._disarm()
            self.transport.close()

    # Requests ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Count bytes, and start the clock if they are the first of a request."""
        if self.transport.is_closing():
            return
        if self._is_answered() and self._timer is None:
            self._arm(self._limits.header_timeout)
        of_header = 0 if self._in_body else self._bytes_of_header(data)
        if self._wire_bytes + of_header > self._limits.header_bytes and not self._in_body:
            self._refuse(*_TOO_LARGE)
            return
        if _OFFER.search(data, 0, of_header):
            data = _OFFER.sub(_NO_OFFER, data[:of_header]) + data[of_header:]
        self._tail = data[1 - len(_HEADER_END) :]
        self._wire_bytes += len(data)
        super().data_received(data)
        if self._wire_bytes > self._limits.header_bytes + _CHUNKED_OVERHEAD * self._body_bytes:
            self._refuse(*_TOO_LARGE)

    def _bytes_of_header(self, data: bytes) -> int:
        """How many bytes of this read belong to a header that starts, continues or ends in it."""
        before = self._tail if self._in_header else b""
        end = (before + data).find(_HEADER_END)
        return len(data) if end < 0 else end + len(_HEADER_END) - len(before)

    def on_message_begin(self) -> None:
        """A header starts."""
        self._in_header, self._is_whole = True, False
        if len(self.pipeline) >= self._limits.pipelined:
            self._stop_parsing(_TOO_LARGE)
        super().on_message_begin()
        self._field_bytes = 0
        self._told = {"embedfit.lost": self._lost, "embedfit.whole": False}
        self.scope["extensions"] = self._told  # type: ignore[typeddict-item]  # uvicorn's are tables of tables

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        self._count_field(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the header, or of the trailer behind a body in chunks."""
        self._count_field(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A body starts."""
        self._in_header, self._in_body = False, True
        self._wire_bytes = 0
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # we speak no other protocol, and the client's next bytes would be in it
        self._all.spoke(self)
        self._arm(self._limits.body_timeout)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: its time is no longer the client's."""
        self._disarm()
        self._in_body, self._is_whole = False, True
        self._wire_bytes = self._body_bytes = 0
        self._told["embedfit.whole"] = True
        super().on_message_complete()

    def _count_field(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > self._limits.header_bytes:
            self._stop_parsing(_TOO_LARGE)

    def _stop_parsing(self, refusal: tuple[bytes, bytes]) -> None:
        self._refusal = refusal
        raise _Refused  # the parser turns this into an error, and uvicorn calls send_400_response

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser did not take."""
        self._refuse(*self._refusal)

    # Answers ------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self.reads_too_slowly(self._all.clock())
        self._all.bound_unread()

    def on_response_complete(self) -> None:
        """An answer was sent."""
        self._unanswered.popleft()
        super().on_response_complete()
        if self._is_answered():
            self._all.answered(self)
            if self._in_header:  # the next request's, which came with this one
                self._arm(self._limits.header_timeout)

    def unread(self) -> int:
        """The bytes that the client has not read yet."""
        return self.transport.get_write_buffer_size()

    @property
    def answer_due(self) -> float:
        """The clock's time from which the client reads too slowly; infinite if everything is read."""
        return self._answer_pace.due if self._answer_pace is not None else float("inf")

    def reads_too_slowly(self, now: float) -> bool:
        """Whether the client reads too slowly, by the bytes that it read since the last look."""
        unread = self.unread()
        if not unread:
            self._answer_pace = None
        elif self._answer_pace is None:
            self._answer_pace = Pace(self._limits.answer_pace, now)
        else:
            self._answer_pace.moved(max(0, self._unread - unread), now)
        self._unread = unread
        return self.answer_due < now

    # -----------------------------------------------------------------------------------------------------------

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

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
        # Behind a request that is being answered, a refusal would be taken for its answer.
        if self._is_answered() or not (self._in_header or self.cycle.response_started):
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
        self.transport.close()
