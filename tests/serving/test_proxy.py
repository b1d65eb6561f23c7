"""`embedfit serve --map --upstream`: vectors of another server, those of queries mapped."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from embedfit.embedders.client import Patience
from embedfit.embedders.openai import openai
from embedfit.embedders.tei import read_info, tei
from embedfit.errors import EmbedfitError, InputError, ServingError, UsageError
from embedfit.llm.transport.retry import RetryPolicy
from embedfit.models.query_map import QueryMap
from embedfit.models.store.vectors import PROBES
from embedfit.serving import proxy
from embedfit.serving.app import App
from embedfit.serving.proxy import MappedAnswers, Upstream, open_upstream
from embedfit.serving.settings import ServeSettings, from_environment
from embedfit.testing.server import RunningServer, running_server
from tests.serving.test_app import Client

WIDTH = 6
TURN = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
SECRET = "sk-upstream-secret"


def vector_of(text: str) -> np.ndarray:
    row = np.random.default_rng(list(text.encode())).normal(size=WIDTH).astype(np.float32)
    return row / np.linalg.norm(row)


def answered(request: httpx.Request) -> httpx.Response:
    texts = json.loads(request.content)["input"]
    data = [{"index": number, "embedding": vector_of(text).tolist()} for number, text in enumerate(texts)]
    return httpx.Response(200, json={"data": data})


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    """A client of an application in front of an upstream that answers as it is told."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def make(handler: Callable[[httpx.Request], httpx.Response] = answered, **settings: object) -> Client:
        embedder = openai("https://internal.example/v1", "titan", transport=httpx.MockTransport(handler))
        embedder.patience = Patience(policy=RetryPolicy(attempts=2, base_s=0.0, cap_s=0.0))
        mapped = MappedAnswers(ServeSettings.model_validate(settings))
        mapped.upstream = Upstream(embedder=embedder, map=QueryMap(TURN), name="titan")
        return Client(App(mapped.settings, answers=mapped))

    return make


def rows(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array(answer.json(), np.float32)


def test_only_texts_with_the_prompt_query_are_mapped(proxied: Callable[..., Client]) -> None:
    client, texts = proxied(), ["mute", "pair the remote"]
    plain = np.stack([vector_of(text) for text in texts])
    for name in (
        {},
        {"prompt_name": "document"},
        {"prompt_name": "passage"},
        {"prompt_name": ""},
        {"prompt_name": None},
    ):
        np.testing.assert_allclose(rows(client.post("/embed", {"inputs": texts, **name})), plain, atol=1e-6)
    mapped = rows(client.post("/embed", {"inputs": texts, "prompt_name": "query"}))
    np.testing.assert_allclose(mapped, plain @ TURN.T, atol=1e-6)
    np.testing.assert_allclose(
        rows(client.post("/embed", {"inputs": "mute", "prompt_name": "query"})), mapped[:1], atol=1e-6
    )


def test_openais_form_says_it_by_the_model_s_name_or_the_prompt_s(proxied: Callable[..., Client]) -> None:
    client, plain = proxied(), vector_of("mute")
    for path in ("/v1/embeddings", "/embeddings"):
        for body, expected in (
            ({"model": "titan"}, plain),
            ({"model": "titan:query"}, TURN @ plain),
            ({"prompt_name": "query"}, TURN @ plain),
            ({"model": "titan:query", "prompt_name": "document"}, plain),
        ):
            answer = client.post(path, {"input": ["mute"], **body})
            assert answer.status_code == 200 and answer.json()["model"] == "titan"
            np.testing.assert_allclose(answer.json()["data"][0]["embedding"], expected, atol=1e-6)
    answer = client.post("/v1/embeddings", {"input": "mute", "model": "titan:query", "encoding_format": "base64"})
    decoded = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(decoded, TURN @ plain, atol=1e-6)
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["titan", "titan:query"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"inputs": "a", "prompt_name": "code"}, 422),
        ({"inputs": "a", "dimensions": 3}, 422),
        ({"inputs": "a", "dimensions": WIDTH + 1}, 422),
        ({"inputs": [[1, 2]]}, 422),
        ({"inputs": []}, 400),
        ({"inputs": ["a"] * 33}, 422),
        ({"inputs": 3}, 422),
        ({}, 422),
    ],
)
def test_a_wrong_request_never_reaches_the_upstream(
    proxied: Callable[..., Client], body: dict[str, object], status: int
) -> None:
    asked: list[httpx.Request] = []
    answer = proxied(lambda request: asked.append(request) or answered(request)).post("/embed", body)
    assert answer.status_code == status and answer.json()["error"] and not asked


def test_the_server_s_bounds_hold(proxied: Callable[..., Client]) -> None:
    client = proxied(api_key="ours", payload_limit=200)
    assert client.post("/embed", {"inputs": "a"}).status_code == 401
    ours = {"authorization": "Bearer ours"}
    assert client.post("/embed", {"inputs": "a" * 300}, headers=ours).status_code == 413
    assert client.post("/embed", {"inputs": "a"}, headers=ours).status_code == 200
    assert client.get("/health").status_code == 200 and client.get("/info", headers=ours).json()["hidden_size"] == WIDTH
    assert client.post("/tokenize", {"inputs": "a"}, headers=ours).status_code == 404
    assert 'te_request_failure{err="payload"} 1.0' in client.get("/metrics").text
    assert "prompts" not in client.get("/info", headers=ours).json()
    assert read_info(client.get("/info", headers=ours).json()).has_towers  # clients name the prompt of every text


def failing(status: int, message: str = "no", **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        said = f"{message} {request.headers['authorization']} {request.url}"
        return httpx.Response(status, json={"error": {"message": said}}, headers=headers)

    return handler


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError(f"no route to {request.url}")


def strange(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=b"<html>")


def narrow(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0, 0.0]}]})


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (failing(429, **{"retry-after": "7"}), 429),
        (failing(400, "bad text"), 422),
        (failing(413), 422),
        (failing(401), 424),
        (failing(403), 424),
        (failing(404), 424),
        (failing(500), 424),
        (failing(503), 424),
        (unreachable, 424),
        (strange, 424),
        (narrow, 424),
    ],
)
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_the_upstream_s_failures_are_passed_on_without_its_key_and_address(
    proxied: Callable[..., Client],
    caplog: pytest.LogCaptureFixture,
    handler: Callable[[httpx.Request], httpx.Response],
    status: int,
    path: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = proxied(handler).post(path, {"inputs" if path == "/embed" else "input": "mute"})
    assert answer.status_code == status
    said = answer.json()["error" if path == "/embed" else "message"]
    assert "upstream" in said
    own = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("embedfit"))
    for text in (answer.text, own):
        assert SECRET not in text
    assert "internal.example/v1 answered" not in answer.text
    if status == 429:
        assert answer.headers["retry-after"] == "7"


def test_an_upstream_that_never_answers_ends(proxied: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    monkeypatch.setattr(proxy, "DEADLINE", 0.05)
    answer = proxied(never).post("/embed", {"inputs": "mute"})
    assert answer.status_code == 424 and "no vectors in" in answer.json()["error"]


def test_before_the_upstream_is_reached_the_server_is_not_healthy() -> None:
    client = Client(App(ServeSettings(), answers=MappedAnswers(ServeSettings())))
    assert client.get("/health").status_code == 503
    assert client.post("/embed", {"inputs": "a"}).status_code == 503


@pytest.mark.parametrize("given", [{"query_map": "map"}, {"upstream": "tei:http://localhost:1"}])
def test_map_and_upstream_belong_together(given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="belong together"):
        from_environment({}, overrides=given)


def test_what_can_not_be_an_upstream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"
    QueryMap(TURN).save(path)

    def opened(upstream: str, query_map: Path = path) -> None:
        open_upstream(ServeSettings(upstream=upstream, query_map=str(query_map)))

    with pytest.raises(UsageError, match="no server's embedder"):
        opened("minilm")
    with pytest.raises(UsageError, match="openai:http://localhost"):
        opened("openai:http://localhost:1/v1")
    with pytest.raises(InputError, match="no query map"):
        opened("tei:http://localhost:1", tmp_path / "missing")
    with pytest.raises(ServingError, match="upstream gives no vectors"):
        opened("tei:http://127.0.0.1:9")


@pytest.fixture(scope="module")
def chain(server: RunningServer, tmp_path_factory: pytest.TempPathFactory):
    """A proxy in front of a real server, each in a process of its own, and the matrix of its map."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(32, 32)))[0].astype(np.float32)
    path = tmp_path_factory.mktemp("proxy") / "map.safetensors"
    upstream = openai(f"{server.url}/v1", "tiny")
    QueryMap(turn, probes=upstream.embed(PROBES, is_query=True)).save(path)
    upstream.release()
    with running_server(f"--map={path}", "--upstream", f"openai:{server.url}/v1#tiny") as running:
        yield running, turn


def test_clients_of_others_get_mapped_queries(chain, server: RunningServer) -> None:
    running, turn = chain
    from openai import OpenAI

    own = openai(f"{server.url}/v1", "tiny")
    plain = own.embed(["mute the tv", "pair"], is_query=False)
    own.release()
    with OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        passages = client.embeddings.create(model="tiny", input=["mute the tv", "pair"])
        queries = client.embeddings.create(model="tiny:query", input=["mute the tv", "pair"])
    np.testing.assert_allclose([one.embedding for one in passages.data], plain, atol=1e-5)
    np.testing.assert_allclose([one.embedding for one in queries.data], plain @ turn.T, atol=1e-5)
    ours = tei(running.url)
    np.testing.assert_allclose(ours.embed(["mute the tv", "pair"], is_query=True), plain @ turn.T, atol=1e-5)
    np.testing.assert_allclose(ours.embed(["mute the tv", "pair"], is_query=False), plain, atol=1e-5)
    ours.release()


def test_a_map_of_another_embedder_does_not_start(server: RunningServer, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    probes = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    QueryMap(np.eye(32, dtype=np.float32), probes=probes / np.linalg.norm(probes, axis=1, keepdims=True)).save(other)
    QueryMap(np.eye(16, dtype=np.float32)).save(tmp_path / "narrow.safetensors")
    for path, words in ((other, "another embedder"), (tmp_path / "narrow.safetensors", "16 wide")):
        with pytest.raises(EmbedfitError, match=words):
            open_upstream(ServeSettings(upstream=f"openai:{server.url}/v1#tiny", query_map=str(path)))
