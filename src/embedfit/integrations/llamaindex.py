"""LlamaIndex embeddings of a model folder, of a server, of a SageMaker endpoint, and any others with a query map."""

from __future__ import annotations

import asyncio
import os
from typing import Any, TypeAlias

from pydantic import PrivateAttr

from embedfit.embedders.client import ServerEmbedder
from embedfit.embedders.sagemaker import sagemaker
from embedfit.embedders.tei import tei
from embedfit.errors import MissingDependency
from embedfit.integrations.mapping import PROBE, CheckedMap
from embedfit.models.store.vectors import Embedder
from embedfit.network.aws import Client

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
except ImportError as error:
    raise MissingDependency("llama-index-core", extra="llamaindex", needed_for="The LlamaIndex integration") from error


#: Further arguments of LlamaIndex's BaseEmbedding, such as embed_batch_size.
Settings: TypeAlias = Any


class EmbedfitEmbedding(BaseEmbedding):
    """Unit vectors, with the model's instruction on queries. Made by from_folder, from_server or from_sagemaker.

    Example:
        >>> embedding = EmbedfitEmbedding.from_folder("runs/em/merged")  # doctest: +SKIP
        >>> embedding.get_query_embedding("how do I mute the tv")[:2]  # doctest: +SKIP
        [0.021, -0.044]
    """

    _embedder: Embedder = PrivateAttr()

    def __init__(self, embedder: Embedder, *, model_name: str, **settings: Settings) -> None:
        """embedder: any Embedder, such as one that embedders.registry.open_embedder gives."""
        super().__init__(model_name=model_name, **settings)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name of the class."""
        return "EmbedfitEmbedding"

    @classmethod
    def from_folder(
        cls, model: str, *, query_instruction: str | None = None, **settings: Settings
    ) -> EmbedfitEmbedding:
        """A model folder, an alias or a hub id, loaded into this process."""
        from embedfit.models.local import local_model  # loads torch, which users of a server don't need

        return cls(local_model(model, model, query_instruction=query_instruction), model_name=model, **settings)

    @classmethod
    def from_server(
        cls,
        base_url: str,
        *,
        api_key: str | None = None,
        query_instruction: str | None = None,
        timeout: float = 60.0,
        **settings: Settings,
    ) -> EmbedfitEmbedding:
        """A server that speaks TEI's protocol.

        api_key: default $EMBEDFIT_API_KEY. query_instruction: replaces the server's own prompt "query".
        """
        embedder = tei(base_url, api_key=api_key, query_instruction=query_instruction, timeout=timeout)
        return cls(embedder, model_name=base_url, **settings)

    @classmethod
    def from_sagemaker(
        cls,
        endpoint: str,
        client: Client,
        *,
        query_instruction: str | None = None,
        max_client_batch: int = 32,
        **settings: Settings,
    ) -> EmbedfitEmbedding:
        """A SageMaker endpoint. client: boto3's sagemaker-runtime client."""
        embedder = sagemaker(endpoint, client=client, query_instruction=query_instruction, rows=max_client_batch)
        return cls(embedder, model_name=endpoint, **settings)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._rows([query], is_query=True)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._rows([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._rows(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._arows([query], is_query=True))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._arows([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._arows(texts)

    def _rows(self, texts: list[str], *, is_query: bool = False) -> list[list[float]]:
        rows: list[list[float]] = self._embedder.embed(texts, is_query=is_query).tolist()
        return rows

    async def _arows(self, texts: list[str], *, is_query: bool = False) -> list[list[float]]:
        if isinstance(self._embedder, ServerEmbedder):
            remote: list[list[float]] = (await self._embedder.aembed(texts, is_query=is_query)).tolist()
            return remote
        return await asyncio.to_thread(self._rows, texts, is_query=is_query)


class MappedEmbeddings(BaseEmbedding):
    """Any embedding with a query map that `embedfit adapt` made for it: only queries are mapped.

    The first query embeds one short text more, which shows whether the map belongs to this embedding.

    Example:
        >>> embedding = MappedEmbeddings(OpenAIEmbedding(), "runs/ad/adapt/query_map.safetensors")  # doctest: +SKIP
    """

    _inner: BaseEmbedding = PrivateAttr()
    _map: CheckedMap = PrivateAttr()

    def __init__(self, inner: BaseEmbedding, path: str | os.PathLike[str], **settings: Settings) -> None:
        """inner: the embedding of the index. path: the map. Raises InputError for a file that is no map."""
        usual = {"model_name": inner.model_name, "embed_batch_size": inner.embed_batch_size}
        super().__init__(**{**usual, **settings})
        self._inner = inner
        self._map = CheckedMap(os.fspath(path))

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name of the class."""
        return "MappedEmbeddings"

    def _get_query_embedding(self, query: str) -> list[float]:
        if self._map.needs_probe:
            self._map.check(self._inner.get_query_embedding(PROBE))
        return self._map(self._inner.get_query_embedding(query))

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._inner.get_text_embedding(text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._inner.get_text_embedding_batch(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        if self._map.needs_probe:
            self._map.check(await self._inner.aget_query_embedding(PROBE))
        return self._map(await self._inner.aget_query_embedding(query))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await self._inner.aget_text_embedding(text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._inner.aget_text_embedding_batch(texts)
