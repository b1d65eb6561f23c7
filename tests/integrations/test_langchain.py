"""LangChain's own test suites, and equal vectors by all three ways."""

from __future__ import annotations

import asyncio
import inspect
import threading

import numpy as np
import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from embedfit.embedders.client import Patience
from embedfit.integrations.langchain import (
    EmbedfitEmbeddings,
    EmbedfitSagemakerEmbeddings,
    EmbedfitServerEmbeddings,
)
from embedfit.llm.transport.retry import CallError, RetryPolicy

TEXTS = [f"passage {number} about the tv " + "sound " * (number % 7) for number in range(21)]


class _Folder:
    @pytest.fixture(autouse=True)
    def _folder(self, tiny_bert):
        self.folder = str(tiny_bert)

    @property
    def embeddings_class(self):
        return EmbedfitEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.folder}


class TestFolderUnit(_Folder, EmbeddingsUnitTests):
    pass


class TestFolder(_Folder, EmbeddingsIntegrationTests):
    pass


class _Server:
    @pytest.fixture(autouse=True)
    def _url(self, server_url):
        self.url = server_url

    @property
    def embeddings_class(self):
        return EmbedfitServerEmbeddings

    @property
    def embedding_model_params(self):
        return {"base_url": self.url}

    @property
    def init_from_env_params(self):
        environment = {"EMBEDFIT_BASE_URL": "http://10.0.0.1:8080", "EMBEDFIT_API_KEY": "a-key"}
        return environment, {}, {"base_url": "http://10.0.0.1:8080", "api_key": "a-key"}


class TestServerUnit(_Server, EmbeddingsUnitTests):
    pass


class TestServer(_Server, EmbeddingsIntegrationTests):
    pass


class _Sagemaker:
    @pytest.fixture(autouse=True)
    def _client(self, runtime_client):
        self.client = runtime_client

    @property
    def embeddings_class(self):
        return EmbedfitSagemakerEmbeddings

    @property
    def embedding_model_params(self):
        return {"endpoint": "up", "client": self.client}

    @property
    def init_from_env_params(self):
        return {"EMBEDFIT_ENDPOINT": "up"}, {"client": self.client}, {"endpoint": "up"}


class TestSagemakerUnit(_Sagemaker, EmbeddingsUnitTests):
    pass


class TestSagemaker(_Sagemaker, EmbeddingsIntegrationTests):
    pass


@pytest.fixture(params=["folder", "server", "sagemaker"])
def embeddings(request, tiny_bert, server_url, runtime_client):
    if request.param == "folder":
        return EmbedfitEmbeddings(str(tiny_bert))
    if request.param == "server":
        return EmbedfitServerEmbeddings(server_url)
    return EmbedfitSagemakerEmbeddings("up", client=runtime_client)


async def test_vectors_are_the_models_own(embeddings, local):
    """Queries with the instruction, passages without; more passages than the server takes in one request."""
    want = local.encode(TEXTS)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), want, atol=2e-5)
    np.testing.assert_allclose(await embeddings.aembed_documents(TEXTS), want, atol=2e-5)
    query = local.encode(["how to mute"], is_query=True)[0]
    np.testing.assert_allclose(embeddings.embed_query("how to mute"), query, atol=2e-5)
    np.testing.assert_allclose(await embeddings.aembed_query("how to mute"), query, atol=2e-5)
    assert np.abs(query - local.encode(["how to mute"])[0]).max() > 0.01  # the instruction does something


async def test_edge_cases(embeddings):
    assert embeddings.embed_documents([]) == [] == await embeddings.aembed_documents([])
    assert len(embeddings.embed_documents(["a", "", "b\nc"])) == 3
    same = embeddings.embed_documents(["tv\nsound", "tv sound"])
    np.testing.assert_allclose(same[0], same[1], atol=1e-5)


async def test_the_remote_classes_are_asynchronous_of_their_own(server_url, runtime_client):
    for cls in (EmbedfitServerEmbeddings, EmbedfitSagemakerEmbeddings):
        assert inspect.iscoroutinefunction(cls.aembed_documents) and "aembed_documents" in dir(cls)
    embeddings = EmbedfitServerEmbeddings(server_url)
    before = threading.active_count()
    await asyncio.gather(*(embeddings.aembed_query(f"{text} {n}") for text in TEXTS for n in range(20)))
    # No thread for each request: the few there may be are the event loop's own, for looking names up.
    assert threading.active_count() <= before + 8 < before + 20 * len(TEXTS)


def test_throttling_is_waited_out(runtime, runtime_client):
    runtime.throttle_next = 2
    embeddings = EmbedfitSagemakerEmbeddings("up", client=runtime_client)
    assert len(embeddings.embed_documents(["a"])) == 1


def test_the_containers_own_error_is_shown(runtime_client):
    embeddings = EmbedfitSagemakerEmbeddings("down", client=runtime_client)
    with pytest.raises(CallError, match="not found"):
        embeddings.embed_query("a")
    with pytest.raises(CallError, match=r"Text 0 has 7,000,002 bytes; the server takes 6,291,456"):
        EmbedfitSagemakerEmbeddings("up", client=runtime_client).embed_documents(["x" * 7_000_000])


def test_no_server():
    embeddings = EmbedfitServerEmbeddings("http://127.0.0.1:9/")
    embeddings._embedder.patience = Patience(policy=RetryPolicy(base_s=0.0))
    with pytest.raises(CallError, match="can't be reached") as caught:
        embeddings.embed_query("a")
    assert "embedfit serve" in caught.value.remedy


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/embed", "/v1/embeddings"])
def test_base_urls(server_url, suffix):
    assert len(EmbedfitServerEmbeddings(server_url + suffix).embed_query("a")) == 32


def test_keys_are_not_shown():
    embeddings = EmbedfitServerEmbeddings("http://x", api_key="SECRET")
    assert "SECRET" not in repr(embeddings) + str(vars(embeddings)["api_key"])


def test_a_wrong_key_says_so(tiny_bert):
    class Refusing(EmbedfitServerEmbeddings):
        pass

    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer()

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def answer(self):
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"error": "Unauthorized"}')

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(CallError, match="401: Unauthorized") as caught:
            Refusing(f"http://127.0.0.1:{server.server_address[1]}", api_key="wrong").embed_query("a")
        assert "EMBEDFIT_API_KEY" in caught.value.remedy and "wrong" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()


def test_langchains_vector_store_finds_what_is_nearest(embeddings, local):
    """The example of docs/deploy.md."""
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    found = store.similarity_search_with_score("how to mute the tv", k=3)
    scores = local.encode(TEXTS) @ local.encode(["how to mute the tv"], is_query=True)[0]
    assert [document.page_content for document, _ in found] == [TEXTS[row] for row in np.argsort(-scores)[:3]]
    np.testing.assert_allclose([score for _, score in found], np.sort(scores)[::-1][:3], atol=1e-4)


def test_langchain_openais_own_class_works_against_the_server_unchanged(server_url, local):
    import httpx
    from langchain_openai import OpenAIEmbeddings

    http = httpx.Client()
    embeddings = OpenAIEmbeddings(
        http_client=http,
        base_url=f"{server_url}/v1",
        api_key="none",
        model="any",
        check_embedding_ctx_length=False,
        chunk_size=8,
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), local.encode(TEXTS), atol=2e-5)
    http.close()
