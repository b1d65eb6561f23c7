from __future__ import annotations

import numpy as np
import pytest

from embedfit.integrations.llamaindex import EmbedfitEmbedding

TEXTS = [f"passage {number} about the tv " + "sound " * (number % 7) for number in range(21)]


@pytest.fixture(params=["folder", "server", "sagemaker"])
def embedding(request, tiny_bert, server_url, runtime_client):
    if request.param == "folder":
        return EmbedfitEmbedding.from_folder(str(tiny_bert))
    if request.param == "server":
        return EmbedfitEmbedding.from_server(server_url, embed_batch_size=64)
    return EmbedfitEmbedding.from_sagemaker("up", runtime_client)


async def test_vectors_are_the_models_own(embedding, local):
    want, query = local.encode(TEXTS), local.encode(["how to mute"], is_query=True)[0]
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), want, atol=2e-5)
    np.testing.assert_allclose(await embedding.aget_text_embedding_batch(TEXTS), want, atol=2e-5)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), want[0], atol=2e-5)
    np.testing.assert_allclose(await embedding.aget_text_embedding(TEXTS[0]), want[0], atol=2e-5)
    np.testing.assert_allclose(embedding.get_query_embedding("how to mute"), query, atol=2e-5)
    np.testing.assert_allclose(await embedding.aget_query_embedding("how to mute"), query, atol=2e-5)


def test_it_is_a_step_of_an_ingestion_pipeline(embedding, local):
    from llama_index.core.schema import TextNode

    nodes = embedding([TextNode(text=text) for text in TEXTS[:3]])
    np.testing.assert_allclose([node.embedding for node in nodes], local.encode(TEXTS[:3]), atol=2e-5)


def test_what_it_says_of_itself_holds_no_key(server_url):
    embedding = EmbedfitEmbedding.from_server(server_url, api_key="SECRET")
    assert embedding.class_name() == "EmbedfitEmbedding"
    assert "SECRET" not in f"{embedding!r} {embedding.to_payload()} {embedding.to_dict()}"
