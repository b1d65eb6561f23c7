from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedfit.models.layout.modules import unit_rows
from embedfit.serving.app import App
from tests.serving.conftest import HIDDEN, FakeEngine, known_vector, make_app


class Client:
    """Calls the application without a socket."""

    def __init__(self, app: App, **headers: str) -> None:
        self.app, self.headers = app, headers

    def __call__(self, method: str, path: str, body: object = None, **options: object) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                content = options.pop("content", None if body is None else json.dumps(body).encode())
                headers = {"content-type": "application/json", **self.headers, **options.pop("headers", {})}
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(call())

    def post(self, path: str, body: object = None, **options: object) -> httpx.Response:
        return self("POST", path, body, **options)

    def get(self, path: str, **options: object) -> httpx.Response:
        return self("GET", path, **options)


@pytest.fixture
def app_with(engine: FakeEngine, tiny_bert: Path) -> Callable[..., Client]:
    return lambda **settings: Client(make_app(engine, tiny_bert, **settings))


@pytest.fixture
def client(app_with) -> Client:
    return app_with()


def ids_of(client: Client, text: str) -> list[int]:
    return [token["id"] for token in client.post("/tokenize", {"inputs": text}).json()[0]]


def expected(client: Client, text: str) -> np.ndarray:
    return unit_rows(known_vector(ids_of(client, text)))


def test_embed_is_always_two_dimensional(client):
    single = client.post("/embed", {"inputs": "mute the tv"}).json()
    batch = client.post("/embed", {"inputs": ["mute the tv", "sound"]}).json()
    assert np.shape(single) == (1, HIDDEN)
    assert np.shape(batch) == (2, HIDDEN)
    np.testing.assert_allclose(single[0], expected(client, "mute the tv"), rtol=1e-5)
    np.testing.assert_allclose(batch[1], expected(client, "sound"), rtol=1e-5)


@pytest.mark.parametrize("path", ["/", "/invocations", "/endpoints/my-endpoint/invocations"])
def test_other_names_of_embed(client, path):
    assert client.post(path, {"inputs": "tv"}).json() == client.post("/embed", {"inputs": "tv"}).json()


def test_token_ids_are_used_as_they_are(client):
    ids = ids_of(client, "mute the tv")
    for given in (ids, [ids]):
        np.testing.assert_allclose(
            client.post("/embed", {"inputs": given}).json()[0], expected(client, "mute the tv"), rtol=1e-5
        )


def test_of_a_very_long_text_only_the_end_that_is_read_is_tokenised(client):
    words = ["mute", "the", "tv", "sound"] * 20_000
    text = " ".join(words)
    assert client.post("/embed", {"inputs": text}).json() == client.post("/embed", {"inputs": text[:500]}).json()
    left = {"truncation_direction": "Left"}
    assert (
        client.post("/embed", {"inputs": text, **left}).json()
        == client.post("/embed", {"inputs": text[-500:], **left}).json()
    )
    refused = client.post("/embed", {"inputs": text, "truncate": False})
    assert refused.status_code == 422
    assert "less than 8000 characters" in refused.json()["error"]


def test_the_prompt_comes_before_the_text(client):
    with_prompt = client.post("/embed", {"inputs": "tv", "prompt_name": "query"}).json()
    assert with_prompt == client.post("/embed", {"inputs": "query: tv"}).json()
    assert with_prompt != client.post("/embed", {"inputs": "tv"}).json()


def test_a_models_name_can_stand_for_the_prompt_of_queries(client):
    def embedded(**more):
        return client.post("/v1/embeddings", {"input": "tv", **more}).json()["data"][0]["embedding"]

    assert embedded(model="tiny:query") == embedded(model="tiny", prompt_name="query") != embedded(model="tiny")
    assert embedded(model="tiny:query", prompt_name="") == embedded(model="tiny")


def test_the_prompt_comes_before_token_ids_too(client):
    ids = ids_of(client, "mute the tv")
    assert (
        client.post("/embed", {"inputs": ids, "prompt_name": "query"}).json()
        == client.post("/embed", {"inputs": "query: mute the tv"}).json()
    )


def test_a_default_prompt_is_put_before_texts_of_requests_that_name_none(app_with, client):
    assert (
        app_with(default_prompt="query: ").post("/embed", {"inputs": "tv"}).json()
        == client.post("/embed", {"inputs": "tv", "prompt_name": "query"}).json()
    )


def test_dimensions_cut_first_and_normalise_then(client):
    full = np.array(client.post("/embed", {"inputs": "tv", "normalize": False}).json())
    cut = client.post("/embed", {"inputs": "tv", "dimensions": 3}).json()
    np.testing.assert_allclose(cut, unit_rows(full[:, :3]), rtol=1e-5)
    assert np.linalg.norm(full) > 1.5


def test_embed_all_has_one_vector_a_token(client):
    answer = client.post("/embed_all", {"inputs": ["tv", "mute the tv"]}).json()
    assert [len(tokens) for tokens in answer] == [len(ids_of(client, "tv")), len(ids_of(client, "mute the tv"))]
    assert answer[0][0] == [float(ids_of(client, "tv")[0])] * HIDDEN


def test_similarity_is_the_cosine(client):
    body = {"inputs": {"source_sentence": "tv", "sentences": ["tv", "sound"]}}
    same, other = client.post("/similarity", body).json()
    assert same == pytest.approx(1.0, abs=1e-6)
    assert other == pytest.approx(float(expected(client, "tv") @ expected(client, "sound")), abs=1e-5)


def test_tokenize_gives_characters_of_the_input(client):
    tokens = client.post("/tokenize", {"inputs": "mute  TV"}).json()[0]
    assert [token["special"] for token in tokens] == [True, False, False, True]
    assert [(token["text"], token["start"], token["stop"]) for token in tokens[1:3]] == [("mute", 0, 4), ("TV", 6, 8)]
    assert tokens[0]["text"] == "[CLS]"
    assert tokens[0]["start"] is None
    bare = client.post("/tokenize", {"inputs": "mute", "add_special_tokens": False}).json()[0]
    assert [token["text"] for token in bare] == ["mute"]


def test_decode_turns_ids_back(client):
    ids = ids_of(client, "mute the tv")
    assert client.post("/decode", {"ids": ids}).json() == ["mute the tv"]
    assert client.post("/decode", {"ids": [ids, ids], "skip_special_tokens": False}).json()[1].startswith("[CLS]")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_openai_floats(client, path):
    answer = client.post(path, {"input": ["tv", "sound"], "model": "any", "user": "me"}).json()
    assert answer["object"] == "list"
    assert answer["model"] == "tiny"
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    tokens = len(ids_of(client, "tv")) + len(ids_of(client, "sound"))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    np.testing.assert_allclose(answer["data"][1]["embedding"], expected(client, "sound"), rtol=1e-5)


def test_openai_base64_is_little_endian_float32(client):
    answer = client.post("/v1/embeddings", {"input": "tv", "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(vector, expected(client, "tv"), rtol=1e-6)


def test_vertex_answers_every_instance_as_embed_does(client):
    answer = client.post("/vertex", {"instances": [{"inputs": "tv"}, {"inputs": ["sound", "tv"]}]}).json()
    assert answer["predictions"][0] == client.post("/embed", {"inputs": "tv"}).json()
    assert np.shape(answer["predictions"][1]) == (2, HIDDEN)


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
def test_health(client, path):
    assert client.get(path).status_code == 200


def test_before_warm_up_it_is_not_ready(app_with):
    client = app_with()
    client.app.answers.service = None
    for path in ("/health", "/ping", "/info", "/v1/models"):
        assert client.get(path).status_code == 503
    answer = client.post("/embed", {"inputs": "tv"})
    assert answer.status_code == 503
    assert answer.json()["error_type"] == "Unhealthy"
    assert client.get("/metrics").status_code == 200


def test_health_asks_the_engine_again_after_a_failure(client, engine):
    engine.fail_with = RuntimeError("boom")
    assert client.post("/embed", {"inputs": "tv"}).status_code == 424
    assert client.get("/health").status_code == 503
    engine.fail_with = None
    assert client.get("/health").status_code == 200


BAD = [
    ("/embed", {"inputs": ""}, 400, "Empty"),
    ("/embed", {"inputs": []}, 400, "Empty"),
    ("/embed", {"inputs": ["tv", ""]}, 400, "Empty"),
    ("/embed", {"inputs": [[]]}, 400, "Empty"),
    ("/embed", {}, 422, "Validation"),
    ("/embed", [], 422, "Validation"),
    ("/embed", {"inputs": 5}, 422, "Validation"),
    ("/embed", {"inputs": None}, 422, "Validation"),
    ("/embed", {"inputs": [True]}, 422, "Validation"),
    ("/embed", {"inputs": [1, "a"]}, 422, "Validation"),
    ("/embed", {"inputs": [10**9]}, 422, "Validation"),
    ("/embed", {"inputs": [2**40]}, 422, "Validation"),
    ("/embed", {"inputs": [-1]}, 422, "Validation"),
    ("/embed", {"inputs": [1.5]}, 422, "Validation"),
    ("/embed", {"inputs": ["tv"] * 33}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "normalize": "yes"}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "normalize": None}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "dimensions": 0}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "dimensions": 9}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "dimensions": True}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "prompt_name": "nope"}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "prompt_name": 1}, 422, "Validation"),
    ("/embed", {"inputs": "tv", "truncation_direction": "right"}, 422, "Validation"),
    ("/embed", {"inputs": "tv " * 100, "truncate": False}, 422, "Validation"),
    ("/similarity", {"inputs": {"source_sentence": "tv", "sentences": []}}, 400, "Empty"),
    ("/similarity", {"inputs": {"source_sentence": "tv", "sentences": [[1]]}}, 422, "Validation"),
    ("/similarity", {"inputs": {"source_sentence": "tv"}}, 422, "Validation"),
    ("/decode", {"ids": ["a"]}, 422, "Validation"),
    ("/decode", {"ids": [10**6]}, 422, "Validation"),
    ("/tokenize", {"inputs": [10**6]}, 422, "Validation"),
    ("/vertex", {"instances": []}, 400, "Empty"),
    ("/vertex", {"instances": [{"inputs": ["tv"] * 20}] * 2}, 422, "Validation"),
]


@pytest.mark.parametrize(("path", "body", "status", "kind"), BAD, ids=lambda value: str(value)[:40])
def test_bad_requests_get_teis_errors(client, path, body, status, kind):
    answer = client.post(path, body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error_type"] == kind
    assert answer.json()["error"]


def test_openai_errors_have_openais_form(client):
    answer = client.post("/v1/embeddings", {"input": ""})
    assert answer.status_code == 400
    assert answer.json() == {"message": "`input` cannot be empty", "code": 400, "type": "Empty"}


@pytest.mark.parametrize(
    "given", [[1, 2, 3], [[1, 2], [3]], [[101, 7592, 102]], [0], ["tv", [1]], [[1], "tv"], [1, "tv"], [10**9], [[-1]]]
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_hostile_openai_token_ids_are_refused_with_the_setting_that_mends_it(client, path, given):
    answer = client.post(path, {"input": given, "model": "m"})
    assert answer.status_code == 422
    assert {name: type(value) for name, value in answer.json().items()} == {"message": str, "code": int, "type": str}
    assert "check_embedding_ctx_length=False" in answer.json()["message"]


@pytest.mark.parametrize(
    ("given", "status"), [([], 400), ([[]], 400), ([True], 422), ([1.5], 422), ([[1.5]], 422), ({"a": 1}, 422)]
)
def test_other_openai_inputs_that_are_no_texts_are_refused(client, given, status):
    assert client.post("/v1/embeddings", {"input": given}).status_code == status


@pytest.mark.parametrize("given", [[10**6], [[101, 10**6]], [[5], [2**31 - 1]]])
@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/tokenize", "/invocations"])
def test_hostile_ids_outside_the_vocabulary_are_a_clear_error(client, path, given):
    answer = client.post(path, {"inputs": given})
    assert answer.status_code == 422
    assert "token id" in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b'{"inputs": NaN}', b'{"inputs": "\\ud800"}', b"\xff\xfe"])
def test_what_is_not_json_is_400(client, content):
    answer = client.post("/embed", content=content)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "Validation"


def test_deeply_nested_json_is_refused(client):
    assert client.post("/embed", content=b'{"inputs":' + b"[" * 50_000 + b"]" * 50_000 + b"}").status_code in (400, 422)


def test_other_media_types_are_415(client):
    answer = client.post("/embed", {"inputs": "tv"}, headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 415


def test_large_bodies_are_413_whether_declared_or_not(app_with):
    client = app_with(payload_limit=100)
    assert client.post("/embed", {"inputs": "x" * 200}).status_code == 413

    async def chunks():
        for _ in range(50):
            yield b"x" * 50

    assert client.post("/embed", content=chunks()).status_code == 413


def test_unknown_paths_and_methods(client):
    assert client.get("/nope").status_code == 404
    answer = client.get("/embed")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_truncation_and_its_direction(client):
    words = "mute the tv " * 30
    ids = ids_of(client, words)
    right = client.post("/embed", {"inputs": words}).json()[0]
    np.testing.assert_allclose(right, unit_rows(known_vector([*ids[:31], ids[-1]])), rtol=1e-5)
    left = client.post("/embed", {"inputs": words, "truncation_direction": "Left"}).json()[0]
    np.testing.assert_allclose(left, unit_rows(known_vector([ids[0], *ids[-31:]])), rtol=1e-5)


def test_without_auto_truncate_long_inputs_are_refused_unless_asked_for(app_with):
    client = app_with(auto_truncate=False)
    assert client.post("/embed", {"inputs": "tv " * 100}).status_code == 422
    assert client.post("/embed", {"inputs": "tv " * 100, "truncate": True}).status_code == 200


def test_the_key_protects_what_computes(app_with):
    client = app_with(api_key="secret")
    for path in ("/embed", "/", "/invocations", "/v1/embeddings", "/vertex", "/tokenize", "/decode", "/similarity"):
        assert client.post(path, {"inputs": "tv"}).status_code == 401, path
    assert client.get("/info").status_code == 401
    for path in ("/", "/health", "/ping", "/metrics", "/docs", "/api-doc/openapi.json"):
        assert client.get(path).status_code == 200, path
    for key in ("Bearer secret", "bearer secret"):
        assert client.post("/embed", {"inputs": "tv"}, headers={"authorization": key}).status_code == 200
    for key in ("Bearer wrong", "Basic secret", "secret", "Bearer "):
        assert client.post("/embed", {"inputs": "tv"}, headers={"authorization": key}).status_code == 401


def test_the_key_is_never_shown(app_with):
    client = app_with(api_key="very-secret")
    assert "very-secret" not in repr(client.app.settings)
    for path in ("/info", "/docs", "/metrics", "/api-doc/openapi.json"):
        assert "very-secret" not in client.get(path, headers={"authorization": "Bearer very-secret"}).text


def test_nan_is_424(client, engine):
    engine.give_nan_for = ids_of(client, "mute")[1]
    answer = client.post("/embed", {"inputs": ["tv", "mute"]})
    assert answer.status_code == 424
    assert answer.json()["error_type"] == "Backend"
    assert client.post("/embed", {"inputs": "tv"}).status_code == 200


def test_headers_say_where_the_time_went(client):
    headers = client.post("/embed", {"inputs": ["tv", "mute the tv"]}).headers
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "13"
    assert headers["x-compute-tokens"] == str(len(ids_of(client, "tv")) + len(ids_of(client, "mute the tv")))
    for part in ("x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert int(headers[part]) >= 0


def test_metrics_have_teis_names_and_add_up(client):
    client.post("/embed", {"inputs": "tv"})
    client.post("/embed", {"inputs": ["tv", "sound"]})
    client.post("/embed", {"inputs": ""})
    text = client.get("/metrics").text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    # The parser of the reference client knows counters by the ending _total alone; the text is what counts.
    assert 'te_request_count{method="single"} 1' in text
    assert 'te_request_count{method="batch"} 1' in text
    assert 'te_request_failure{err="validation"} 1' in text
    assert samples[("te_request_duration_count",)] == 2
    assert samples[("te_request_input_length_count",)] == 3
    assert samples[("te_batch_next_size",)] == 2
    assert samples[("te_queue_size",)] == 0


def test_too_many_requests_at_once_are_429_at_once(engine, tiny_bert):
    app = make_app(engine, tiny_bert, max_concurrent_requests=2)
    engine.gate.clear()

    async def scenario():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            running = [asyncio.create_task(client.post("/embed", json={"inputs": "tv"})) for _ in range(2)]
            await asyncio.to_thread(engine.started.acquire, timeout=20)
            refused = await client.post("/embed", json={"inputs": "tv"})
            engine.gate.set()
            return refused, await asyncio.gather(*running)

    refused, answers = asyncio.run(scenario())
    assert refused.status_code == 429
    assert refused.json() == {"error": "Model is overloaded", "error_type": "Overloaded"}
    assert int(refused.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answers] == [200, 200]
    assert app.active == 0


def test_models_route_names_the_model(client):
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_docs_need_no_other_host(client):
    page = client.get("/docs").text
    assert "/embed" in page
    for word in ("<script", "src=", "https://"):
        assert word not in page


def test_the_document_names_every_route(client):
    document = orjson.loads(client.get("/api-doc/openapi.json").content)
    assert set(document["paths"]) >= {
        "/embed", "/embed_all", "/similarity", "/tokenize", "/decode", "/v1/embeddings", "/embeddings",
        "/invocations", "/vertex", "/", "/health", "/ping", "/info", "/metrics",
    }  # fmt: skip


def test_a_bug_becomes_an_answer_and_a_log_line(client, caplog):
    class Broken:
        @property
        def rows(self) -> None:
            raise ZeroDivisionError

    answers = client.app.answers
    answers.service = replace(answers.service, encoder=Broken())
    answer = client.post("/embed", {"inputs": "tv"})
    assert answer.status_code == 500
    assert "ZeroDivisionError" in caplog.text


def test_cors_only_for_the_origins_that_are_named(engine, tiny_bert):
    from embedfit.serving.server import _uvicorn_config

    app = make_app(engine, tiny_bert, cors_allow_origin=("https://here.example",))
    client = Client(app)
    client.app = _uvicorn_config(app, app.settings).app  # type: ignore[assignment]
    named = client.post("/embed", {"inputs": "tv"}, headers={"origin": "https://here.example"})
    assert named.headers["access-control-allow-origin"] == "https://here.example"
    other = client.post("/embed", {"inputs": "tv"}, headers={"origin": "https://there.example"})
    assert "access-control-allow-origin" not in other.headers
    preflight = client(
        "OPTIONS", "/embed",
        headers={"origin": "https://here.example", "access-control-request-method": "POST",
                 "access-control-request-headers": "authorization"},
    )  # fmt: skip
    assert preflight.status_code == 200
