import base64
import io
import json

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose

from embedfit.errors import ProviderError
from embedfit.evaluation.remote import OpenAiEndpoint, SageMakerEndpoint, TeiEndpoint


def vector(text):
    return [float(len(text)), 1.0, float(text.startswith("query: "))]


def unit(texts):
    rows = np.array([vector(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def client(handler):
    return lambda: httpx.Client(transport=httpx.MockTransport(handler))


def no_sleep(_):
    pass


TEXTS = ["a" * (n + 1) for n in range(70)]


def test_openai_endpoints_are_asked_in_batches_and_answers_put_in_order():
    bodies = []

    def handler(request):
        assert request.url.path == "/v1/embeddings"
        body = json.loads(request.content)
        bodies.append(body)
        data = [{"object": "embedding", "index": n, "embedding": vector(t)} for n, t in enumerate(body["input"])]
        return httpx.Response(200, json={"object": "list", "data": data[::-1]})

    endpoint = OpenAiEndpoint("name", "http://h/v1", "bge", client(handler))
    assert_allclose(endpoint.embed(TEXTS, is_query=False), unit(TEXTS), rtol=1e-6)
    assert [len(body["input"]) for body in bodies] == [32, 32, 6]
    assert {body["model"] for body in bodies} == {"bge"}


def test_openai_instruction_and_base64():
    def handler(request):
        texts = json.loads(request.content)["input"]
        packed = [base64.b64encode(np.array(vector(t), "<f4").tobytes()).decode() for t in texts]
        return httpx.Response(200, json={"data": [{"index": n, "embedding": e} for n, e in enumerate(packed)]})

    endpoint = OpenAiEndpoint("name", "http://h/v1", "bge", client(handler), instruction="query: ")
    assert_allclose(endpoint.embed(["abc"], is_query=True), unit(["query: abc"]), rtol=1e-6)
    assert_allclose(endpoint.embed(["abc"], is_query=False), unit(["abc"]), rtol=1e-6)


@pytest.mark.parametrize(
    "answer", [{"data": [{"index": 0}]}, {"oops": 1}, [1, 2], {"data": [{"index": 0, "embedding": [1]}] * 2}]
)
def test_an_answer_of_another_form_is_an_error(answer):
    endpoint = OpenAiEndpoint("name", "http://h/v1", "bge", client(lambda request: httpx.Response(200, json=answer)))
    with pytest.raises(ProviderError, match="name"):
        endpoint.embed(["abc"], is_query=False)


def test_an_answer_that_is_not_json_is_an_error():
    endpoint = TeiEndpoint("name", "http://h", client(lambda request: httpx.Response(200, text="<html>")))
    with pytest.raises(ProviderError, match="JSON"):
        endpoint.embed(["abc"], is_query=False)


def tei(*, prompts, seen, status=422):
    def handler(request):
        body = json.loads(request.content)
        seen.append(body)
        assert request.url.path == "/embed"
        if "prompt_name" in body and not prompts:
            error = {"error": "`default-prompts` are not set: prompt name can't be used", "error_type": "Validation"}
            return httpx.Response(status, json=error)
        prefix = {"query": "query: ", "document": "passage: ", "": ""}[body["prompt_name"]] if prompts else ""
        return httpx.Response(200, json=[vector(prefix + text) for text in body["inputs"]])

    return client(handler)


def test_queries_and_passages_take_the_models_own_prompts():
    seen = []
    endpoint = TeiEndpoint("name", "http://h", tei(prompts=True, seen=seen))
    assert_allclose(endpoint.embed(["abc"], is_query=True), unit(["query: abc"]), rtol=1e-6)
    assert_allclose(endpoint.embed(["abc"], is_query=False), unit(["passage: abc"]), rtol=1e-6)
    assert [body.get("prompt_name") for body in seen] == ["query", "document"]
    assert all(body["truncate"] for body in seen)


@pytest.mark.parametrize("status", [413, 422])
def test_tei_without_prompts_is_asked_without(status):
    seen = []
    endpoint = TeiEndpoint("name", "http://h", tei(prompts=False, seen=seen, status=status))
    assert_allclose(endpoint.embed(TEXTS, is_query=True), unit(TEXTS), rtol=1e-6)
    assert [body["prompt_name"] for body in seen if "prompt_name" in body] == ["query"]
    assert_allclose(endpoint.embed(TEXTS, is_query=False), unit(TEXTS), rtol=1e-6)
    assert sum("prompt_name" in body for body in seen) == 3


@pytest.mark.parametrize("prompts", [True, False])
def test_tei_with_an_instruction_of_ours_is_not_asked_for_its_prompt(prompts):
    seen = []
    endpoint = TeiEndpoint("name", "http://h", tei(prompts=prompts, seen=seen), instruction="find: ")
    for _ in range(2):
        assert_allclose(endpoint.embed(["abc"], is_query=True), unit(["find: abc"]), rtol=1e-6)
    assert [body.get("prompt_name") for body in seen] == (["", ""] if prompts else ["", None, None])


def test_overload_is_tried_again_and_a_wrong_key_is_not():
    statuses = iter([429, 503, 200])

    def busy(request):
        status = next(statuses)
        return httpx.Response(status, json=[vector("a")] if status == 200 else {"error": "overloaded"})

    waits = []
    endpoint = TeiEndpoint("name", "http://h", client(busy), sleep=waits.append)
    assert endpoint.embed(["a"], is_query=False).shape == (1, 3)
    assert waits == [0.5, 1.0]

    calls = []

    def denied(request):
        calls.append(1)
        return httpx.Response(401, json={"error": "no key"})

    with pytest.raises(ProviderError, match="401") as caught:
        TeiEndpoint("name", "http://h", client(denied), sleep=no_sleep).embed(["a"], is_query=False)
    assert caught.value.status == 401
    assert len(calls) == 1


def test_a_server_that_is_not_there_is_named():
    def gone(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(ProviderError, match="name does not answer: ConnectError"):
        TeiEndpoint("name", "http://h", client(gone), sleep=no_sleep).embed(["a"], is_query=False)


class FakeSageMaker:
    def __init__(self, prompts=True):
        self.prompts = prompts
        self.calls = []
        self.closed = False

    def close(self):
        self.closed = True

    def invoke_endpoint(self, *, EndpointName, Body, ContentType):
        body = json.loads(Body)
        self.calls.append((EndpointName, ContentType, body))
        prompts = {"query": "query: ", "passage": "passage: "} if self.prompts else {}
        if "prompt_name" in body and body["prompt_name"] not in prompts:
            raise RuntimeError(f"ModelError: Prompt `{body['prompt_name']}` not found")
        prefix = prompts[body["prompt_name"]] if "prompt_name" in body else ""
        reply = [vector(prefix + text) for text in body["inputs"]]
        return {"Body": io.BytesIO(json.dumps(reply).encode())}


@pytest.mark.parametrize("prompts", [True, False])
def test_sagemaker_endpoints_speak_as_tei(prompts):
    runtime = FakeSageMaker(prompts)
    endpoint = SageMakerEndpoint("name", "my-endpoint", "eu-west-1", runtime)
    assert_allclose(endpoint.embed(["abc"], is_query=True), unit(["query: abc" if prompts else "abc"]), rtol=1e-6)
    for _ in range(2):
        passages = endpoint.embed(["abc"], is_query=False)
        assert_allclose(passages, unit(["passage: abc" if prompts else "abc"]), rtol=1e-6)
    assert len(runtime.calls) == (4 if prompts else 6)  # a name that it lacks is asked for once
    assert {call[:2] for call in runtime.calls} == {("my-endpoint", "application/json")}


def test_a_failing_endpoint_is_named():
    class Broken:
        def invoke_endpoint(self, **_):
            raise RuntimeError("container died")

    with pytest.raises(ProviderError, match="name failed: RuntimeError: container died"):
        SageMakerEndpoint("name", "e", "", Broken()).embed(["a"], is_query=False)


def test_the_key_tells_addresses_models_and_prompts_apart():
    keys = [OpenAiEndpoint("n", url, model, client(None)).key for url in ("http://a", "http://b") for model in "mn"]
    keys += [TeiEndpoint("n", url, client(None)).key for url in ("http://a", "http://b")]
    keys += [TeiEndpoint("n", "http://a", client(None), instruction="x").key]
    keys += [SageMakerEndpoint("n", "e", region, None).key for region in ("eu-west-1", "us-east-1")]
    assert len(set(keys)) == len(keys)


def test_release_closes_the_connections_and_the_next_request_opens_new_ones():
    opened = []

    def connect():
        opened.append(httpx.Client(transport=httpx.MockTransport(answer)))
        return opened[-1]

    def answer(request):
        body = json.loads(request.content)
        rows = [vector(text) for text in body.get("inputs", body.get("input", ()))]
        data = [{"index": number, "embedding": row} for number, row in enumerate(rows)]
        return httpx.Response(200, json=rows if request.url.path == "/embed" else {"data": data})

    for endpoint in (TeiEndpoint("n", "http://h", connect), OpenAiEndpoint("n", "http://h/v1", "m", connect)):
        opened.clear()
        endpoint.release()
        assert not opened  # nothing was asked yet
        for number in (1, 2):
            endpoint.embed(["abc"], is_query=False)
            assert len(opened) == number and not opened[-1].is_closed
            endpoint.release()
            assert opened[-1].is_closed


def test_release_closes_the_connections_to_sagemaker():
    runtime = FakeSageMaker()
    SageMakerEndpoint("name", "my-endpoint", "eu-west-1", runtime).release()
    assert runtime.closed
