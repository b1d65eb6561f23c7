"""Answers in front of another embedder: its vectors, with a query map on those of queries.

A request says that its texts are queries by the prompt's name "query", or in OpenAI's form by the model's name with
":query" behind it. All other texts are passages, whose vectors are passed on as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from starlette.responses import Response

from embedfit.errors import EmbedfitError, ServingError, UsageError
from embedfit.llm.transport.retry import CallError, RetryPolicy
from embedfit.models.architecture import QUERY
from embedfit.models.query_map import QueryMap
from embedfit.models.store.vectors import PROBES
from embedfit.numerics.arrays import Vectors
from embedfit.runtime import Runtime
from embedfit.serving import failures, responses
from embedfit.serving.answers import Answers, Operation, json_response, openai_answer, openai_models, request_kind
from embedfit.serving.edge.access import Caller
from embedfit.serving.schemas import QUERIES, Bounds, EmbedRequest, OpenAIRequest, VectorRequest, rows_of
from embedfit.serving.settings import ServeSettings

if TYPE_CHECKING:  # an extra
    from embedfit.embedders.client import ServerEmbedder

#: Seconds in which the embedder must answer, its retries included.
DEADLINE = 60.0
#: A client waits, so a failed request is tried once more at most.
_POLICY = RetryPolicy(attempts=2, base_s=0.2, cap_s=1.0)
#: Names of prompts, and whether their texts are queries.
_PROMPTS = {QUERY: True, "document": False, "passage": False, "": False}
_REFUSED = (400, 413, 422)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """An embedder behind a server, with the map of its query vectors. name: the model's name in OpenAI's form."""

    embedder: ServerEmbedder
    map: QueryMap
    name: str


def open_upstream(settings: ServeSettings) -> Upstream:
    """The embedder and the map that the settings name, checked against each other by a few short texts.

    Raises UsageError for a name that is no server's, InputError for a map of another embedder, ServingError if the
    embedder does not answer.
    """
    from embedfit.embedders.client import Patience, ServerEmbedder
    from embedfit.embedders.registry import LOCAL, open_embedder, parse

    assert settings.upstream is not None and settings.query_map is not None  # the settings' check
    made = QueryMap.load(settings.query_map)
    spec = parse(settings.upstream)
    embedder = None if spec.kind == LOCAL else open_embedder(settings.upstream, Runtime(), passes_on=True)
    if not isinstance(embedder, ServerEmbedder):
        raise UsageError(
            f"--upstream {settings.upstream} is no server's embedder.",
            remedy="Use openai:URL#MODEL, tei:URL or sagemaker:NAME@REGION. For others map the vectors in your own "
            "program: embedfit.QueryMap.load(PATH)(vectors)",
        )
    embedder.patience = Patience(policy=_POLICY)
    try:
        probes = embedder.embed(PROBES, is_query=True)
    except EmbedfitError as error:
        raise ServingError(f"The upstream gives no vectors: {error.message}", remedy=error.remedy) from error
    made.check_embedder(probes)
    named = spec.target.partition("#")[2] or "mapped"  # an address is nothing that clients need to know
    return Upstream(embedder=embedder, map=made, name=settings.served_model_name or named)


class MappedAnswers(Answers):
    """The answers of a server that has no model of its own. upstream is None until it was reached."""

    def __init__(self, settings: ServeSettings) -> None:
        super().__init__(settings)
        self.upstream: Upstream | None = None

    def table(self) -> list[tuple[str, Operation]]:
        """The routes for vectors, and those that show."""
        failing = (failures.BackendFailure,)
        embed = Operation(
            self.embed, "Vectors of inputs", body=EmbedRequest, answer=list[responses.Numbers], failures=failing
        )
        openai = Operation(
            self.openai,
            "Vectors in OpenAI's form",
            body=OpenAIRequest,
            answer=responses.OpenAIResponse,
            is_openais=True,
            failures=failing,
        )
        show = partial(Operation, method="GET", failures=(failures.Unhealthy,))
        return [
            ("/embed", embed),
            ("/v1/embeddings", openai),
            ("/embeddings", openai),
            ("/health", show(self.health, "Healthy", is_open=True)),
            ("/info", show(self.info, "Model and limits", answer=dict[str, object])),
            ("/v1/models", show(self.models, "The model, in OpenAI's form", answer=dict[str, object], is_openais=True)),
            ("/metrics", Operation(self.show_metrics, "Prometheus metrics", "GET", is_open=True)),
        ]

    def reached(self) -> Upstream:
        """The upstream. Raises Unhealthy before it was reached."""
        if self.upstream is None:
            raise failures.Unhealthy("The upstream is being reached", headers={"retry-after": "1"})
        return self.upstream

    def retry_after(self) -> int:
        """Seconds after which a refused client may try again."""
        self.reached()
        return 1

    def bounds(self) -> Bounds:
        """The bounds of one request."""
        return Bounds(self.settings.max_client_batch_size, self.reached().map.width)

    async def embed(self, request: EmbedRequest, caller: Caller) -> Response:
        """POST /embed."""
        return json_response(*await self._mapped(request, _is_query(request.prompt_name)))

    async def openai(self, request: OpenAIRequest, caller: Caller) -> Response:
        """POST /v1/embeddings."""
        vectors, headers = await self._mapped(request, _is_query(request.prompt_name))
        in_base64 = request.encoding_format == "base64"
        # How many tokens the upstream read is not known here.
        return json_response(openai_answer(vectors, self.reached().name, 0, in_base64=in_base64), headers)

    async def _mapped(self, request: VectorRequest, is_query: bool) -> tuple[Vectors, dict[str, str]]:
        started = time.monotonic()
        self.metrics.received(request_kind(request))
        upstream = self.reached()
        if request.dimensions not in (None, upstream.map.width):
            raise failures.Invalid(f"`dimensions` can't be changed: the vectors are {upstream.map.width} wide")
        texts = [text for text in rows_of(request.inputs) if isinstance(text, str)]
        if len(texts) < len(rows_of(request.inputs)):
            raise failures.Invalid("`inputs` holds token ids, which mean other words to the upstream: send the texts")
        vectors = await self._asked(upstream, texts, is_query)
        if is_query:
            vectors = upstream.map(vectors)
        self.metrics.succeeded(request_kind(request))
        return vectors, {"x-total-time": str(int((time.monotonic() - started) * 1e3))}

    async def _asked(self, upstream: Upstream, texts: Sequence[str], is_query: bool) -> Vectors:
        try:
            vectors = await asyncio.wait_for(upstream.embedder.aembed(texts, is_query=is_query), DEADLINE)
        except asyncio.TimeoutError as error:
            raise failures.BackendFailure(f"The upstream gave no vectors in {DEADLINE:g} seconds") from error
        except CallError as error:
            raise _failure_of(error) from error
        if vectors.shape[1] != upstream.map.width:
            raise failures.BackendFailure("The upstream's vectors have another width now than the query map")
        return vectors

    async def health(self, body: None, caller: Caller) -> Response:
        """GET /health: whether the upstream was reached. It is not asked again, because each text may cost money."""
        self.reached()
        return Response(b"")

    async def info(self, body: None, caller: Caller) -> Response:
        """GET /info. It lists no prompts, so clients ask for theirs by name, as with TEI."""
        upstream, settings = self.reached(), self.settings
        about = {
            "model_id": upstream.name,
            "hidden_size": upstream.map.width,
            "max_client_batch_size": settings.max_client_batch_size,
            "max_concurrent_requests": settings.max_concurrent_requests,
            "payload_limit": settings.payload_limit,
            "queries": {"prompt_name": QUERY},
            "query_map": {"embedder": upstream.map.card.embedder, "made": dict(upstream.map.card.made)},
        }
        return json_response(about, {"cache-control": "no-store"})

    async def models(self, body: None, caller: Caller) -> Response:
        """GET /v1/models: the model twice, for passages and for queries."""
        names = (self.reached().name, self.reached().name + QUERIES)
        return json_response(openai_models(names))


def _is_query(prompt_name: str | None) -> bool:
    if prompt_name is not None and prompt_name not in _PROMPTS:
        raise failures.Invalid(f"`prompt_name` {prompt_name!r} is not known; query and document are")
    return _PROMPTS[prompt_name or ""]


def _failure_of(error: CallError) -> failures.RequestFailure:
    """The upstream's refusal as ours. Its address is left out: clients need not know it."""
    said = error.message.partition(": ")[2][:300]
    if error.status == 429:
        return failures.Overloaded("The upstream is overloaded", retry_after=max(1, int(error.retry_after or 1)))
    if error.status in _REFUSED:
        return failures.Invalid(f"The upstream refused the request ({error.status}): {said}")
    if error.status in (401, 403):
        return failures.BackendFailure("The upstream refused this server's key")
    return failures.BackendFailure(f"The upstream failed ({error.status or 'no answer'})")
