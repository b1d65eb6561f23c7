"""A content handler for code that uses langchain-community's SagemakerEndpointEmbeddings.

That class does not tell queries from passages: make two of them, the one for queries with model_kwargs={"prompt_name":
"query"}. Its chunk size is 64; give embed_documents(texts, chunk_size=32) if the endpoint takes 32 texts. For new code
embedfit.integrations.langchain is the better choice.
"""

from __future__ import annotations

import json
from typing import Protocol


class _Readable(Protocol):
    def read(self) -> bytes: ...


class TeiContentHandler:
    """Converts between lists of texts and TEI's JSON. SagemakerEndpointEmbeddings reads content_type and accepts."""

    content_type = "application/json"
    accepts = "application/json"

    def transform_input(self, prompts: list[str], model_kwargs: dict[str, object]) -> bytes:
        """The request's body. An empty text would fail the whole batch, so it becomes a blank."""
        return json.dumps({"inputs": [text or " " for text in prompts], "truncate": True, **model_kwargs}).encode()

    def transform_output(self, output: _Readable) -> list[list[float]]:
        """The vectors of a reply."""
        vectors: list[list[float]] = json.loads(output.read())
        return vectors


def content_handler() -> TeiContentHandler:
    """The handler, as the subclass of EmbeddingsContentHandler that SagemakerEndpointEmbeddings insists on.

    Without langchain-community it is the plain TeiContentHandler.
    """
    try:
        from langchain_community.embeddings.sagemaker_endpoint import (  # type: ignore[import-not-found,unused-ignore]
            EmbeddingsContentHandler,
        )
    except ImportError:
        return TeiContentHandler()
    handler: TeiContentHandler = type("ContentHandler", (TeiContentHandler, EmbeddingsContentHandler), {})()
    return handler
