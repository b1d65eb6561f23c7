"""What OpenSearch is sent: a mapping, documents, queries, and the pipeline of a hybrid query."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from embedfit.index.retriever import DENSE_PARTS, Part
from embedfit.index.sinks.conditions import FOLDER, Test, dates_of, field_of, folders_of, items, keys_of, tests_of
from embedfit.index.sinks.sink import About, Question, Row
from embedfit.index.store.columns import DOCUMENT
from embedfit.index.store.filters import Condition, Filter

Body = dict[str, Any]
#: The member of a mapping's _meta that names the content.
MARK = "embedfit index"
#: Lucene takes no term of more than 32,766 bytes. Filters look for texts of up to 1,000 signs.
_LONGEST = 8_000
_SEVERAL = ("windows", "queries")
#: Passages of each part that a hybrid query normalises.
DEPTH = 100
#: How far the words' scores of the best DEPTH passages spread: 0.060, 0.051 and 0.044 in the mean over 100 questions of
#: emanual, xquad_en and stackfaq. docs/stores.md says what the pipeline then finds.
WORDS_DEVIATION = 0.06


def index_body(about: About) -> Body:
    """The body of PUT /NAME. Nothing of a passage can add a field to it."""
    vector = {
        "type": "knn_vector",
        "dimension": about.dimensions,
        "method": {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct"},
    }
    keyword = {"type": "keyword", "ignore_above": _LONGEST}
    properties: Body = dict.fromkeys(("id", "document"), keyword)
    properties |= {name: {"type": "text"} for name in ("title", "text")}
    properties |= {"number": {"type": "integer"}, "page": {"type": "integer"}, "tokens": {"type": "binary"}}
    properties["metadata"] = {"type": "object", "enabled": False}
    properties |= {"one": vector} if "one" in about.holds else {}
    properties |= {name: {"type": "rank_features"} for name in about.terms}
    for name in _SEVERAL:
        if name in about.holds:
            properties[name] = {"type": "nested", "properties": {"vector": vector}}
    others = {"number": "double", "flag": "boolean", "date": "long"}
    kinds = {"text": keyword, **{kind: {"type": other} for kind, other in others.items()}}
    fields = {key: {"properties": kinds} for key in keys_of(about).values()}
    filters = {"has": keyword, "folders": keyword, "fields": {"properties": fields}}
    properties["filters"] = {"properties": filters}
    note = {MARK: about.content, "model": about.model, "fingerprint": about.fingerprint}
    limit = 1000 + 6 * len(fields)
    return {
        "settings": {"index": {"knn": True, "mapping": {"total_fields": {"limit": limit}}}},
        "mappings": {"dynamic": False, "_meta": note, "properties": properties},
    }


def document(row: Row, keys: Mapping[str, str]) -> Body:
    """A passage. keys: see keys_of."""
    found: Body = {name: getattr(row, name) for name in ("number", "id", "document", "title", "text", "page", "digest")}
    found["metadata"] = dict(row.metadata)
    if row.vector is not None:
        found["one"] = row.vector.tolist()
    for name, given in (("windows", row.windows), ("queries", row.queries)):
        if given is not None:
            found[name] = [{"vector": one} for one in given.tolist()]
    for name, own in row.words.items():  # rank_features takes no 0
        pairs = zip(own.numbers.tolist(), own.values.tolist(), strict=True)
        found[name] = {f"t{number}": value for number, value in pairs if value > 0}
    if row.tokens is not None:
        found["tokens"] = base64.b64encode(row.tokens.tobytes()).decode("ascii")
    found["filters"] = _filters(row, keys)
    return found


def _filters(row: Row, keys: Mapping[str, str]) -> Body:
    values = {DOCUMENT: row.document, **row.metadata}
    fields: dict[str, dict[str, list[Any]]] = {}
    for name, value in values.items():
        own = fields.setdefault(keys[name], {})
        for one in items(value):
            kind = "flag" if isinstance(one, bool) else "text" if isinstance(one, str) else "number"
            own.setdefault(kind, []).append(one)
    for name, dates in dates_of(values).items():
        fields[keys[name]]["date"] = dates
    has = [keys[name] for name, value in values.items() if items(value)]
    return {"has": has, "folders": folders_of(row.metadata.get(FOLDER)), "fields": fields}


# --- queries


def search_body(about: About, question: Question, size: int, where: Filter) -> Body:
    """The first stage as one exact query: the sum of weight × (1 + cosine) / deviation, and of the words' weights.

    `constant` less than the score is the index' own. Lucene keeps eight or nine bits of a word's weight.
    """
    clauses = [
        _dense(part, question, part.weight / part.deviation)
        if part.name in DENSE_PARTS
        else _words(part, question, part.weight / part.deviation)
        for part in about.retriever.parts
    ]
    # Without a dense part only passages that hold a word are found.
    is_dense = about.retriever.has(*DENSE_PARTS)
    query: Body = {"bool": {"should": clauses, "minimum_should_match": 1}}
    if where.conditions:
        query["bool"]["filter"] = [_condition(one, about) for one in where.conditions]
    if not is_dense and not any(clause != _NOTHING for clause in clauses):
        query = _NOTHING
    return {
        "size": size,
        "query": query,
        "sort": ["_score", {"number": "asc"}],
        "track_scores": True,
        "_source": {"excludes": ["one", *_SEVERAL, *about.terms, "filters", "digest"]},
    }


_NOTHING: Body = {"match_none": {}}
_COSINE = "params.weight * (1.0 + cosineSimilarity(params.vector, doc['{field}']))"


def constant(about: About) -> float:
    """What search_body's scores have more than the index' own. A score may not be negative, so cosines get 1 more."""
    return sum(part.weight / part.deviation for part in about.retriever.parts if part.name in DENSE_PARTS)


def _dense(part: Part, question: Question, weight: float) -> Body:
    field = part.name if part.name == "one" else f"{part.name}.vector"
    script = {
        "source": _COSINE.format(field=field),
        "params": {"weight": weight, "vector": question.vector.tolist()},
    }
    score = {"script_score": {"query": {"match_all": {}}, "script": script}}
    return score if part.name == "one" else {"nested": {"path": part.name, "score_mode": "max", "query": score}}


def _words(part: Part, question: Question, weight: float) -> Body:
    asked = question.words[part.name]
    pairs = zip(asked.numbers.tolist(), asked.values.tolist(), strict=True)
    tokens = {f"t{number}": value * weight for number, value in pairs}
    return {"neural_sparse": {part.name: {"query_tokens": tokens}}} if tokens else _NOTHING


def hybrid_body(about: About, question: Question, size: int) -> Body:
    """A hybrid query for the pipeline of pipeline_body. It uses the approximate index of the vectors."""
    queries = []
    for part in about.retriever.parts:
        field = part.name if part.name == "one" else f"{part.name}.vector"
        near: Body = {"knn": {field: {"vector": question.vector.tolist(), "k": DEPTH}}}
        if part.name in _SEVERAL:
            near = {"nested": {"path": part.name, "score_mode": "max", "query": near}}
        queries.append(near if part.name in DENSE_PARTS else _words(part, question, 1.0))
    return {"size": size, "query": {"hybrid": {"pagination_depth": DEPTH, "queries": queries}}}


def pipeline_body(about: About) -> Body:
    """A search pipeline: z-scores of the parts by our weights. Its order is near ours, but not the same.

    OpenSearch divides a part's scores by their deviation among the DEPTH best passages of a query. Ours are divided by
    constants; the words' constant is 1, so their weight is multiplied by WORDS_DEVIATION.
    """
    weights = [part.weight * (1 if part.name in DENSE_PARTS else WORDS_DEVIATION) for part in about.retriever.parts]
    shares = [round(weight / sum(weights), 4) for weight in weights]
    shares[-1] = round(1 - sum(shares[:-1]), 4)  # OpenSearch asks for a sum of 1
    processor = {
        "normalization": {"technique": "z_score"},
        "combination": {"technique": "arithmetic_mean", "parameters": {"weights": shares}},
    }
    return {
        "description": f"the retriever {about.retriever.name} of embedfit, model {about.fingerprint[:12]}",
        "phase_results_processors": [{"normalization-processor": processor}],
    }


# --- filters


def _condition(condition: Condition, about: About) -> Body:
    """The meaning is that of Catalogue.allowed. Raises InputError as tests_of."""
    known = field_of(condition, about)
    key = keys_of(about)[known.name]
    if condition.operator == "exists":
        has = {"term": {"filters.has": key}}
        return has if condition.values[0][0] else {"bool": {"must_not": [has]}}
    tests = [_tested(test, f"filters.fields.{key}") for test in tests_of(condition, known)]
    if condition.operator == "!=":
        return {"bool": {"must_not": tests}}
    return {"bool": {"should": tests, "minimum_should_match": 1}}


def _tested(test: Test, path: str) -> Body:
    value = test.value
    if test.kind == "inside":
        return {"term": {"filters.folders": value}}
    if test.kind == "equal":
        kind = "flag" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        return {"term": {f"{path}.{kind}": value}}
    signs = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
    kind = "date" if test.kind.startswith("date") else "number"
    return {"range": {f"{path}.{kind}": {signs[test.kind.removeprefix("date ")]: value}}}
