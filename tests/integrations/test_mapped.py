"""Query maps around LangChain's and LlamaIndex's own classes: only queries are mapped, in all ways to ask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import TextNode

from embedfit.errors import InputError
from embedfit.integrations.langchain import EmbedfitEmbeddings
from embedfit.integrations.langchain import MappedEmbeddings as OfLangChain
from embedfit.integrations.llamaindex import EmbedfitEmbedding
from embedfit.integrations.llamaindex import MappedEmbeddings as OfLlamaIndex
from embedfit.models.query_map import QueryMap
from embedfit.models.store.vectors import PROBES

TEXTS = ["mute the tv", "screen mirroring", "pair the remote"]


def turn(width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(2).normal(size=(width, width)))[0].astype(np.float32)


@pytest.fixture
def map_path(local, tmp_path: Path) -> Path:
    """A map of the tiny model: it turns vectors."""
    path = tmp_path / "map.safetensors"
    QueryMap(turn(32), probes=local.encode_unit(list(PROBES), is_query=True)).save(path)
    return path


class TestLangChainSuite(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _made(self, tiny_bert: Path, map_path: Path) -> None:
        self.arguments = {"inner": EmbedfitEmbeddings(str(tiny_bert)), "path": map_path}

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OfLangChain

    @property
    def embedding_model_params(self) -> dict[str, object]:
        return self.arguments


async def test_only_queries_are_mapped_by_langchain(tiny_bert: Path, local, map_path: Path) -> None:
    embeddings = OfLangChain(EmbedfitEmbeddings(str(tiny_bert)), map_path)
    passages, query = local.encode(TEXTS), local.encode(TEXTS[:1], is_query=True)[0] @ turn(32).T
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), passages, atol=2e-5)
    np.testing.assert_allclose(await embeddings.aembed_documents(TEXTS), passages, atol=2e-5)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), query, atol=2e-5)
    np.testing.assert_allclose(await embeddings.aembed_query(TEXTS[0]), query, atol=2e-5)
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page_content=text) for text in TEXTS])
    best = TEXTS[int((passages @ query).argmax())]
    assert store.similarity_search(TEXTS[0], k=1)[0].page_content == best


async def test_only_queries_are_mapped_by_llamaindex(tiny_bert: Path, local, map_path: Path) -> None:
    embedding = OfLlamaIndex(EmbedfitEmbedding.from_folder(str(tiny_bert)), map_path)
    passages, query = local.encode(TEXTS), local.encode(TEXTS[:1], is_query=True)[0] @ turn(32).T
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), passages, atol=2e-5)
    np.testing.assert_allclose(await embedding.aget_text_embedding_batch(TEXTS), passages, atol=2e-5)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[1]), passages[1], atol=2e-5)
    np.testing.assert_allclose(await embedding.aget_text_embedding(TEXTS[1]), passages[1], atol=2e-5)
    np.testing.assert_allclose(embedding.get_query_embedding(TEXTS[0]), query, atol=2e-5)
    np.testing.assert_allclose(await embedding.aget_query_embedding(TEXTS[0]), query, atol=2e-5)
    assert embedding.model_name == str(tiny_bert) and embedding.class_name() == "MappedEmbeddings"
    Settings.llm = None
    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=embedding)
    found = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[0])
    assert found[0].node.get_content() == TEXTS[int((passages @ query).argmax())]


class Counting(Embeddings):
    def __init__(self, inner: Embeddings) -> None:
        self.inner, self.asked = inner, []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.inner.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(text)
        return self.inner.embed_query(text)


def test_the_embedder_is_checked_once(tiny_bert: Path, map_path: Path, tmp_path: Path) -> None:
    inner = Counting(EmbedfitEmbeddings(str(tiny_bert)))
    embeddings = OfLangChain(inner, map_path)
    embeddings.embed_query("a")
    embeddings.embed_query("b")
    assert inner.asked == [PROBES[0], "a", "b"]
    QueryMap(turn(32)).save(tmp_path / "of arrays.safetensors")
    unknown = Counting(EmbedfitEmbeddings(str(tiny_bert)))
    OfLangChain(unknown, tmp_path / "of arrays.safetensors").embed_query("a")
    assert unknown.asked == ["a"]


async def test_another_embedder_and_another_width_are_refused(map_path: Path) -> None:
    for size, words in ((32, "another embedder"), (16, "32 wide")):
        with pytest.raises(InputError, match=words):
            OfLangChain(DeterministicFakeEmbedding(size=size), map_path).embed_query("a")
        with pytest.raises(InputError, match=words):
            await OfLangChain(DeterministicFakeEmbedding(size=size), map_path).aembed_query("a")
        with pytest.raises(InputError, match=words):
            OfLlamaIndex(MockEmbedding(embed_dim=size), map_path).get_query_embedding("a")
        with pytest.raises(InputError, match=words):
            await OfLlamaIndex(MockEmbedding(embed_dim=size), map_path).aget_query_embedding("a")


def test_a_file_that_is_no_map_is_refused_before_any_text_is_embedded(tmp_path: Path) -> None:
    inner = Counting(DeterministicFakeEmbedding(size=32))
    with pytest.raises(InputError, match="There is no query map"):
        OfLangChain(inner, tmp_path / "missing")
    with pytest.raises(InputError, match="There is no query map"):
        OfLlamaIndex(MockEmbedding(embed_dim=32), tmp_path / "missing")
    assert not inner.asked
