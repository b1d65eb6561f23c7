"""LlamaIndex retrievers of an index; embeddings of a model folder, a server, an endpoint, others with a query map."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

from pydantic import PrivateAttr

from embedfit.embedders.client import ServerEmbedder
from embedfit.embedders.sagemaker import sagemaker
from embedfit.embedders.tei import tei
from embedfit.errors import InputError, MissingDependency
from embedfit.integrations.mapping import PROBE, CheckedMap
from embedfit.integrations.searching import OWN, Found, Search, Wanted, open_search
from embedfit.models.store.vectors import Embedder
from embedfit.network.aws import Client

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
    from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
except ImportError as error:
    raise MissingDependency("llama-index-core", extra="llamaindex", needed_for="The LlamaIndex integration") from error


#: Further arguments of LlamaIndex's BaseEmbedding, such as embed_batch_size.
Settings: TypeAlias = Any


class EmbedfitRetriever(BaseRetriever):
    """The passages of an index that embedfit built, or of a server that serves one, as nodes with scores.

    A node has the passage's id and text; its metadata hold document, title, page (0: the format has none), score and
    the passage's fields; its source node has the document's id. A language model is not shown the score.

    Example:
        >>> retriever = EmbedfitRetriever("runs/em", similarity_top_k=3)  # doctest: +SKIP
        >>> retriever.retrieve("how do I mute the tv", filters={"lang": "en"})  # doctest: +SKIP
    """

    def __init__(
        self,
        index: object = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        similarity_top_k: int = 10,
        filters: MetadataFilters | Wanted = None,
        timeout: float = 60.0,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """index: a run folder, an index folder or an embedfit.Index. base_url: instead of it, of `embedfit serve`.

        base_url, api_key: default $EMBEDFIT_BASE_URL and $EMBEDFIT_API_KEY. similarity_top_k: passages of a query.
        filters: LlamaIndex' own, or conditions as docs/search.md lists them. timeout: seconds of a request to the
        server. Raises EmbedfitError.
        """
        super().__init__(callback_manager=callback_manager)
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self._search: Search = open_search(index, base_url, api_key, timeout)

    def retrieve(
        self,
        str_or_query_bundle: str | QueryBundle,
        *,
        similarity_top_k: int | None = None,
        filters: MetadataFilters | Wanted = None,
    ) -> list[NodeWithScore]:
        """The best passages, best first. similarity_top_k, filters: of this call. Raises EmbedfitError."""
        found: list[NodeWithScore] = super(EmbedfitRetriever, self._for_a_call(similarity_top_k, filters)).retrieve(
            str_or_query_bundle
        )
        return found

    async def aretrieve(
        self,
        str_or_query_bundle: str | QueryBundle,
        *,
        similarity_top_k: int | None = None,
        filters: MetadataFilters | Wanted = None,
    ) -> list[NodeWithScore]:
        """retrieve() without blocking the event loop."""
        one = self._for_a_call(similarity_top_k, filters)
        found: list[NodeWithScore] = await super(EmbedfitRetriever, one).aretrieve(str_or_query_bundle)
        return found

    def _for_a_call(self, k: int | None, filters: MetadataFilters | Wanted) -> EmbedfitRetriever:
        if k is None and filters is None:
            return self
        changed = copy.copy(self)
        changed.similarity_top_k = self.similarity_top_k if k is None else k
        changed.filters = self.filters if filters is None else filters
        return changed

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._search.search(query_bundle.query_str, self.similarity_top_k, _wanted(self.filters))
        return list(map(_node, found))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = await self._search.asearch(query_bundle.query_str, self.similarity_top_k, _wanted(self.filters))
        return list(map(_node, found))


def _node(found: Found) -> NodeWithScore:
    node = TextNode(
        id_=found.passage_id,
        text=found.text,
        metadata=found.described(),
        excluded_llm_metadata_keys=["score"],
        excluded_embed_metadata_keys=list(OWN),
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=found.document)},
    )
    return NodeWithScore(node=node, score=found.score)


#: Our operator for each of LlamaIndex' that filters of embedfit can express.
_OPERATORS = {
    FilterOperator.EQ: "=",
    FilterOperator.IN: "=",
    FilterOperator.ANY: "=",
    FilterOperator.NE: "!=",
    FilterOperator.NIN: "!=",
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
    FilterOperator.CONTAINS: "contains",
    FilterOperator.IS_EMPTY: "exists",
}


def _wanted(filters: MetadataFilters | Wanted) -> Wanted:
    """LlamaIndex' filters as embedfit's. Raises InputError for what embedfit's can't express."""
    if not isinstance(filters, MetadataFilters):
        return filters
    where: dict[str, dict[str, object]] = {}
    for one in _all_of(filters):
        operator = _OPERATORS.get(one.operator)
        if operator is None:
            raise InputError(
                f"{one.key}: embedfit's filters have no operator {one.operator.value!r}.",
                remedy=f"There are: {', '.join(each.value for each in _OPERATORS)}",
            )
        conditions = where.setdefault(one.key, {})
        if operator in conditions:
            raise InputError(
                f"{one.key}: there are two conditions {operator!r}.", remedy="Give one condition with a list of values."
            )
        conditions[operator] = False if operator == "exists" else one.value
    return where


def _all_of(filters: MetadataFilters) -> Iterator[MetadataFilter]:
    if filters.condition not in (None, FilterCondition.AND) and (
        len(filters.filters) > 1 or filters.condition == FilterCondition.NOT
    ):
        raise InputError(
            f"embedfit's filters must all hold; {filters.condition.value!r} can't be asked for.",
            remedy="For one of several values of a field: operator IN. For none of them: NIN.",
        )
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            yield from _all_of(one)
        else:
            yield one


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
