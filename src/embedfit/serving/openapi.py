"""The OpenAPI document of the routes, and a page that shows it without fetching anything."""

from __future__ import annotations

import html
import json
from typing import Any

from embedfit.serving.requests import MOST_DOCUMENTS, MOST_HITS, MOST_K

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_IDS: Schema = {
    "type": "array",
    "items": {"type": "integer", "format": "int32", "minimum": 0},
    "minItems": 1,
    "description": "Token ids, used as they are",
}
_INPUT: Schema = {
    "oneOf": [_TEXT, _IDS, {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}, "minItems": 1}],
    "description": "A text, token ids, or a list of these",
    "example": "how do I mute the tv",
}
_NUMBERS: Schema = {"type": "array", "items": {"type": "number", "format": "float"}}


def _object(properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return schema


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TRUNCATION: dict[str, Schema] = {
    "truncate": _nullable({"type": "boolean"})
    | {"description": "Cut inputs that are too long; default: --auto-truncate"},
    "truncation_direction": _nullable({"type": "string", "enum": ["Left", "Right"]}) | {"default": "Right"},
    "prompt_name": _nullable({"type": "string"})
    | {"description": 'A prompt of the model, such as "query" or "document"; an empty name: none', "example": None},
}
_DIMENSIONS: Schema = _nullable({"type": "integer", "minimum": 1}) | {
    "description": "Keep so many numbers of a vector, then normalise"
}
_SCHEMAS: dict[str, Schema] = {
    "EmbedRequest": _object(
        {"inputs": _INPUT, **_TRUNCATION, "normalize": {"type": "boolean", "default": True}, "dimensions": _DIMENSIONS},
        ("inputs",),
    ),
    "SimilarityRequest": _object(
        {
            "inputs": _object(
                {"source_sentence": _TEXT, "sentences": {"type": "array", "items": _TEXT, "minItems": 1}},
                ("source_sentence", "sentences"),
            ),
            "parameters": _nullable(_object(_TRUNCATION)),
        },
        ("inputs",),
    ),
    "TokenizeRequest": _object(
        {
            "inputs": _INPUT,
            "add_special_tokens": {"type": "boolean", "default": True},
            "prompt_name": _TRUNCATION["prompt_name"],
        },
        ("inputs",),
    ),
    "DecodeRequest": _object(
        {
            "ids": {"oneOf": [_IDS, {"type": "array", "items": _IDS, "minItems": 1}]},
            "skip_special_tokens": {"type": "boolean", "default": True},
        },
        ("ids",),
    ),
    "OpenAIRequest": _object(
        {
            "input": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]},
            "model": _nullable({"type": "string"}),
            "user": _nullable({"type": "string"}),
            "encoding_format": _nullable({"type": "string", "enum": ["float", "base64"]}) | {"default": "float"},
            "dimensions": _DIMENSIONS,
            "prompt_name": _TRUNCATION["prompt_name"],
        },
        ("input",),
    ),
    "VertexRequest": _object(
        {"instances": {"type": "array", "items": {"$ref": "#/components/schemas/EmbedRequest"}, "minItems": 1}},
        ("instances",),
    ),
    "Token": _object(
        {
            "id": {"type": "integer"},
            "text": {"type": "string"},
            "special": {"type": "boolean"},
            "start": _nullable({"type": "integer"}),
            "stop": _nullable({"type": "integer"}),
        },
        ("id", "text", "special"),
    ),
    "SearchRequest": _object(
        {
            "query": {
                "oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}],
                "description": "What is looked for; the first 512 words of each query are read",
                "example": "how do I mute the tv",
            },
            "k": _nullable({"type": "integer", "minimum": 1, "maximum": MOST_K})
            | {"default": 10, "description": f"Passages a query; at most {MOST_HITS:,} in one request"},
            "filter": _nullable({"oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "string"}}]})
            | {
                "description": "Conditions on the fields of passages, all of them: "
                '{"lang": "de", "year": [2023, 2024], "date": {">=": "2024-01-01"}, "groups": {"contains": "hr"}}, '
                'or ["lang=de", "date>=2024-01-01"]',
                "example": None,
            },
            "documents": _nullable(
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_DOCUMENTS}
            )
            | {"description": "Only passages of documents with these ids", "example": None},
            "base": {"type": "boolean", "default": False, "description": "The untuned model's passages too"},
        },
        ("query",),
    )
    | {"additionalProperties": False},
    "Hit": _object(
        {
            "passage_id": {"type": "string"},
            "score": {"type": "number"},
            "text": {"type": "string"},
            "document": {"type": "string"},
            "page": {"type": "integer", "description": "0 where the format has none"},
            "heading": {"type": "string"},
            "parts": {
                "type": "object",
                "additionalProperties": {"type": "number"},
                "description": "What each part of the retriever gave the passage",
            },
            "metadata": {"type": "object", "description": "The fields of the passage and of its document"},
            "marked": {
                "type": "array",
                "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
                "description": "Ranges of the text's characters (Unicode code points) that the query asks for",
            },
        },
        ("passage_id", "score", "text", "document", "page", "heading", "parts", "metadata", "marked"),
    ),
    "Found": _object(
        {"query": {"type": "string"}, "hits": _list(_ref("Hit")), "base": _list(_ref("Hit"))}, ("query", "hits")
    ),
    "OpenAIResponse": _object(
        {
            "object": {"const": "list"},
            "data": _list(
                _object(
                    {
                        "object": {"const": "embedding"},
                        "embedding": {"anyOf": [_NUMBERS, {"type": "string", "format": "byte"}]},
                        "index": {"type": "integer"},
                    },
                    ("object", "embedding", "index"),
                )
            ),
            "model": {"type": "string"},
            "usage": _object({"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}),
        },
        ("object", "data", "model", "usage"),
    ),
    "Error": _object({"error": {"type": "string"}, "error_type": {"type": "string"}}, ("error", "error_type")),
    "OpenAIError": _object(
        {"message": {"type": "string"}, "code": {"type": "integer"}, "type": {"type": "string"}},
        ("message", "code", "type"),
    ),
}
_PARAMETERS: dict[str, Schema] = {
    "query": {"type": "array", "items": _TEXT, "minItems": 1},
    "k": {"type": "integer", "minimum": 1, "maximum": MOST_K, "default": 10},
    "filter": {"type": "array", "items": {"type": "string"}},
    "document": {"type": "array", "items": {"type": "string"}},
    "base": {"type": "boolean", "default": False},
}
_FAILURES = {
    "400": "Not JSON, or an empty input",
    "408": "The body came too slowly",
    "413": "The body is larger than --payload-limit",
    "415": "Not declared as JSON, or compressed",
    "422": "Not a valid request, too many inputs, or an input that is too long",
    "424": "The model failed",
    "429": "Overloaded: try again after the seconds in the retry-after header",
    "503": "Not ready",
}


def _json_content(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _post(summary: str, request: str, response: Schema, *, protected: bool, error: str = "Error") -> Schema:
    failures = _FAILURES | ({"401": "The API key is missing or wrong"} if protected else {})
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json_content(_ref(request))},
        "responses": {
            "200": {"description": "OK", "content": _json_content(response)},
            **{
                status: {"description": text, "content": _json_content(_ref(error))}
                for status, text in failures.items()
            },
        },
        **({"security": [{"key": []}]} if protected else {}),
    }


def _get(
    summary: str,
    content: Schema | None = None,
    *,
    protected: bool = False,
    waits: bool = False,
    searches: bool = False,
    error: str = "Error",
) -> Schema:
    responses: dict[str, Schema] = {"200": {"description": "OK", **({"content": content} if content else {})}}
    if searches:
        responses["404"] = {"description": "No index is served", "content": _json_content(_ref(error))}
    if waits:
        responses["503"] = {"description": "Not ready", "content": _json_content(_ref(error))}
    if protected:
        responses["401"] = {"description": "The API key is missing or wrong", "content": _json_content(_ref(error))}
    return {"summary": summary, "responses": responses, **({"security": [{"key": []}]} if protected else {})}


def _search(*, protected: bool) -> Schema:
    """Both methods of /search."""
    several = _object({"results": _list(_ref("Found"))}, ("results",))
    found = {"oneOf": [_ref("Found"), several], "description": "Of a list of queries: a list, in their order"}
    post = _post("The best passages of the index for a query", "SearchRequest", found, protected=protected)
    post["responses"]["404"] = {"description": "No index is served", "content": _json_content(_ref("Error"))}
    parameters = [
        {"name": name, "in": "query", "required": name == "query", "schema": schema, "explode": True}
        for name, schema in _PARAMETERS.items()
    ]
    get = {name: value for name, value in post.items() if name != "requestBody"}
    return {"get": get | {"summary": "The same, with the query in the address", "parameters": parameters}, "post": post}


def openapi_document(*, protected: bool) -> Schema:
    """OpenAPI 3.1. protected: a key is needed for what computes."""

    def post(summary: str, request: str, response: Schema, error: str = "Error") -> Schema:
        return _post(summary, request, response, protected=protected, error=error)

    embed = post("Vectors of inputs", "EmbedRequest", _list(_NUMBERS))
    openai = post("Vectors in OpenAI's form", "OpenAIRequest", _ref("OpenAIResponse"), "OpenAIError")
    health = _get("Healthy and warm", waits=True)
    anything = _json_content({"type": "object"})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "embedfit",
            "version": "1",
            "description": "Embeddings, in the forms of Text Embeddings Inference, OpenAI, SageMaker and Vertex AI; "
            "and search, where an index is served.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/embed": {"post": embed},
            "/embed_all": {"post": post("Vectors of every token", "EmbedRequest", _list(_list(_NUMBERS)))},
            "/similarity": {"post": post("Cosines of one sentence with others", "SimilarityRequest", _NUMBERS)},
            "/tokenize": {"post": post("Tokens of inputs", "TokenizeRequest", _list(_list(_ref("Token"))))},
            "/decode": {"post": post("Texts of token ids", "DecodeRequest", _list({"type": "string"}))},
            "/search": _search(protected=protected),
            "/fields": {
                "get": _get(
                    "The fields that searches can be restricted by, with their most frequent values",
                    anything,
                    protected=protected,
                    waits=True,
                    searches=True,
                )
            },
            "/v1/embeddings": {"post": openai},
            "/embeddings": {"post": openai},
            "/invocations": {"post": embed | {"summary": "SageMaker: the same as /embed"}},
            "/vertex": {
                "post": post(
                    "Vertex AI: several bodies of /embed",
                    "VertexRequest",
                    _object({"predictions": _list(_list(_NUMBERS))}, ("predictions",)),
                )
            },
            "/": {"get": health, "post": embed | {"summary": "The same as /embed"}},
            "/health": {"get": health},
            "/ping": {"get": health | {"summary": "SageMaker: the same as /health"}},
            "/info": {"get": _get("Model, limits and engine", anything, protected=protected, waits=True)},
            "/v1/models": {
                "get": _get(
                    "The model, in OpenAI's form", anything, protected=protected, waits=True, error="OpenAIError"
                )
            },
            "/metrics": {"get": _get("Prometheus metrics", {"text/plain": {"schema": {"type": "string"}}})},
        },
        "components": {
            "schemas": _SCHEMAS,
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if protected else {}),
        },
    }


def docs_page(document: Schema) -> str:
    """The document as HTML that needs no script and no other host."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<title>embedfit</title><style>body{font:16px/1.5 system-ui;max-width:52rem;margin:2rem auto;padding:0 1rem}"
        "code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#f4f4f4;padding:.8rem;overflow:auto}"
        "b{display:inline-block;min-width:3.5rem}summary{cursor:pointer;padding:.3rem 0}</style>",
        f"<h1>embedfit</h1><p>{html.escape(document['info']['description'])} "
        "The machine-readable form is <a href='api-doc/openapi.json'>api-doc/openapi.json</a>.</p>",
        "<pre>curl -s $SERVER/embed -H 'content-type: application/json' \\\n"
        '  -d \'{"inputs": ["how do I mute the tv"], "prompt_name": "query"}\'</pre>',
    ]
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            title = f"<b>{method.upper()}</b> <code>{html.escape(path)}</code> {html.escape(operation['summary'])}"
            body = operation.get("requestBody")
            name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1] if body else None
            shown = json.dumps(schemas[name], indent=2) if name else "no body"
            statuses = "".join(
                f"<li><code>{status}</code> {html.escape(answer['description'])}"
                for status, answer in sorted(operation["responses"].items())
            )
            parts.append(
                f"<details><summary>{title}</summary><pre>{html.escape(shown)}</pre><ul>{statuses}</ul></details>"
            )
    return "".join(parts)
