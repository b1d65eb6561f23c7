"""TEI's, OpenAI's and SageMaker's forms on the wire."""

import base64
import io
import json
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from numpy.testing import assert_allclose

from embedfit.embedders.client import Patience
from embedfit.embedders.openai import openai
from embedfit.embedders.sagemaker import MAX_BYTES, sagemaker
from embedfit.embedders.tei import tei
from embedfit.errors import UsageError
from embedfit.llm.transport.retry import CallError, RetryPolicy

TEXTS = ["a" * (n + 1) for n in range(70)]
AT_ONCE = RetryPolicy(base_s=0.0)


def vector(text):
    return [float(len(text)), 1.0, float(text.startswith("query: "))]


def unit(texts):
    rows = np.array([vector(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of(handler):
    return httpx.MockTransport(handler)


def patient(embedder):
    """The embedder without pauses between tries."""
    embedder.patience = Patience(policy=AT_ONCE)
    return embedder


@contextmanager
def released(embedder):
    yield embedder
    embedder.release()


def openai_answer(request):
    assert request.url.path == "/v1/embeddings"
    rows = [vector(text) for text in json.loads(request.content)["input"]]
    return httpx.Response(200, json={"data": [{"index": n, "embedding": row} for n, row in enumerate(rows)][::-1]})


def tei_answer(request):
    if request.url.path == "/info":
        return httpx.Response(200, json={"max_client_batch_size": 16})
    assert request.url.path == "/embed"
    body = json.loads(request.content)
    if "prompt_name" in body:
        return httpx.Response(422, json={"error": "`default-prompts` are not set: prompt name can't be used"})
    return httpx.Response(200, json=[vector(text) for text in body["inputs"]])


async def both(embedder, texts, *, is_query=False):
    one = embedder.embed(texts, is_query=is_query)
    np.testing.assert_array_equal(one, await embedder.aembed(texts, is_query=is_query))
    embedder.release()
    return one


async def test_openai_is_asked_in_batches_and_answers_are_put_in_order():
    bodies = []

    def handler(request):
        bodies.append(json.loads(request.content))
        return openai_answer(request)

    embedder = openai("http://h/v1", "bge", transport=of(handler))
    assert_allclose(await both(embedder, TEXTS), unit(TEXTS), rtol=1e-6)
    assert sorted(len(body["input"]) for body in bodies) == [6, 6, 32, 32, 32, 32]
    assert {body["model"] for body in bodies} == {"bge"}


async def test_openai_instruction_and_base64():
    def handler(request):
        texts = json.loads(request.content)["input"]
        packed = [base64.b64encode(np.array(vector(t), "<f4").tobytes()).decode() for t in texts]
        return httpx.Response(200, json={"data": [{"index": n, "embedding": e} for n, e in enumerate(packed)]})

    embedder = openai("http://h/v1", "bge", query_instruction="query: ", transport=of(handler))
    assert_allclose(await both(embedder, ["abc"], is_query=True), unit(["query: abc"]), rtol=1e-6)
    assert_allclose(await both(embedder, ["abc"]), unit(["abc"]), rtol=1e-6)


@pytest.mark.parametrize(
    "answer",
    [{"data": [{"index": 0}]}, {"oops": 1}, [1, 2], {"data": [{"index": 0, "embedding": [1]}] * 2},
     {"data": [{"index": "x", "embedding": [1]}]}, {"data": [{"index": 0, "embedding": "%"}]}, None],
)  # fmt: skip
def test_an_answer_of_another_form_is_an_error(answer):
    transport = of(lambda request: httpx.Response(200, json=answer))
    with (
        released(openai("http://h/v1", "bge", name="name", transport=transport)) as embedder,
        pytest.raises(CallError, match="name"),
    ):
        embedder.embed(["abc"])


async def test_tei_is_asked_in_batches_of_the_size_that_it_tells():
    sizes = []

    def handler(request):
        if request.url.path == "/embed":
            sizes.append(len(json.loads(request.content)["inputs"]))
        return tei_answer(request)

    embedder = tei("http://h/", transport=of(handler))
    assert_allclose(await both(embedder, TEXTS, is_query=True), unit(TEXTS), rtol=1e-6)
    assert max(sizes) == 16


async def test_overload_is_tried_again_and_a_wrong_key_is_not():
    statuses = iter([429, 503, 424, 200])

    def busy(request):
        if request.url.path == "/info":
            return tei_answer(request)
        status = next(statuses)
        return httpx.Response(status, json=[vector("a")] if status == 200 else {"error": "overloaded"})

    with released(patient(tei("http://h", query_instruction="", transport=of(busy)))) as embedder:
        assert embedder.embed(["a"], is_query=True).shape == (1, 3)

    calls = []

    def denied(request):
        calls.append(request.url.path)
        return httpx.Response(401, json={"error": f"no key like {request.headers['authorization']}"})

    with released(tei("http://h", api_key="SECRET", transport=of(denied))) as embedder:
        with pytest.raises(CallError, match="http://h answered 401: no key like Bearer") as caught:
            embedder.embed(["a"])
        assert "EMBEDFIT_API_KEY" in caught.value.remedy and "SECRET" not in str(caught.value)
        with pytest.raises(CallError, match="401") as caught:
            await embedder.aembed(["a"])
    assert caught.value.status == 401
    assert calls == ["/info", "/embed", "/embed"]


async def test_the_time_that_a_server_asks_for_is_read():
    waits = []

    def busy(request):
        if request.url.path == "/info" or waits:
            return tei_answer(request)
        return httpx.Response(429, headers={"Retry-After": "9"}, text="later")

    with released(tei("http://h", query_instruction="", transport=of(busy))) as embedder:
        embedder.patience = Patience(sleep=waits.append)
        embedder.embed(["a"])
    assert len(waits) == 1 and waits[0] >= 9


async def test_a_server_that_is_not_there_is_named_without_its_password():
    calls = []

    def gone(request):
        calls.append(1)
        raise httpx.ConnectError("refused")

    with released(patient(tei("http://user:pass@h", transport=of(gone)))) as embedder:
        for _ in range(2):
            with pytest.raises(CallError, match="http://h can't be reached: ConnectError") as caught:
                embedder.embed(["a"])
        with pytest.raises(CallError, match="can't be reached"):
            await embedder.aembed(["a"])
    assert "embedfit serve" in caught.value.remedy
    assert len(calls) == 3 * (1 + AT_ONCE.attempts)


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("ftp://h", "", "not an address"),
        ("h:80", "", "not an address"),
        ("http://[::1", "", "not an address"),
        ("http://h:99999", "", "not an address"),
        ("http://models.example.com", "SECRET", "to everybody on the way"),
        ("http://h", "schlüssel", "outside ASCII"),
    ],
)
def test_addresses_and_keys_that_can_not_be(url, key, message):
    with pytest.raises(UsageError, match=message) as caught:
        tei(url, api_key=key)
    assert caught.value.remedy and "SECRET" not in str(caught.value)


def test_release_closes_the_connections_and_the_next_request_opens_new_ones():
    for embedder in (
        tei("http://h", transport=of(tei_answer)),
        openai("http://h/v1", "m", transport=of(openai_answer)),
    ):
        embedder.release()
        clients = []
        for _ in range(2):
            embedder.embed(["abc"])
            clients.append(embedder._sender._client)
            assert not clients[-1].is_closed
            embedder.release()
            assert clients[-1].is_closed
        assert clients[0] is not clients[1]


def test_keys_tell_addresses_models_and_prompts_apart():
    embedders = [openai(url, model) for url in ("http://a", "http://b") for model in "mn"]
    embedders += [tei(url) for url in ("http://a", "http://b")] + [tei("http://a", query_instruction="")]
    embedders += [sagemaker("e", client=object(), region=region) for region in ("eu-west-1", "us-east-1")]
    assert len({embedder.key for embedder in embedders}) == len(embedders)
    assert tei("http://a/v1/").key == tei("http://a").key


class FakeSageMaker:
    """The runtime's client in front of TEI. failures: raised one after the other."""

    def __init__(self, prompts=(), failures=()):
        self.prompts = dict(prompts)
        self.failures = list(failures)
        self.calls = []
        self.closed = False

    def close(self):
        self.closed = True

    def invoke_endpoint(self, *, EndpointName, Body, ContentType, Accept):
        assert (EndpointName, ContentType, Accept) == ("my-endpoint", "application/json", "application/json")
        body = json.loads(Body)
        self.calls.append(body)
        if self.failures:
            raise self.failures.pop(0)
        name = body.get("prompt_name")
        if name is not None and name not in self.prompts:
            raise container_error(422, f"Prompt `{name}` not found")
        rows = [vector(self.prompts.get(name, "") + text) for text in body["inputs"]]
        return {"Body": io.BytesIO(json.dumps(rows).encode())}


def container_error(status, message):
    return ClientError(
        {"Error": {"Code": "ModelError", "Message": "Received server error"}, "OriginalStatusCode": status,
         "OriginalMessage": json.dumps({"error": message}), "ResponseMetadata": {"HTTPStatusCode": 424}},
        "InvokeEndpoint",
    )  # fmt: skip


def service_error(code, status=400, **headers):
    return ClientError(
        {"Error": {"Code": code, "Message": "it said"}, "ResponseMetadata": {"HTTPStatusCode": status,
         "HTTPHeaders": headers}}, "InvokeEndpoint",
    )  # fmt: skip


@pytest.mark.parametrize("prompts", [{"query": "query: ", "passage": "passage: "}, {}])
async def test_sagemaker_endpoints_speak_as_tei(prompts):
    runtime = FakeSageMaker(prompts)
    embedder = sagemaker("my-endpoint", client=runtime)
    assert_allclose(await both(embedder, ["abc"], is_query=True), unit([prompts.get("query", "") + "abc"]), rtol=1e-6)
    assert_allclose(await both(embedder, ["abc"]), unit([prompts.get("passage", "") + "abc"]), rtol=1e-6)
    assert len(runtime.calls) == (5 if prompts else 7)  # a name that it lacks is asked for once
    assert all(body["truncate"] for body in runtime.calls)
    assert runtime.closed


@pytest.mark.parametrize(
    "failure",
    [
        service_error("ThrottlingException"),
        service_error("InternalFailure", 500),
        container_error(429, "Model is overloaded"),
        service_error("ModelError", 424),
        EndpointConnectionError(endpoint_url="https://there"),
    ],
    ids=["throttled", "internal", "overloaded", "model", "connection"],
)
def test_sagemakers_passing_failures_are_tried_again(failure):
    runtime = FakeSageMaker(failures=[failure] * 2)
    assert len(patient(sagemaker("my-endpoint", client=runtime, query_instruction="")).embed(["a"])) == 1
    assert runtime.failures == []


@pytest.mark.parametrize(
    ("failure", "message", "remedy"),
    [
        (
            container_error(422, "no such thing"),
            "my-endpoint answered ModelError 422: no such thing",
            "deploy sagemaker",
        ),
        (service_error("ValidationError"), "answered ValidationError 400: it said", "deploy sagemaker status"),
        (service_error("ExpiredTokenException", 403), "403", "aws sso login"),
        (NoCredentialsError(), "can't be reached: Unable to locate credentials", "Log in first"),
    ],
    ids=["container", "validation", "expired", "credentials"],
)
def test_sagemakers_lasting_failures_are_not_tried_again(failure, message, remedy):
    runtime = FakeSageMaker(failures=[failure] * 2)
    with pytest.raises(CallError, match=message) as caught:
        sagemaker("my-endpoint", client=runtime, query_instruction="").embed(["a"])
    assert remedy in caught.value.remedy
    assert len(runtime.failures) == 1


def test_the_time_that_sagemaker_asks_for_is_read():
    runtime = FakeSageMaker(failures=[service_error("ThrottlingException", **{"retry-after": "11"})] * 9)
    embedder = sagemaker("my-endpoint", client=runtime)
    embedder.patience = Patience(policy=RetryPolicy(attempts=1))
    with pytest.raises(CallError) as caught:
        embedder.embed(["a"])
    assert caught.value.retry_after == 11


def test_sagemakers_own_limit_is_kept():
    with pytest.raises(CallError, match=f"the server takes {MAX_BYTES:,}"):
        sagemaker("my-endpoint", client=FakeSageMaker()).embed(["x" * MAX_BYTES])
