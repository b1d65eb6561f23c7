"""LangChain retrievers of an index; embeddings of a model folder, a server, an endpoint, and others with a query map.

Queries and passages get the model's own instructions; requests are split to the server's limits, and the
asynchronous methods do not block the event loop.
"""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedfit.embedders.client import ServerEmbedder
from embedfit.embedders.sagemaker import runtime_client, sagemaker
from embedfit.embedders.tei import tei
from embedfit.errors import MissingDependency
from embedfit.integrations.mapping import PROBE, CheckedMap
from embedfit.integrations.searching import Found, Search, Wanted, open_search
from embedfit.models.store.vectors import Embedder
from embedfit.network.aws import Client

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from pydantic import PrivateAttr, SecretStr, SkipValidation
except ImportError as error:
    raise MissingDependency("langchain-core", extra="langchain", needed_for="The LangChain integration") from error

#: Conditions on fields. embedfit checks them, and pydantic must leave them as they are.
Filter: TypeAlias = SkipValidation[Wanted]


class EmbedfitRetriever(BaseRetriever):
    """The passages of an index that embedfit built, or of a server that serves one, as documents.

    A document has the passage's id and text; its metadata hold document, title, page (0: the format has none), score
    and the passage's fields. k and filter can be given with each call too.

    index: a run folder, an index folder or an embedfit.Index. base_url: instead of it, the address of `embedfit serve`;
    default $EMBEDFIT_BASE_URL. api_key: default $EMBEDFIT_API_KEY. k: passages of a query. filter: conditions on
    fields, as docs/search.md lists them. timeout: seconds of a request to the server. Raises EmbedfitError.

    Example:
        >>> retriever = EmbedfitRetriever(index="runs/em", k=3)  # doctest: +SKIP
        >>> retriever.invoke("how do I mute the tv", filter={"lang": "en"})  # doctest: +SKIP
    """

    index: object = None
    base_url: str | None = None
    api_key: SecretStr | None = None
    k: int = 10
    filter: Filter = None
    timeout: float = 60.0
    _search: Search = PrivateAttr()

    def model_post_init(self, context: object) -> None:
        """Open the index, or check the address of the server, which is not asked before the first query."""
        key = self.api_key.get_secret_value() if self.api_key else None
        self._search = open_search(self.index, self.base_url, key, self.timeout)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter = None,
    ) -> list[Document]:
        return [_document(one) for one in self._search.search(query, *self._wanted(k, filter))]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter = None,
    ) -> list[Document]:
        return [_document(one) for one in await self._search.asearch(query, *self._wanted(k, filter))]

    def _wanted(self, k: int | None, where: Wanted) -> tuple[int, Wanted]:
        return self.k if k is None else k, self.filter if where is None else where


def _document(found: Found) -> Document:
    return Document(id=found.passage_id, page_content=found.text, metadata=found.described())


class _Embeddings(Embeddings):
    """The base of the three classes."""

    _embedder: Embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Unit vectors of passages. No texts give no vectors."""
        return _lists(self._embedder.embed(texts, is_query=False)) if texts else []

    def embed_query(self, text: str) -> list[float]:
        """Unit vector of a query, with the instruction."""
        return _lists(self._embedder.embed([text], is_query=True))[0]


class EmbedfitEmbeddings(_Embeddings):
    """A model folder, an alias or a hub id, loaded into this process.

    Example:
        >>> embeddings = EmbedfitEmbeddings("runs/em/merged")  # doctest: +SKIP
        >>> embeddings.embed_query("how do I mute the tv")[:2]  # doctest: +SKIP
        [0.021, -0.044]
    """

    def __init__(self, model: str, *, query_instruction: str | None = None) -> None:
        """query_instruction: replaces the model's own."""
        self.model = model
        self.query_instruction = query_instruction
        # loads torch, which the remote classes need not wait for
        from embedfit.models.local import local_model

        self._embedder = local_model(model, model, query_instruction=query_instruction)

    def __repr__(self) -> str:
        return f"EmbedfitEmbeddings({self.model!r})"


class _RemoteEmbeddings(_Embeddings):
    """The base of the two remote classes."""

    _embedder: ServerEmbedder

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Unit vectors of passages, several requests at the same time."""
        return _lists(await self._embedder.aembed(texts)) if texts else []

    async def aembed_query(self, text: str) -> list[float]:
        """Unit vector of a query, with the instruction."""
        return _lists(await self._embedder.aembed([text], is_query=True))[0]


class EmbedfitServerEmbeddings(_RemoteEmbeddings):
    """A server that speaks TEI's protocol: `embedfit serve`, or Text Embeddings Inference itself.

    Example:
        >>> embeddings = EmbedfitServerEmbeddings("http://127.0.0.1:8080")  # doctest: +SKIP
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | SecretStr | None = None,
        query_instruction: str | None = None,
        timeout: float = 60.0,
        concurrency: int = 4,
    ) -> None:
        """base_url and api_key: default $EMBEDFIT_BASE_URL and $EMBEDFIT_API_KEY.

        query_instruction: replaces the server's own prompt "query". timeout: seconds of one request.
        """
        self.base_url = base_url or os.environ.get("EMBEDFIT_BASE_URL", "http://127.0.0.1:3000")
        key = api_key if api_key is not None else os.environ.get("EMBEDFIT_API_KEY")
        self.api_key = SecretStr(key) if isinstance(key, str) else key
        self._embedder = tei(
            self.base_url,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            query_instruction=query_instruction,
            timeout=timeout,
            concurrency=concurrency,
        )

    def __repr__(self) -> str:
        return f"EmbedfitServerEmbeddings({self.base_url!r})"


class EmbedfitSagemakerEmbeddings(_RemoteEmbeddings):
    """A SageMaker endpoint, as `embedfit deploy sagemaker apply` makes it.

    Example:
        >>> embeddings = EmbedfitSagemakerEmbeddings("embedfit-em-385b2a61", region="us-east-1")  # doctest: +SKIP
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        region: str | None = None,
        profile: str | None = None,
        client: Client | None = None,
        query_instruction: str | None = None,
        max_client_batch: int = 32,
        concurrency: int = 4,
    ) -> None:
        """endpoint: default $EMBEDFIT_ENDPOINT. client: of sagemaker-runtime, in place of region and profile.

        query_instruction: replaces the model's own prompt "query". max_client_batch: texts in one request.
        """
        self.endpoint = endpoint or os.environ.get("EMBEDFIT_ENDPOINT", "")
        if not self.endpoint:
            raise ValueError("Name the endpoint, or set EMBEDFIT_ENDPOINT.")
        self._embedder = sagemaker(
            self.endpoint,
            client=client or runtime_client(region, profile, concurrency),
            region=region,
            query_instruction=query_instruction,
            rows=max_client_batch,
            concurrency=concurrency,
        )

    def __repr__(self) -> str:
        return f"EmbedfitSagemakerEmbeddings({self.endpoint!r})"


class MappedEmbeddings(Embeddings):
    """Any embeddings with a query map that `embedfit adapt` made for them: only queries are mapped.

    The first query embeds one short text more, which shows whether the map belongs to these embeddings.

    Example:
        >>> embeddings = MappedEmbeddings(OpenAIEmbeddings(), "runs/ad/adapt/query_map.safetensors")  # doctest: +SKIP
    """

    def __init__(self, inner: Embeddings, path: str | os.PathLike[str]) -> None:
        """inner: the embeddings of the index. path: the map. Raises InputError for a file that is no map."""
        self.inner = inner
        self.path = os.fspath(path)
        self._map = CheckedMap(self.path)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The unchanged vectors of passages."""
        return self.inner.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """The mapped unit vector of a query. Raises InputError if the map is another embedder's."""
        if self._map.needs_probe:
            self._map.check(self.inner.embed_query(PROBE))
        return self._map(self.inner.embed_query(text))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The unchanged vectors of passages."""
        return await self.inner.aembed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """The mapped unit vector of a query."""
        if self._map.needs_probe:
            self._map.check(await self.inner.aembed_query(PROBE))
        return self._map(await self.inner.aembed_query(text))

    def __repr__(self) -> str:
        return f"MappedEmbeddings({type(self.inner).__name__}, {self.path!r})"


def _lists(vectors: npt.NDArray[np.float32]) -> list[list[float]]:
    """LangChain's form: lists of Python floats."""
    rows: list[list[float]] = vectors.tolist()
    return rows
