"""A server that answers as Qdrant's does by HTTP. Its client's local mode, which is Qdrant in Python, does the work."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient
from qdrant_client.http import models

#: Refuses a request, or lets it through with None. It is given the method, the path and the body.
Gate = Callable[[str, str, bytes], tuple[int, str] | None]


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that left."""


class Server:
    """Collections in memory. Set gate to refuse requests; status 0 drops the connection."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.gate: Gate = lambda *_: None
        self.api_key = ""
        self.largest = 0  # bytes of a request
        self._lock = threading.Lock()
        self._http = _Quiet(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.port = self._http.server_address[1]

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.client.close()

    def answer(self, method: str, path: str, body: bytes, key: str) -> tuple[int, Any]:
        """(status, JSON) of a request."""
        self.largest = max(self.largest, len(body))
        refused = self.gate(method, path, body)
        if refused is None and self.api_key and key != self.api_key:
            refused = (401, "Must provide an API key or an Authorization bearer token")
        if refused is not None:
            return refused[0], {"status": {"error": refused[1]}, "time": 0.0}
        if path == "/":
            return 200, {"title": "qdrant", "version": version("qdrant-client"), "commit": ""}
        try:
            with self._lock:
                result = self._result(method, path.strip("/").split("/"), json.loads(body) if body else {})
        except ValueError as error:
            status = 404 if "not found" in str(error) else 400
            return status, {"status": {"error": str(error)}, "time": 0.0}
        return 200, {"result": TypeAdapter(Any).dump_python(_plain(result), mode="json"), "status": "ok", "time": 0.0}

    def _result(self, method: str, path: list[str], body: dict[str, Any]) -> Any:
        client = self.client
        match [method, *path]:
            case ["GET", "collections"]:
                return client.get_collections()
            case ["GET", "aliases"]:
                return client.get_aliases()
            case ["POST", "collections", "aliases"]:
                return client.update_collection_aliases(models.ChangeAliasesOperation(**body).actions)
            case ["PUT", "collections", name]:
                made = models.CreateCollection(**body)
                return client.create_collection(
                    name, vectors_config=made.vectors, sparse_vectors_config=made.sparse_vectors, metadata=made.metadata
                )
            case ["DELETE", "collections", name]:
                return client.delete_collection(name)
            case ["PUT", "collections", name, "points"]:
                return client.upsert(name, models.PointsList(**body).points)
            case ["POST", "collections", name, "points"]:
                return client.retrieve(name, **_given(models.PointRequest(**body)))
            case ["POST", "collections", name, "points", "count"]:
                return client.count(name, exact=True)
            case ["POST", "collections", name, "points", "scroll"]:
                points, after = client.scroll(name, **_given(models.ScrollRequest(**body)))
                return {"points": points, "next_page_offset": after}
            case ["POST", "collections", name, "points", "query"]:
                return self._found(name, models.QueryRequest(**body))
            case ["POST", "collections", name, "points", "query", "batch"]:
                return [self._found(name, one) for one in models.QueryRequestBatch(**body).searches]
        raise ValueError(f"not found: {method} {path}")

    def _found(self, name: str, request: models.QueryRequest) -> Any:
        given = _given(request)
        given["query_filter"] = given.pop("filter", None)
        given.pop("params", None)  # of the approximate index, which local mode has not
        return self.client.query_points(name, **given)


def _given(request: BaseModel) -> dict[str, Any]:
    names = {"with_vector": "with_vectors"}
    fields = {name: getattr(request, name) for name in type(request).model_fields}
    return {names.get(name, name): value for name, value in fields.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = urlsplit(self.path).path
            status, answer = server.answer(self.command, path, body, self.headers.get("api-key", ""))
            if not status:
                self.close_connection = True
                return
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _do

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def qdrant_server() -> Iterator[Server]:
    """A server on this machine; it stops at the end."""
    server = Server()
    try:
        yield server
    finally:
        server.close()
