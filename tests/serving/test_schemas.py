"""The records of requests: what they accept is what the OpenAPI document says, whatever a body holds."""

from __future__ import annotations

import json
import tracemalloc

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from embedfit.serving import schemas
from embedfit.serving.failures import BatchTooLarge, Empty, Invalid, Malformed, RequestFailure

BOUNDS = schemas.Bounds(inputs=32, dimensions=384)
RECORDS = (schemas.EmbedRequest, schemas.OpenAIRequest, schemas.SimilarityRequest, schemas.TokenizeRequest,
           schemas.DecodeRequest, schemas.VertexRequest, schemas.SearchRequest)  # fmt: skip
READERS = {record.__name__: TypeAdapter(record) for record in RECORDS}
CHECKS = {name: jsonschema.Draft202012Validator(reader.json_schema()) for name, reader in READERS.items()}
#: A filter's content is checked by the index's own rules.
NAMES = sorted({name for record in RECORDS for name in record.model_fields} - {"filter"})
NAMES += ["source_sentence", "sentences", "unknown"]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 400) | st.sampled_from([2**31, "", "a", "Left", "base64", 0.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
inputs = st.sampled_from(["a", "", [], ["a"], ["a", ""], [1, 2], [[1], "a"], [[1], [2]], [[]], [1, "a"]]) | values
bodies = st.builds(
    lambda given, more: {**{name: given for name in ("inputs", "input", "ids", "query")}, **more},
    inputs,
    st.dictionaries(st.sampled_from(NAMES), values, max_size=3),
)


def read(name: str, body: object) -> RequestFailure | None:
    try:
        schemas.read_body(READERS[name], json.dumps(body).encode(), BOUNDS)
    except RequestFailure as failure:
        return failure
    return None


@given(name=st.sampled_from(sorted(READERS)), body=bodies)
@example(name="VertexRequest", body={"instances": [{"inputs": "a"}, {"inputs": [[1], [2]]}]})
@example(name="SimilarityRequest", body={"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": None})
def test_a_body_is_taken_if_the_document_allows_it(name, body):
    if name == "SearchRequest":
        body = {field: value for field, value in body.items() if field in ("query", "k", "documents", "base")}
    elif name == "OpenAIRequest":
        body = {"input" if field == "inputs" else field: value for field, value in body.items()}
    failure = read(name, body)
    if body.get("dimensions") not in (None, *range(1, 385)):
        assert failure is not None
    else:
        assert (failure is None) == CHECKS[name].is_valid(body), failure and failure.message


@pytest.mark.parametrize(
    ("name", "body", "kind", "said"),
    [
        ("EmbedRequest", {"inputs": ["a"] * 33}, BatchTooLarge, "33 > maximum"),
        ("EmbedRequest", {"inputs": [[]] * 33}, BatchTooLarge, "33 > maximum"),  # the number is checked first
        ("EmbedRequest", {"inputs": ["a", ""]}, Empty, "`inputs`"),
        ("EmbedRequest", {"inputs": "a", "normalize": 1}, Invalid, "`normalize`"),
        ("EmbedRequest", {"inputs": "a", "dimensions": 385}, Invalid, "1 to 384"),
        ("EmbedRequest", {}, Invalid, "missing field `inputs`"),
        ("EmbedRequest", [], Invalid, "the body"),
        ("VertexRequest", {"instances": [{}]}, Invalid, "`instances`"),
        ("SimilarityRequest", {"inputs": {"source_sentence": "a"}}, Invalid, "missing field `sentences`"),
        ("SearchRequest", {"query": "a", "documents": []}, Empty, "`documents`"),
        ("SearchRequest", {"query": "a", "top": 1}, Invalid, "there is no field `top`"),
        ("SearchRequest", {"query": ["a"] * 32, "k": 1000}, Invalid, "more than 10000 passages"),
    ],
)
def test_a_refusal_names_the_field(name, body, kind, said):
    failure = read(name, body)
    assert type(failure) is kind
    assert said in failure.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("EmbedRequest", b'{"inputs":["a",' + b"1," * 200_000 + b"1]}"),
        ("SimilarityRequest", b'{"inputs":{"source_sentence":"a","sentences":[' + b"1," * 200_000 + b"1]}}"),
        ("VertexRequest", b'{"instances":[' + b"1," * 200_000 + b"1]}"),
        ("SearchRequest", b'{"query":"a","documents":[' + b"1," * 200_000 + b"1]}"),
        ("SearchRequest", b'{"query":"a",' + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}"),
    ],
)
def test_hostile_a_body_of_errors_alone_costs_no_more_than_one(name, content):
    tracemalloc.start()
    with pytest.raises(Invalid) as caught:
        schemas.read_body(READERS[name], content, BOUNDS)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(caught.value.message) < 500
    assert most < 40 * len(content)  # the parsed body itself; an error costs hundreds of bytes


@pytest.mark.parametrize(
    "content", [b'{"inputs":NaN}', b'{"inputs":"a","dimensions":Infinity}', b'{"inputs":"\\ud800"}', b"{"]
)
def test_what_is_not_json_is_malformed(content):
    with pytest.raises(Malformed):
        schemas.read_body(READERS["EmbedRequest"], content, BOUNDS)
