"""SageMaker's runtime as a small HTTP service that passes invocations on to a real embedding server."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: The largest body that invoke_endpoint takes.
MAX_BYTES = 6_291_456
_PATH = re.compile(r"^/endpoints/([^/]+)/invocations$")


@dataclass(kw_only=True)
class FakeRuntime:
    """The behaviour of the service. server: URL of a TEI-like server, to whose /invocations it passes requests.

    exists: whether an endpoint of that name is in service. throttle_next: so many requests are throttled first.
    requests: (endpoint, size of the body) of the requests so far.
    """

    server: str
    exists: Callable[[str], bool] = lambda name: True
    throttle_next: int = 0
    requests: list[tuple[str, int]] = field(default_factory=list)

    def answer(self, path: str, body: bytes) -> tuple[int, str, dict[str, object] | bytes]:
        """Status, error type and body of a reply."""
        match = _PATH.match(path)
        if match is None:
            return 404, "UnknownOperationException", {"message": f"Unknown path {path}"}
        name = match.group(1)
        self.requests.append((name, len(body)))
        if self.throttle_next > 0:
            self.throttle_next -= 1
            return 400, "ThrottlingException", {"message": "Rate exceeded"}
        if not self.exists(name):
            return 400, "ValidationError", {"message": f"Endpoint {name} of account 123456789012 not found."}
        if len(body) > MAX_BYTES:
            return 413, "ValidationError", {"message": f"Request body is larger than {MAX_BYTES} bytes."}
        return self._invoke(name, body)

    def _invoke(self, name: str, body: bytes) -> tuple[int, str, dict[str, object] | bytes]:
        request = urllib.request.Request(
            f"{self.server}/invocations", data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                content: bytes = reply.read()
                return 200, "", content
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode("utf-8", "replace")
        except (urllib.error.URLError, TimeoutError) as error:
            status, text = 0, str(error)
        # A container's error is a ModelError of status 424, whatever the container's own status was.
        message = f"Received server error ({status}) from primary with message {text!r}."
        log = f"arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/{name}"
        wrapped: dict[str, object] = {
            "Message": message,
            "OriginalStatusCode": status or 500,
            "OriginalMessage": text,
            "LogStreamArn": log,
        }
        return 424, "ModelError", wrapped


@contextmanager
def serve(runtime: FakeRuntime) -> Iterator[str]:
    """The service on a free port of this machine; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body are two writes; the second would wait 40 ms for the first one's acknowledgement.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, kind, content = runtime.answer(self.path, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if kind:
                self.send_header("x-amzn-ErrorType", kind)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
