"""The answer of each route, and the table of the routes, from which the OpenAPI document is made too."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import orjson
from pydantic import TypeAdapter
from starlette.responses import Response
from starlette.types import Scope
from typing_extensions import TypeForm

from embedfit.display.pages import whole_page
from embedfit.models.layout.modules import unit_rows
from embedfit.numerics.arrays import Vectors
from embedfit.serving import failures, responses, schemas
from embedfit.serving.edge.access import Caller
from embedfit.serving.engines.tokens import Input, Token
from embedfit.serving.metrics import CONTENT_TYPE, Metrics
from embedfit.serving.schemas import QUERIES, Bounds, EmbedRequest, VectorRequest, rows_of
from embedfit.serving.service import Service, Timing
from embedfit.serving.settings import ServeSettings

if TYPE_CHECKING:  # loads torch, which a server without an index does not need
    from embedfit.serving.search.searcher import Reranked, Searcher

_NO_INDEX = (
    "This server has no index to search. Serve a run folder: embedfit serve RUN; "
    "or index documents and serve their folder: embedfit index DOCS... --model minilm --to-folder DIR"
)
#: The service with which a request began. It answers the whole request, even if another one has taken its place.
_HELD: ContextVar[Service | None] = ContextVar("held", default=None)
#: The answer depends on the key, so no cache may give it to another client.
_UNCACHED = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Raw:
    """A request as it came."""

    scope: Scope
    body: bytes


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    body: the record of a request, for a route that computes and may be refused under load; a GET has it in the address.
    answer: the record of the answer; None: it is not JSON. mends: halves of surrogate pairs in the body are replaced
    instead of refused. failures: the route's own errors, beside those of every route of its kind. summary: for the
    document; "": the document leaves the route out. is_raw: answered_by takes a Raw, and checks it itself.
    """

    answered_by: Callable[..., Awaitable[Response]]
    summary: str = ""
    method: Literal["GET", "POST"] = "POST"
    body: TypeForm[object] | None = None
    answer: TypeForm[object] | None = None
    is_open: bool = False
    is_openais: bool = False
    mends: bool = False
    is_raw: bool = False
    failures: tuple[type[failures.RequestFailure], ...] = ()

    @cached_property
    def reader(self) -> TypeAdapter[object] | None:
        """The function that reads and checks the body."""
        return None if self.body is None else TypeAdapter(self.body)


@dataclass(slots=True)
class Answers:
    """The state that all requests of one server share, and their answers. service is None until the model is warm.

    searches: an index is, or will be, served beside the model, and `/` is a page to search it.
    """

    settings: ServeSettings
    searches: bool = False
    service: Service | None = None
    metrics: Metrics = field(init=False)
    _requests: Counter[int] = field(default_factory=Counter)
    _retired: dict[int, Service] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.service.batchers if self.service else ())

    def table(self) -> list[tuple[str, Operation]]:
        """Every path with the operation that answers it; a path stands once for each of its methods."""
        return [*self._computing(), *self._showing()]

    def _computing(self) -> Iterator[tuple[str, Operation]]:
        one_each = list[responses.Numbers]
        compute = partial(Operation, failures=(failures.BackendFailure,))
        embed = compute(self.embed, "Vectors of inputs", body=EmbedRequest, answer=one_each)
        openai = Operation(
            self.openai, "Vectors in OpenAI's form", body=schemas.OpenAIRequest, answer=responses.OpenAIResponse,
            is_openais=True, failures=(failures.BackendFailure,),
        )  # fmt: skip
        search = partial(
            Operation,
            self.search,
            answer=responses.QueryAnswer | responses.QueryAnswers,
            failures=(failures.BackendFailure, failures.NotFound),
        )
        yield "/embed", embed
        yield "/v1/embeddings", openai
        yield "/embeddings", openai
        yield "/search", search("The best passages for a query", body=schemas.SearchRequest, mends=True)
        yield "/search", search("The same, with the query in the address", "GET", body=schemas.SearchParameters)
        rerank = partial(
            Operation, self.rerank, "The order of texts for a query",
            failures=(failures.BackendFailure, failures.NotFound),
        )  # fmt: skip
        common = rerank(body=schemas.CommonRerankRequest, answer=responses.RerankResponse, is_openais=True)
        yield "/rerank", rerank(body=schemas.AnyRerankRequest, answer=list[responses.Rank] | responses.RerankResponse)
        yield "/v1/rerank", common
        yield "/v2/rerank", replace(common, summary="")
        yield (
            "/embed_all",
            compute(self.embed_all, "Vectors of every token", body=EmbedRequest, answer=list[list[responses.Numbers]]),
        )
        yield "/similarity", compute(
            self.similarity, "Cosines of one sentence with others", body=schemas.SimilarityRequest,
            answer=responses.Numbers,
        )  # fmt: skip
        yield (
            "/tokenize",
            compute(self.tokenize, "Tokens of inputs", body=schemas.TokenizeRequest, answer=list[list[Token]]),
        )
        yield "/decode", compute(self.decode, "Texts of token ids", body=schemas.DecodeRequest, answer=list[str])
        yield "/invocations", replace(embed, summary="SageMaker: the same as /embed")
        # The SageMaker runtime's own path, so that boto3 with endpoint_url set works against this server.
        yield "/endpoints/{name}/invocations", replace(embed, summary="")
        yield "/vertex", compute(
            self.vertex, "Vertex AI: several bodies of /embed", body=schemas.VertexRequest,
            answer=responses.VertexResponse,
        )  # fmt: skip
        yield "/", compute(
            self.root, "The same as /embed, or as /similarity", body=schemas.EmbedOrSimilarity,
            answer=one_each | responses.Numbers,
        )  # fmt: skip

    def _showing(self) -> Iterator[tuple[str, Operation]]:
        show = partial(Operation, method="GET", failures=(failures.Unhealthy,))
        health = show(self.health, "Healthy and warm", is_open=True)
        yield "/", replace(health, answered_by=self.page) if self.searches else health
        yield "/health", health
        yield "/ping", replace(health, summary="SageMaker: the same as /health")
        yield "/info", show(self.info, "Model, limits and engine", answer=dict[str, object])
        yield "/v1/models", show(self.models, "The model, in OpenAI's form", answer=dict[str, object], is_openais=True)
        yield "/fields", show(
            self.fields, "Fields that searches can be restricted by, with their most frequent values",
            answer=dict[str, object], failures=(failures.Unhealthy, failures.NotFound),
        )  # fmt: skip
        yield "/metrics", Operation(self.show_metrics, "Prometheus metrics", "GET", is_open=True)

    def ready(self) -> Service:
        """The service of the present request. Raises Unhealthy before the model is warm."""
        service = _HELD.get() or self.service
        if service is None:
            raise failures.Unhealthy("The model is warming up", headers={"retry-after": "1"})
        return service

    @contextmanager
    def holding(self) -> Iterator[None]:
        """The context of one request: ready() gives the same service until its end."""
        with self._lock:
            service = self.service
            self._requests[id(service)] += 1
        held = _HELD.set(service)
        try:
            yield
        finally:
            _HELD.reset(held)
            with self._lock:
                self._requests[id(service)] -= 1
                ended = self._ended()
            for one in ended:
                one.close()

    def replace(self, service: Service) -> None:
        """Answer new requests by another service. The present one is closed when its last request has ended."""
        with self._lock:
            if self.service is not None:
                self._retired[id(self.service)] = self.service
            self.service = service
            ended = self._ended()
        for one in ended:
            one.close()

    def _ended(self) -> list[Service]:
        """Take out the replaced services that no request uses any more."""
        return [self._retired.pop(key) for key in [*self._retired] if not self._requests[key]]

    def retry_after(self) -> int:
        """Seconds after which a client that is refused may try again. Raises Unhealthy before the model is warm."""
        return self.ready().batcher.retry_after()

    def searcher(self) -> Searcher:
        """The searcher of the index. Raises NotFound if no index is served."""
        searcher = self.ready().searcher
        if searcher is None:
            raise failures.NotFound(_NO_INDEX)
        return searcher

    def bounds(self) -> Bounds:
        """The bounds of one request."""
        return Bounds(self.settings.max_client_batch_size, self.ready().hidden_size)

    # Routes that compute -------------------------------------------------------------------------------------

    async def embed(self, request: EmbedRequest, caller: Caller) -> Response:
        """POST /embed."""
        vectors, headers = await self._vectors(request, request_kind(request))
        return json_response(vectors, headers)

    async def root(self, request: EmbedRequest | schemas.SimilarityRequest, caller: Caller) -> Response:
        """POST /."""
        if isinstance(request, schemas.SimilarityRequest):
            return await self.similarity(request, caller)
        return await self.embed(request, caller)

    async def embed_all(self, request: EmbedRequest, caller: Caller) -> Response:
        """POST /embed_all."""
        started = time.monotonic()
        self.metrics.received(request_kind(request))
        states, timing = await self.ready().token_states(request)
        text = await asyncio.get_running_loop().run_in_executor(None, _nested_json, states)
        return _response(text, self._finished(request, timing, started, request_kind(request)))

    async def similarity(self, request: schemas.SimilarityRequest, caller: Caller) -> Response:
        """POST /similarity."""
        vectors, headers = await self._vectors(request.as_embed_request(), "similarity")
        return json_response(unit_rows(vectors[1:]) @ unit_rows(vectors[:1])[0], headers)

    async def openai(self, request: schemas.OpenAIRequest, caller: Caller) -> Response:
        """POST /v1/embeddings."""
        service = self.ready().named(request.model)
        vectors, headers = await self._vectors(request, request_kind(request), service)
        tokens = int(headers["x-compute-tokens"])
        in_base64 = request.encoding_format == "base64"
        return json_response(openai_answer(vectors, service.model_name, tokens, in_base64=in_base64), headers)

    async def vertex(self, request: schemas.VertexRequest, caller: Caller) -> Response:
        """POST /vertex."""
        limit, service = self.settings.max_client_batch_size, self.ready()
        if sum(len(rows_of(one.inputs)) for one in request.instances) > limit:
            raise failures.BatchTooLarge(f"the instances hold more than {limit} inputs together")
        for one in request.instances:
            self.metrics.received(request_kind(one))
        answers = await asyncio.gather(*(service.embed(one) for one in request.instances))
        for one in request.instances:
            self.metrics.succeeded(request_kind(one))
        return json_response({"predictions": [vectors for vectors, _ in answers]})

    async def tokenize(self, request: schemas.TokenizeRequest, caller: Caller) -> Response:
        """POST /tokenize."""
        encoder = self.ready().tower(request.prompt_name).encoder
        self.metrics.received("tokenize")
        rows = await encoder.tokens(
            rows_of(request.inputs),
            prompt=encoder.prompt(request.prompt_name),
            special=request.add_special_tokens,
        )
        self.metrics.succeeded("tokenize")
        return json_response(rows)

    async def decode(self, request: schemas.DecodeRequest, caller: Caller) -> Response:
        """POST /decode."""
        self.metrics.received("decode")
        rows = cast("list[list[int]]", rows_of(cast("list[Input]", request.ids)))
        texts = await self.ready().encoder.texts(rows, skip_special_tokens=request.skip_special_tokens)
        self.metrics.succeeded("decode")
        return json_response(texts)

    async def search(self, request: schemas.SearchRequest, caller: Caller) -> Response:
        """POST and GET /search."""
        searcher, started = self.searcher(), time.monotonic()
        self.metrics.received("search")
        answer = await searcher.answer(request, caller)
        self.metrics.succeeded("search")
        took = time.monotonic() - started
        self.metrics.searched(len(request.queries), answer.empty, took, answer.seconds)
        return _response(answer.body, _UNCACHED | {"x-total-time": f"{took * 1e3:.0f}"})

    async def rerank(self, request: schemas.RerankRequest | schemas.CommonRerankRequest, caller: Caller) -> Response:
        """POST /rerank."""
        searcher, started = self.searcher(), time.monotonic()
        self.metrics.received("rerank")
        if isinstance(request, schemas.RerankRequest):
            truncate = self.settings.auto_truncate if request.truncate is None else request.truncate
            found = await searcher.rerank(request.query, request.texts, truncate=truncate)
        else:
            found = await searcher.rerank(request.query, request.documents)
        self.metrics.succeeded("rerank")
        took = time.monotonic() - started
        self.metrics.reranked(took)
        content = reranked_answer(request, found, self.ready().model_name)
        return json_response(content, {"x-compute-tokens": str(found.tokens), "x-total-time": f"{took * 1e3:.0f}"})

    async def _vectors(
        self, request: VectorRequest, method: str, service: Service | None = None
    ) -> tuple[Vectors, dict[str, str]]:
        """Vectors of a request, and headers with the time that each step took. service: default the server's own."""
        started = time.monotonic()
        self.metrics.received(method)
        vectors, timing = await (service or self.ready()).embed(request)
        return vectors, self._finished(request, timing, started, method)

    def _finished(self, request: VectorRequest, timing: Timing, started: float, method: str) -> dict[str, str]:
        """Count a success. Returns headers with the milliseconds that each step took."""
        total = time.monotonic() - started
        self.metrics.succeeded(method)
        self.metrics.computed(timing, total)
        total_ms = str(int(total * 1e3))
        return {
            "x-compute-type": self.ready().device,
            "x-compute-time": total_ms,
            "x-compute-characters": str(sum(len(text) for text in rows_of(request.inputs) if isinstance(text, str))),
            "x-compute-tokens": str(timing.tokens),
            "x-total-time": total_ms,
            "x-tokenization-time": str(int(timing.tokenization * 1e3)),
            "x-queue-time": str(int(timing.queue * 1e3)),
            "x-inference-time": str(int(timing.inference * 1e3)),
        }

    # Routes that show ----------------------------------------------------------------------------------------

    async def health(self, body: None, caller: Caller) -> Response:
        """GET /health."""
        for batcher in self.ready().batchers:
            if not batcher.broken:
                continue
            try:  # the last batch failed; a small one now shows whether the engine works again
                await batcher.run([[1, 1]])
            except failures.RequestFailure as failure:
                raise failures.Unhealthy(failure.message) from failure
        return Response(b"")

    async def page(self, body: None, caller: Caller) -> Response:
        """GET /, with an index: the page, with the status of /health, because some clients read the status alone."""
        try:
            await self.health(body, caller)
            status = 200
        except failures.Unhealthy as failure:
            status = failure.status
        content, policy = whole_page("embedfit.serving", "search")  # it loads nothing from other addresses
        if self.settings.log_queries is not None:
            content = content.replace(b'id="logged" hidden', b'id="logged"')
        headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        return Response(content, status, headers, "text/html")

    async def info(self, body: None, caller: Caller) -> Response:
        """GET /info."""
        service = self.ready()
        about = service.info
        if service.searcher is not None and "index" in about:
            index = cast("dict[str, object]", about["index"])
            about = about | {"index": index | {"passages": service.searcher.findable(caller).size}}
        return json_response(about, _UNCACHED)

    async def fields(self, body: None, caller: Caller) -> Response:
        """GET /fields."""
        return _response(await self.searcher().fields(caller), _UNCACHED)

    async def models(self, body: None, caller: Caller) -> Response:
        """GET /v1/models. A model of two towers is there twice, for passages and for queries."""
        service = self.ready()
        queries = [service.model_name + QUERIES] if service.queries is not None else []
        return json_response(openai_models([service.model_name, *queries, *service.adapters]))

    async def show_metrics(self, body: None, caller: Caller) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})


def openai_models(names: Iterable[str]) -> dict[str, object]:
    """The answer of /v1/models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "embedfit"} for name in names]
    return {"object": "list", "data": data}


def request_kind(request: VectorRequest) -> str:
    """The request's name in /metrics: a batch is a list of inputs."""
    return "batch" if rows_of(request.inputs) is request.inputs else "single"


def reranked_answer(
    request: schemas.RerankRequest | schemas.CommonRerankRequest, found: Reranked, model: str
) -> list[responses.Rank] | responses.RerankResponse:
    """The answer of /rerank in the form of the request."""
    shares = np.clip(found.scores, 0, 1).tolist()
    if isinstance(request, schemas.RerankRequest):
        shown = found.sums.tolist() if request.raw_scores else shares
        ranks: list[responses.Rank] = [{"index": number, "score": shown[number]} for number in found.order]
        for rank in ranks if request.return_text else []:
            rank["text"] = request.texts[rank["index"]]
        return ranks
    results: list[responses.RankedDocument] = [
        {"index": number, "relevance_score": shares[number]} for number in found.order[: request.top_n]
    ]
    for result in results if request.return_documents else []:
        result["document"] = {"text": request.documents[result["index"]]}
    return {"model": model, "results": results, "usage": {"total_tokens": found.tokens}}


def json_response(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON, which may hold arrays."""
    return _response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), headers)


def _response(body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


def openai_answer(vectors: Vectors, model: str, tokens: int, *, in_base64: bool) -> dict[str, object]:
    """Vectors (N, H) in OpenAI's form."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": _base64(row) if in_base64 else row, "index": index}
            for index, row in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def _nested_json(states: list[Vectors]) -> bytes:
    # One input at a time, because orjson holds the interpreter lock while it writes.
    parts = [orjson.dumps(np.ascontiguousarray(one), option=orjson.OPT_SERIALIZE_NUMPY) for one in states]
    return b"[" + b",".join(parts) + b"]"
