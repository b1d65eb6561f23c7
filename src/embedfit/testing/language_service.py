"""A language model service over HTTP, with quotas, delays and failures on demand."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from embedfit.files.textfiles import Json

#: Status, body (JSON or bytes) and headers.
Response: TypeAlias = tuple[int, Json, dict[str, str]]

#: "timeout": no answer before the client gives up. "drop": the connection is closed without an answer.
#: "late-drop": the same, after the work is done, so a real service would bill it. "malformed": 200 and
#: no JSON. "incomplete": JSON without a reply. "refusal": the model declines. "requests", "tokens":
#: throttled for that quota. A number: that HTTP status.
Fault = Literal["timeout", "drop", "late-drop", "malformed", "incomplete", "refusal", "requests", "tokens"] | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A call's request. key: the last user turn; tokens: input plus the most that may come out."""

    key: str
    system: str
    turns: int
    max_tokens: int
    input_tokens: int

    @property
    def tokens(self) -> int:
        """The tokens that a quota is charged when the call begins."""
        return self.input_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class Seen:
    """A call as the service saw it. at: seconds since it started; status: 200, or the error that was answered."""

    at: float
    key: str
    status: int | str
    tokens: int


class Quota:
    """A limit per minute. kind: "bucket" refills steadily and holds `burst` minutes; "window" starts anew each minute.

    minute: its length in seconds, shorter in tests.
    """

    def __init__(
        self,
        per_minute: float,
        *,
        kind: Literal["bucket", "window"] = "bucket",
        burst: float = 1 / 12,
        minute: float = 60.0,
    ) -> None:
        self.per_minute, self.kind, self.minute = per_minute, kind, minute
        self._capacity = per_minute * burst
        self._level = self._capacity if kind == "bucket" else per_minute
        self._at: float | None = None

    def allows(self, amount: float, now: float) -> bool:
        """Whether there is room at this moment."""
        before = self._at if self._at is not None else now
        if self.kind == "bucket":
            self._level = min(self._capacity, self._level + (now - before) * self.per_minute / self.minute)
        elif int(now // self.minute) != int(before // self.minute):
            self._level = self.per_minute
        self._at = now
        return self._level >= min(amount, self._capacity if self.kind == "bucket" else self.per_minute)

    def take(self, amount: float) -> None:
        """Use so much of the quota."""
        self._level -= amount


def shout(ask: Ask) -> str:
    """The usual answer of the fakes: the last user turn in capitals."""
    return ask.key.upper()


@dataclass(kw_only=True)
class Behaviour:
    """The behaviour of a fake service. fault: (number of the call from 0, request) → its fault, or None."""

    answer: Callable[[Ask], str] = shout
    fault: Callable[[int, Ask], Fault | None] = lambda number, ask: None
    latency_s: float = 0.0
    requests: Quota | None = None
    tokens: Quota | None = None
    timeout_s: float = 30.0
    retry_after_s: float | None = None


@dataclass
class _Counters:
    seen: list[Seen] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


S = TypeVar("S", bound="LanguageService")


class Stop(Exception):
    """Ends a call: the connection is closed without an answer."""


class LanguageService:
    """The server. Subclasses define how a call is read and an answer is written. Use as a context manager."""

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self._counters = _Counters()
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The address at which it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def seen(self) -> list[Seen]:
        """Every call so far, refused ones too."""
        with self._lock:
            return list(self._counters.seen)

    @property
    def in_flight(self) -> int:
        """Calls being worked on now."""
        return self._counters.in_flight

    @property
    def most_in_flight(self) -> int:
        """The most calls that were worked on at once."""
        return self._counters.most_in_flight

    def paid(self) -> list[str]:
        """The keys of the calls that a real service would have billed, in order."""
        return [
            call.key for call in self.seen if call.status in (200, "timeout", "late-drop", "malformed", "incomplete")
        ]

    def start(self) -> None:
        """Listen, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; hanging calls end."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self: S) -> S:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- defined by subclasses

    def route(self, method: str, path: str, query: str, headers: Message, body: bytes) -> Response:
        """(status, JSON value or bytes, headers) of a request."""
        raise NotImplementedError

    # --- called by subclasses

    def serve(self, ask: Ask) -> Fault | str:
        """Charge the quotas and wait. Returns the answer's text, or the fault."""
        behaviour = self.behaviour
        with self._lock:
            now = time.monotonic() - self._started
            number = len(self._counters.seen)
            fault = behaviour.fault(number, ask) or self._over_quota(ask, now)
            self._counters.seen.append(Seen(now, ask.key, fault or 200, ask.tokens))
            self._counters.in_flight += 1
            self._counters.most_in_flight = max(self._counters.most_in_flight, self._counters.in_flight)
        try:
            if fault == "timeout":
                self._closing.wait(behaviour.timeout_s)
                raise Stop
            if fault == "drop":
                raise Stop
            if fault is None or fault in ("late-drop", "malformed", "incomplete", "refusal"):
                self._closing.wait(behaviour.latency_s)
            if fault == "late-drop":
                raise Stop
            return fault if fault is not None else behaviour.answer(ask)
        finally:
            with self._lock:
                self._counters.in_flight -= 1

    def _over_quota(self, ask: Ask, now: float) -> Fault | None:
        quotas: tuple[tuple[Quota | None, float, Fault], ...] = (
            (self.behaviour.requests, 1.0, "requests"),
            (self.behaviour.tokens, float(ask.tokens), "tokens"),
        )
        for quota, amount, name in quotas:
            if quota is not None and not quota.allows(amount, now):
                return name
        for quota, amount, _ in quotas:
            if quota is not None:
                quota.take(amount)
        return None


def count_tokens(text: str) -> int:
    """Tokens by the fakes' own measure: four characters each."""
    return max(1, -(-len(text) // 4))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: tests let clients hang up."""


def _handler(service: LanguageService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # one packet a response

        def _respond(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, value, headers = service.route(
                    self.command, unquote(parts.path), parts.query, self.headers, body
                )
            except Stop:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _respond

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
