"""The content handler, as langchain-community's SagemakerEndpointEmbeddings calls it."""

from __future__ import annotations

import numpy as np
import pytest

from embedfit.integrations.sagemaker import TeiContentHandler, content_handler

TEXTS = ["mute the tv", "", "screen mirroring"]


def invoke(client, handler, texts, **model_kwargs):
    reply = client.invoke_endpoint(
        EndpointName="up",
        Body=handler.transform_input(texts, model_kwargs),
        ContentType=handler.content_type,
        Accept=handler.accepts,
    )
    return handler.transform_output(reply["Body"])


def test_passages_and_queries(runtime_client, local):
    handler = content_handler()
    assert isinstance(handler, TeiContentHandler)
    np.testing.assert_allclose(invoke(runtime_client, handler, TEXTS)[::2], local.encode(TEXTS[::2]), atol=2e-5)
    queries = invoke(runtime_client, handler, ["mute the tv"], prompt_name="query")
    np.testing.assert_allclose(queries, local.encode(["mute the tv"], is_query=True), atol=2e-5)


def test_with_langchain_community(runtime_client, local):
    community = pytest.importorskip("langchain_community.embeddings", reason="langchain-community is not installed")
    embeddings = community.SagemakerEndpointEmbeddings(
        endpoint_name="up", client=runtime_client, content_handler=content_handler()
    )
    np.testing.assert_allclose(
        embeddings.embed_documents(["a", "b"], chunk_size=8), local.encode(["a", "b"]), atol=2e-5
    )
