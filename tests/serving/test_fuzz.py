"""Bodies that nobody should send, against the application and against a real process: no 5xx, no hang."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.testing.server import RunningServer

PATHS = [
    "/embed",
    "/embed_all",
    "/similarity",
    "/tokenize",
    "/decode",
    "/v1/embeddings",
    "/invocations",
    "/vertex",
    "/",
]
FIELDS = ["inputs", "input", "ids", "instances", "normalize", "truncate", "dimensions", "prompt_name",
          "encoding_format", "truncation_direction", "source_sentence", "sentences", "parameters"]  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.sampled_from(FIELDS), children, max_size=5),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)


@pytest.fixture(scope="module")
def http(server: RunningServer):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def post(http: httpx.Client, path: str, content: bytes) -> int:
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        assert {"error", "message"} & set(answer.json()), answer.text
    return answer.status_code


@given(path=st.sampled_from(PATHS), body=bodies)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_answered_below_500(http, path, body):
    # json.dumps writes NaN and lone surrogates, which are not JSON: those too.
    assert post(http, path, json.dumps(body).encode()) < 500


@given(path=st.sampled_from(PATHS), content=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_answered_below_500(http, path, content):
    assert 400 <= post(http, path, content) < 500


@pytest.mark.parametrize(
    ("name", "content", "statuses"),
    [
        ("a text of 10 MB", b'{"inputs":"' + b"a " * 5_000_000 + b'"}', {413}),
        ("a text at the limit", b'{"inputs":"' + b"a " * 990_000 + b'"}', {200}),
        ("one word of 1.9 MB", b'{"inputs":"' + b"a" * 1_900_000 + b'"}', {200}),
        ("a million brackets", b"[" * 1_000_000, {400}),
        ("deep lists that are closed", b'{"inputs":' + b"[" * 1_000 + b"1" + b"]" * 1_000 + b"}", {400, 422}),
        ("deep objects", b'{"inputs":' + b'{"inputs":' * 100_000 + b"1" + b"}" * 100_001, {400}),
        ("NaN as an input", b'{"inputs":NaN}', {400}),
        ("infinite dimensions", b'{"inputs":"a","dimensions":1e400}', {400, 422}),
        ("no input", b'{"inputs":[]}', {400}),
        ("an empty list among inputs", b'{"inputs":["a",[]]}', {400}),
        ("an id below 0", b'{"inputs":[-1]}', {422}),
        ("an id beyond the vocabulary", b'{"inputs":[[101,2147483647]]}', {422}),
        ("an id beyond 64 bits", b'{"inputs":[18446744073709551616]}', {400, 422}),
        ("a number for a text", b'{"inputs":1.5}', {422}),
        ("an object for a text", b'{"inputs":{"text":"a"}}', {422}),
        ("a text for a flag", b'{"inputs":"a","normalize":"yes"}', {422}),
        ("null for everything", b'{"inputs":null,"truncate":null,"prompt_name":null}', {422}),
        ("half a surrogate pair", b'{"inputs":["a\\udc00b"]}', {400}),
        ("a surrogate in UTF-8", b'{"inputs":"\xed\xa0\x80"}', {400}),
        ("a number of 1 MB", b'{"inputs":' + b"9" * 1_000_000 + b"}", {400, 422}),
        ("half a million ids", b'{"inputs":[' + b"1," * 499_999 + b"1]}", {200}),
        ("many empty lists", b'{"inputs":[' + b"[]," * 100_000 + b"[]]}", {422}),
        ("a surrogate", b'{"inputs":"\\ud800"}', {400}),
        ("a null byte", b'{"inputs":"\\u0000"}', {200}),
        ("doubled keys", b'{"inputs":"a","inputs":"b"}', {200}),
        ("right-to-left and joiners", json.dumps({"inputs": "\u202e\u200d\u0301" * 500}).encode(), {200}),
        ("emoji", json.dumps({"inputs": "🙃" * 5_000}).encode(), {200}),
    ],
)
def test_extreme_bodies(http, name, content, statuses):
    try:
        assert post(http, "/embed", content) in statuses, name
    except (httpx.WriteError, httpx.ReadError):
        assert statuses == {413}, name  # refused while we still wrote
    assert http.get("/health").status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("st") is None and not (Path(sys.executable).parent / "st").exists(), reason="no st")
def test_schemathesis_finds_no_fault(server: RunningServer, tmp_path: Path):
    """Every example and many mutations of our OpenAPI document, with all of schemathesis' checks."""
    command = [
        str(Path(sys.executable).parent / "st"), "run", f"{server.url}/api-doc/openapi.json", "--checks", "all",
        # The tokenizer refuses what no schema can say, such as texts without a token.
        "--exclude-checks", "positive_data_acceptance",
        "--max-examples", "25", "--seed", "1", "--request-timeout", "60", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=840, cwd=tmp_path, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stdout[-6000:]
