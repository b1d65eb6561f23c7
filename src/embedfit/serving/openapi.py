"""The OpenAPI document, made of the table of routes and the records of requests and answers, and a page of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from jinja2 import Environment, PackageLoader, Template
from pydantic import TypeAdapter
from typing_extensions import TypeForm

from embedfit.serving import failures, responses
from embedfit.serving.answers import Operation

Json = dict[str, object]

#: Failures that every computing route can give.
_OF_REQUESTS = (
    failures.Malformed,
    failures.Empty,
    failures.RequestTimeout,
    failures.PayloadTooLarge,
    failures.UnsupportedMediaType,
    failures.Invalid,
    failures.BatchTooLarge,
    failures.TokenizerFailure,
    failures.Overloaded,
    failures.Unhealthy,
)
_ABOUT: Json = {
    "title": "embedfit",
    "version": "1",
    "description": "Embeddings, in the forms of Text Embeddings Inference, OpenAI, SageMaker and Vertex AI; "
    "and search, where an index is served.",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}


class _Schemas:
    """JSON schemas of records, each of which stands once, under its name."""

    def __init__(self, records: Sequence[TypeForm[object]]) -> None:
        self._records = [*dict.fromkeys(records)]
        self._made, self._definitions = TypeAdapter.json_schemas(
            [(number, "validation", TypeAdapter(record)) for number, record in enumerate(self._records)],
            ref_template="#/components/schemas/{model}",
        )

    def of(self, record: TypeForm[object]) -> Json:
        """The schema of a record, or a reference to it."""
        return self._made[self._records.index(record), "validation"]

    def content(self, record: TypeForm[object]) -> Json:
        """A body that holds the record."""
        return {"application/json": {"schema": self.of(record)}}

    @property
    def named(self) -> Json:
        """All schemas that have a name."""
        found: Json = self._definitions["$defs"]
        return found


def openapi_document(table: Sequence[tuple[str, Operation]], *, protected: bool) -> Json:
    """The OpenAPI 3.1 document. protected: computing routes need a key."""
    shown = [(path, operation) for path, operation in table if operation.summary]
    records = [record for _, one in shown for record in (one.body, one.answer) if record is not None]
    made = _Schemas([responses.Error, responses.OpenAIError, *records])
    paths: dict[str, Json] = {}
    for path, operation in shown:
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation, made, protected=protected)
    components: Json = {"schemas": made.named}
    if protected:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {"openapi": "3.1.0", "info": _ABOUT, "paths": paths, "components": components}


def _described(operation: Operation, made: _Schemas, *, protected: bool) -> Json:
    has_key = protected and not operation.is_open
    met = [*operation.failures, *(_OF_REQUESTS if operation.body else ()), *((failures.Unauthorized,) * has_key)]
    why: dict[int, list[str]] = {}
    for failure in met:
        why.setdefault(failure.status, []).append(failure.__doc__ or "")
    error = made.content(responses.OpenAIError if operation.is_openais else responses.Error)
    answer = {} if operation.answer is None else {"content": made.content(operation.answer)}
    described: Json = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "OK", **answer},
            **{str(status): {"description": " ".join(why[status]), "content": error} for status in sorted(why)},
        },
    }
    if has_key:
        described["security"] = [{"key": []}]
    if operation.body and operation.method == "POST":
        described["requestBody"] = {"required": True, "content": made.content(operation.body)}
    elif operation.body:
        described["parameters"] = _parameters(operation.body)
    return described


def _parameters(record: TypeForm[object]) -> list[Json]:
    schema = TypeAdapter(record).json_schema()
    return [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": one, "explode": True}
        for name, one in schema["properties"].items()
    ]


@lru_cache
def _page() -> Template:
    return Environment(loader=PackageLoader("embedfit.serving"), autoescape=True).get_template("docs.html")


def docs_page(document: Json) -> str:
    """The document as an HTML page without scripts and without files from other hosts."""
    return _page().render(document=document)
