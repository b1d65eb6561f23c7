"""A server on this machine that answers by a function. Tests of databases build on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

#: Refuses a request with (status, what it says), or lets it through with None. Status 0 drops the connection.
Gate = Callable[[str, str, bytes], tuple[int, str] | None]

S = TypeVar("S", bound="JsonServer")


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that left."""


class JsonServer:
    """Answers with JSON. largest: bytes of the largest request so far. asked: path and query of this request."""

    def __init__(self) -> None:
        self.gate: Gate = lambda *_: None
        self.largest = 0
        self.asked = ""
        self._lock = threading.Lock()
        self._http = _Quiet(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.port = self._http.server_address[1]

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def take(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """(status, JSON) of a request."""
        self.largest = max(self.largest, len(body))
        refused = self.gate(method, path.partition("?")[0], body)
        if refused is not None:
            return refused[0], self.refusal(*refused)
        with self._lock:
            self.asked, path = path, path.partition("?")[0]
            return self.answer(method, path, body, headers)

    def refusal(self, status: int, said: str) -> Any:
        """The JSON of a refusal."""
        raise NotImplementedError

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """(status, JSON) of a request that was let through."""
        raise NotImplementedError


def _handler(server: JsonServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, answer = server.take(self.command, self.path, body, self.headers)
            if not status:
                self.close_connection = True
                return
            is_text = isinstance(answer, str)
            data = answer.encode() if is_text else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if is_text else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
