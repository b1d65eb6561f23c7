"""A server that answers as Qdrant's does by HTTP. Its client's local mode, which is Qdrant in Python, does the work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient
from qdrant_client.http import models

from tests.index.sinks.http_server import JsonServer


class Server(JsonServer):
    """Collections in memory."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.api_key = ""
        super().__init__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.client.close()

    def refusal(self, status: int, said: str) -> Any:
        return {"status": {"error": said}, "time": 0.0}

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        if self.api_key and headers.get("api-key") != self.api_key:
            return 401, self.refusal(401, "Must provide an API key or an Authorization bearer token")
        if path == "/":
            return 200, {"title": "qdrant", "version": version("qdrant-client"), "commit": ""}
        try:
            result = self._result(method, path.strip("/").split("/"), json.loads(body) if body else {})
        except ValueError as error:
            status = 404 if "not found" in str(error) else 400
            return status, self.refusal(status, str(error))
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
