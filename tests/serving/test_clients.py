"""Clients as people install them, against a server in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest

from embedfit.models.encoder import Encoder
from embedfit.testing.server import RunningServer

TEXTS = ["how do I mute the tv", "what is the sound of the query?"]


@pytest.fixture(scope="module")
def passages(tiny_bert: Path) -> np.ndarray:
    return Encoder.load(tiny_bert, precision="fp32").encode(TEXTS)


@pytest.fixture(scope="module")
def queries(tiny_bert: Path) -> np.ndarray:
    return Encoder.load(tiny_bert, precision="fp32").encode(TEXTS, is_query=True)


def assert_same(found: object, expected: np.ndarray) -> None:
    vectors = np.asarray(found, np.float32)
    assert vectors.shape == expected.shape
    assert (vectors * expected).sum(-1).min() > 0.99999


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openai(server: RunningServer, passages, options):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.embeddings.create(model="tiny", input=TEXTS, **options)
    vectors = [item.embedding for item in answer.data]
    if options.get("encoding_format") == "base64":
        import base64

        vectors = [np.frombuffer(base64.b64decode(text), np.float32) for text in vectors]
    assert_same(vectors, passages)
    assert answer.usage.prompt_tokens > 0
    assert answer.model == "tiny"


def test_openai_with_a_prompt_and_fewer_dimensions(server: RunningServer, queries):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.embeddings.create(
            model="tiny", input=TEXTS[0], dimensions=8, extra_body={"prompt_name": "query"}
        )
    cut = queries[0, :8] / np.linalg.norm(queries[0, :8])
    assert_same([answer.data[0].embedding], cut[None])


def test_openai_raises_its_own_errors(server: RunningServer):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="tiny", input="")
        with pytest.raises(openai.UnprocessableEntityError):
            client.embeddings.create(model="tiny", input=["x"] * 33)


def test_hugging_face_inference_client(server: RunningServer, passages, queries):
    from huggingface_hub import InferenceClient

    client = InferenceClient(base_url=server.url)
    assert_same(client.feature_extraction(TEXTS[0]), passages[:1])
    assert_same(client.feature_extraction(TEXTS[0], prompt_name="query", normalize=True), queries[:1])
    assert client.sentence_similarity(TEXTS[0], other_sentences=TEXTS) == pytest.approx(
        [1.0, float(passages[0] @ passages[1])], abs=1e-4
    )


def test_langchain_openai(server: RunningServer, passages):
    langchain_openai = pytest.importorskip("langchain_openai")
    embeddings = langchain_openai.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="none", model="tiny", check_embedding_ctx_length=False
    )
    assert_same(embeddings.embed_documents(TEXTS), passages)
    assert_same([embeddings.embed_query(TEXTS[0])], passages[:1])


def test_llamaindex_text_embeddings_inference(server: RunningServer, passages, queries):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("llama_index.embeddings.text_embeddings_inference")
    embeddings = module.TextEmbeddingsInference(
        model_name="tiny", base_url=server.url, query_instruction="query: ", text_instruction=" ", embed_batch_size=2
    )
    assert_same(embeddings.get_text_embedding_batch(TEXTS), passages)
    # It puts a space of its own between the instruction and the text, which the tokenizer drops.
    assert_same([embeddings.get_query_embedding(TEXTS[0])], queries[:1])


def test_boto3_sagemaker_runtime(server: RunningServer, passages):
    boto3 = pytest.importorskip("boto3")
    client = boto3.client(
        "sagemaker-runtime", region_name="us-east-1", endpoint_url=server.url,
        aws_access_key_id="none", aws_secret_access_key="none",
    )  # fmt: skip
    answer = client.invoke_endpoint(
        EndpointName="my-endpoint", ContentType="application/json", Body=json.dumps({"inputs": TEXTS})
    )
    assert_same(json.loads(answer["Body"].read()), passages)
    client.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_as_in_teis_readme(server: RunningServer, passages, queries):
    def curl(path: str, body: object) -> object:
        command = ["curl", "-s", f"{server.url}{path}", "-X", "POST", "-d", json.dumps(body)]
        done = subprocess.run([*command, "-H", "Content-Type: application/json"], capture_output=True, check=True)
        return json.loads(done.stdout)

    assert_same(curl("/embed", {"inputs": TEXTS[0]}), passages[:1])
    assert_same(curl("/embed", {"inputs": TEXTS[:1], "prompt_name": "query"}), queries[:1])
    assert_same(curl("/invocations", {"inputs": TEXTS}), passages)
    openai = curl("/v1/embeddings", {"input": "x", "model": "m", "encoding_format": "base64"})
    assert isinstance(openai["data"][0]["embedding"], str)


def test_info_is_teis_and_says_what_runs(server: RunningServer, tiny_bert: Path):
    with urllib.request.urlopen(f"{server.url}/info") as answer:
        info = json.load(answer)
    assert info["model_id"] == str(tiny_bert)
    assert info["served_model_name"] == "tiny"
    assert info["model_type"] == {"embedding": {"pooling": "cls"}}
    assert info["max_input_length"] == 128
    assert info["max_client_batch_size"] == 32
    assert info["prompts"]["query"] == "query: "
    assert info["engine"]["name"] == "openvino"
    assert {"max_concurrent_requests", "max_batch_tokens", "max_batch_requests", "auto_truncate", "model_sha",
            "model_dtype", "tokenization_workers", "version", "sha", "docker_label"} <= set(info)  # fmt: skip
