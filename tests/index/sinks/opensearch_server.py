"""A server that answers as OpenSearch does to embedfit's requests. It reads queries by their documentation.

It is no OpenSearch: it shows what the client does with answers, and that a query, read so, ranks as the index.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np

from tests.index.sinks.http_server import JsonServer

_COSINE = re.compile(r"params\.weight \* \(1\.0 \+ cosineSimilarity\(params\.vector, doc\['([a-z.]+)'\]\)\)")
Json = dict[str, Any]


class Missing(Exception):
    """An index that is not there."""


class Server(JsonServer):
    """Indexes in memory. item: what refuses a document of a load, as (status, type, reason)."""

    def __init__(self) -> None:
        self.indexes: dict[str, Json] = {}
        self.aliases: dict[str, list[str]] = {}
        self.pipelines: dict[str, Json] = {}
        self.login = ""
        self.has_z_scores = True
        self.item: Callable[[str], tuple[int, str, str] | None] = lambda _: None
        super().__init__()

    def refusal(self, status: int, said: str) -> Json:
        return {"error": {"type": "exception", "reason": said}, "status": status}

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        given = headers.get("authorization", "").removeprefix("Basic ")
        if self.login and base64.b64decode(given).decode() != self.login:
            return 401, "Unauthorized"
        try:
            return 200, self._result(method, path.strip("/").split("/"), body)
        except Missing as error:
            return 404, {"error": {"type": "index_not_found_exception", "reason": f"no such index [{error}]"}}
        except ValueError as error:
            return 400, self.refusal(400, str(error))

    def _result(self, method: str, path: list[str], body: bytes) -> Any:
        if path[-1] == "_bulk":
            return self._bulk(path[0], body.decode().splitlines())
        given = json.loads(body) if body else {}
        match [method, *path]:
            case ["GET", ""]:
                return {"version": {"distribution": "opensearch", "number": "3.0.0"}}
            case ["PUT", "_search", "pipeline", name]:
                return self._pipeline(name, given)
            case ["POST", "_aliases"]:
                return self._move(given["actions"])
            case ["GET", "_alias", names]:
                return self._aliases(lambda _, alias: alias in names.split(","), every=False)
            case ["GET", pattern, "_alias"]:
                return self._aliases(lambda index, _: fnmatch(index, pattern), every=True)
            case ["PUT", name]:
                if name in self.indexes or name in self.aliases:
                    raise ValueError(f"index [{name}] already exists")
                self.indexes[name] = {"mappings": given["mappings"], "documents": {}}
            case ["DELETE", names]:
                for name in names.split(","):
                    self._index(name)
                    del self.indexes[name]
                left = {alias: [one for one in own if one in self.indexes] for alias, own in self.aliases.items()}
                self.aliases = {alias: own for alias, own in left.items() if own}
            case _:
                return self._of_index(method, path, given)
        return {"acknowledged": True}

    def _of_index(self, method: str, path: list[str], given: Json) -> Any:
        match [method, *path]:
            case ["POST", name, "_refresh"]:
                self._index(name)
            case ["POST" | "GET", name, "_count"]:
                return {"count": len(self._index(name)["documents"])}
            case ["PUT", name, "_doc", number]:
                self._index(name)["documents"][number] = given
            case ["GET", name, "_doc", number]:
                found = self._index(name)["documents"].get(number)
                return {"found": found is not None} | ({} if found is None else {"_source": found})
            case ["POST", name, "_search"]:
                return {"hits": {"hits": self._search(self._index(name), given)}}
            case _:
                raise ValueError(f"no handler for {method} {path}")
        return {"acknowledged": True}

    def _index(self, name: str) -> Json:
        name, *others = self.aliases.get(name, [name])
        if others:
            raise ValueError("alias has more than one index associated with it")
        if name not in self.indexes:
            raise Missing(name)
        return self.indexes[name]

    def _aliases(self, fits: Callable[[str, str], bool], *, every: bool) -> Json:
        found: Json = {index: {"aliases": {}} for index in self.indexes if every and fits(index, "")}
        for alias, index in ((alias, index) for alias, own in self.aliases.items() for index in own):
            if fits(index, alias):
                found.setdefault(index, {"aliases": {}})["aliases"][alias] = {}
        return found

    def _move(self, actions: Sequence[Json]) -> Json:
        moved = {alias: list(own) for alias, own in self.aliases.items()}
        for action in actions:
            ((kind, about),) = action.items()
            self._index(about["index"])
            own = moved.setdefault(about["alias"], [])
            if kind == "add":
                own.append(about["index"])
            elif about["index"] in own:
                own.remove(about["index"])
            elif about.get("must_exist"):
                raise Missing(f"aliases [{about['alias']}] missing")
        self.aliases = {alias: own for alias, own in moved.items() if own}
        return {"acknowledged": True}

    def _pipeline(self, name: str, body: Json) -> Json:
        (about,) = body["phase_results_processors"]
        about = about["normalization-processor"]
        if about["normalization"]["technique"] == "z_score" and not self.has_z_scores:
            raise ValueError("provided normalization technique is not supported")
        if abs(sum(about["combination"]["parameters"]["weights"]) - 1) > 1e-3:
            raise ValueError("sum of weights for combination must be equal to 1.0")
        self.pipelines[name] = body
        return {"acknowledged": True}

    def _bulk(self, name: str, lines: Sequence[str]) -> Json:
        results, errors = [], False
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            about, document = json.loads(action)["index"], json.loads(source)
            index = self._index(about.get("_index", name))
            refused = self.item(about["_id"]) or _fault(document, index["mappings"]["properties"])
            if refused is None:
                index["documents"][str(about["_id"])] = document
                results.append({"index": {"_id": about["_id"], "status": 201}})
                continue
            errors = True
            status, kind, reason = refused
            results.append(
                {"index": {"_id": about["_id"], "status": status, "error": {"type": kind, "reason": reason}}}
            )
        return {"errors": errors, "items": results}

    def _search(self, index: Json, body: Json) -> list[Json]:
        documents = index["documents"]
        if "search_after" in body:
            numbers = sorted(one["number"] for one in documents.values() if one["number"] > body["search_after"][0])
            return [
                {"_id": str(number), "sort": [number], "_source": {name: documents[str(number)][name] for name in
                                                                   body["_source"] or ()}}
                for number in numbers[: body["size"]]
            ]  # fmt: skip
        scores = {name: _score(body["query"], one) for name, one in documents.items()}
        found = [
            (-np.float32(score), documents[name]["number"], name) for name, score in scores.items() if score is not None
        ]
        without = body["_source"]["excludes"]
        return [
            {"_id": name, "_score": float(-score),
             "_source": {key: value for key, value in documents[name].items() if key not in without}}
            for score, _, name in sorted(found)[: body["size"]]
        ]  # fmt: skip


def _fault(document: Json, properties: Json) -> tuple[int, str, str] | None:
    for name, vectors in (
        ("one", [document["one"]] if "one" in document else []),
        ("windows", [one["vector"] for one in document.get("windows", ())]),
    ):
        kind = properties.get(name, {})
        size = kind.get("dimension") or kind.get("properties", {}).get("vector", {}).get("dimension")
        if any(len(one) != size for one in vectors):
            return 400, "mapper_parsing_exception", f"Vector dimension mismatch. Expected: {size}"
    return None


def _values(document: Json, path: str) -> list[Any]:
    found: Any = document
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, list) else [] if found is None else [found]


def _score(query: Json, document: Json) -> float | None:
    """A document's score, None if it does not match."""
    ((kind, about),) = query.items()
    if kind == "match_all":
        return 1.0
    if kind == "match_none":
        return None
    if kind == "bool":
        return _bool(about, document)
    if kind == "script_score":
        match = _COSINE.fullmatch(about["script"]["source"])
        assert match is not None and _score(about["query"], document) is not None
        given = about["script"]["params"]
        vector, own = np.array(given["vector"]), np.array(_values(document, match[1]))
        return float(given["weight"] * (1 + vector @ own / np.linalg.norm(vector) / np.linalg.norm(own)))
    if kind == "nested":
        assert about["score_mode"] == "max"
        inner = [{about["path"]: one} for one in document.get(about["path"], ())]
        scores = [score for one in inner if (score := _score(about["query"], one)) is not None]
        return max(scores, default=None)
    ((field, asked),) = about.items()
    if kind == "neural_sparse":
        own = document.get(field, {})
        shared = [weight * own[token] for token, weight in asked["query_tokens"].items() if token in own]
        return sum(shared) if shared else None
    if kind == "term":
        same = (type(one) is type(asked) and one == asked for one in _values(document, field))
        numbers = (one == asked for one in _values(document, field) if field.endswith(".number"))
        return 1.0 if any(same) or any(numbers) else None
    assert kind == "range"
    compare = {"lt": np.less, "lte": np.less_equal, "gt": np.greater, "gte": np.greater_equal}
    return 1.0 if any(all(compare[sign](one, bound) for sign, bound in asked.items()) for one in
                      _values(document, field)) else None  # fmt: skip


def _bool(about: Json, document: Json) -> float | None:
    if any(_score(one, document) is None for one in about.get("filter", ())):
        return None
    if any(_score(one, document) is not None for one in about.get("must_not", ())):
        return None
    scores = [score for one in about.get("should", ()) if (score := _score(one, document)) is not None]
    if len(scores) < about.get("minimum_should_match", 0):
        return None
    return float(sum(scores)) if "should" in about else 1.0
