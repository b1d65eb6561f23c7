"""The routes: TEI's, OpenAI's, SageMaker's and Vertex AI's, as one ASGI application."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from embedfit.models.layout.modules import unit_rows
from embedfit.serving import requests
from embedfit.serving.edge.access import ANYBODY, Caller, Keys, keys_of
from embedfit.serving.edge.bodies import Bodies, BodyLimits, PaceLimits, Receive
from embedfit.serving.engines.engine import Vectors
from embedfit.serving.failures import (
    BatchTooLarge,
    Malformed,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RequestFailure,
    Unauthorized,
    Unhealthy,
    UnsupportedMediaType,
)
from embedfit.serving.metrics import CONTENT_TYPE, Metrics
from embedfit.serving.openapi import docs_page, openapi_document
from embedfit.serving.page import search_page
from embedfit.serving.service import Service, Timing
from embedfit.serving.settings import ServeSettings

if TYPE_CHECKING:  # it loads torch, which a server without an index does not need
    from embedfit.serving.searching import Searcher

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

_JSON: Header = (b"content-type", b"application/json")
#: What depends on who asks is no other's.
_UNCACHED: Header = (b"cache-control", b"no-store")
_NO_INDEX = (
    "This server has no index to search. Serve a run folder: embedfit serve RUN; "
    "or index documents and serve their folder: embedfit index DOCS... --model minilm --to-folder DIR"
)
#: An escape in a JSON string: a pair of surrogates, half a pair, or any other.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_LOG = logging.getLogger("embedfit.serving")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. headers: beside content-length."""

    body: bytes
    headers: tuple[Header, ...] = (_JSON,)
    status: int = 200


Handler = Callable[..., Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers one method of one path.

    protected: needs the key, where one is set. computes: counts as a request that may be refused under load.
    parameters: reads what the handler wants from the address' parameters; None: the body is the JSON that it wants.
    mends: halves of surrogate pairs in the body are replaced, rather than refused. scoped: the answer depends on who
    asks: the handler is given the caller too.
    """

    method: str
    handler: Handler
    protected: bool
    computes: bool = False
    openai: bool = False
    parameters: Callable[[bytes], Any] | None = None
    mends: bool = False
    scoped: bool = False


class App:
    """The ASGI application of one server. service is None until the model is warm.

    One request is one call; nothing is shared between requests but the service and the metrics.
    """

    def __init__(self, settings: ServeSettings, *, searches: bool = False, keys: Keys | None = None) -> None:
        """searches: an index is, or will be, served beside the model, and `/` is a page to search it.

        keys: of the settings, where they were read before.
        """
        self.settings = settings
        self.searches = searches
        self.service: Service | None = None
        self.metrics = Metrics()
        self.metrics.gauges = {
            "te_queue_size": lambda: self.service.batcher.queued_rows if self.service else 0,
            "te_batch_next_size": lambda: self.service.batcher.last_batch.rows if self.service else 0,
            "te_batch_next_tokens": lambda: self.service.batcher.last_batch.tokens if self.service else 0,
        }
        self.active = 0
        self.bodies = Bodies(
            BodyLimits(
                unfinished=settings.max_concurrent_requests,
                held_bytes=max(BodyLimits().held_bytes, 4 * settings.payload_limit),
                pace=PaceLimits(credit=min(PaceLimits().credit, settings.body_timeout)),
            )
        )
        self._keys = keys_of(settings) if keys is None else keys
        self._routes = self._table()
        openapi = openapi_document(protected=bool(self._keys))
        self._openapi = orjson.dumps(openapi)
        self._docs_html = docs_page(openapi).encode()  # once: anybody may ask for it, as often as they like

    def _table(self) -> dict[str, tuple[Route, ...]]:
        embed = partial(Route, "POST", computes=True, protected=True)
        show = partial(Route, "GET", protected=False)
        openai = embed(self._openai, openai=True)
        health = show(self._health)
        return {
            "/embed": (embed(self._embed),),
            "/embed_all": (embed(self._embed_all),),
            "/similarity": (embed(self._similarity),),
            "/tokenize": (embed(self._tokenize),),
            "/decode": (embed(self._decode),),
            "/vertex": (embed(self._vertex),),
            "/invocations": (embed(self._embed),),
            "/search": (
                embed(self._search, mends=True, scoped=True),
                Route(
                    "GET",
                    self._search,
                    computes=True,
                    protected=True,
                    parameters=requests.search_parameters,
                    scoped=True,
                ),
            ),
            "/fields": (Route("GET", self._fields, protected=True, scoped=True),),
            "/v1/embeddings": (openai,),
            "/embeddings": (openai,),
            "/v1/models": (Route("GET", self._models, protected=True, openai=True),),
            "/info": (Route("GET", self._info, protected=True, scoped=True),),
            "/": (show(self._page) if self.searches else health, embed(self._root)),
            "/health": (health,),
            "/ping": (health,),
            "/metrics": (show(self._show_metrics),),
            "/docs": (show(self._docs),),
            "/api-doc/openapi.json": (show(self._document),),
            "/openapi.json": (show(self._document),),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; lifespan and websockets are not served."""
        if scope["type"] != "http":
            return
        lost: list[Callable[[], object]] | None = (scope.get("extensions") or {}).get("embedfit.lost")
        task = asyncio.current_task()
        gone = False

        def cancel() -> None:
            nonlocal gone
            gone = True
            if task is not None:
                task.cancel()

        if lost is not None:
            lost.append(cancel)
        try:
            await _send(await self._answer(scope, receive), send)
        except asyncio.CancelledError:
            if gone:
                return  # the client has left: there is nobody to tell
            raise
        finally:
            if lost is not None:
                lost.remove(cancel)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        route: Route | None = None
        try:
            route = self._route(scope["path"], scope["method"])
            headers = _chosen_headers(scope["headers"])
            handler = route.handler
            if route.protected:
                caller = self._caller(headers)
                handler = partial(handler, caller=caller) if route.scoped else handler
            if not route.computes:
                return await handler(None)
            if route.parameters is not None:
                self._check_load()
                return await self._handled(handler, route.parameters(scope["query_string"]))
            whole = bool((scope.get("extensions") or {}).get("embedfit.whole"))
            return await self._admitted(handler, headers, receive, is_whole=whole, mends=route.mends)
        except RequestFailure as failure:
            self.metrics.failed(failure.label)
            return _failure_reply(failure, openai=route is not None and route.openai)
        except Exception as error:  # a bug: TEI's clients expect a backend error, and the log has the trace
            _LOG.exception("A request failed unexpectedly")
            self.metrics.failed("internal")
            bug = RequestFailure(f"Internal error: {type(error).__name__}")
            return _failure_reply(bug, openai=route is not None and route.openai)

    def _route(self, path: str, method: str) -> Route:
        routes = self._routes.get(path)
        if routes is None and path.startswith("/endpoints/") and path.endswith("/invocations") and path.count("/") == 3:
            # The SageMaker runtime's own path, so that boto3 with endpoint_url set works against this server.
            routes = self._routes["/invocations"]
        if routes is None:
            raise NotFound(f"There is no route {path[:200]}")
        wanted = "GET" if method == "HEAD" else method
        for route in routes:
            if route.method == wanted:
                return route
        allowed = ", ".join(route.method for route in routes)
        raise MethodNotAllowed(f"{method} is not allowed here, {allowed} is", headers=(("allow", allowed),))

    def _caller(self, headers: dict[bytes, bytes]) -> Caller:
        if not self._keys:
            return ANYBODY
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        caller = self._keys.caller(key.strip())
        if scheme.lower() != b"bearer" or caller is None:
            raise Unauthorized("The API key is missing or wrong", headers=(("www-authenticate", "Bearer"),))
        return caller

    async def _admitted(
        self, handler: Handler, headers: dict[bytes, bytes], receive: Receive, *, is_whole: bool, mends: bool
    ) -> Reply:
        """Answer a request once its body is there: until then it takes no place from others."""
        self._check_load()
        self._check_body_headers(headers)
        with self.bodies.open() as body:
            content = await body.read(receive, is_whole=is_whole, limit=self.settings.payload_limit)
            self._check_load()
            parsed = _parsed(content, mends=mends)
            del content  # the texts are copies
            return await self._handled(handler, parsed)

    async def _handled(self, handler: Handler, parsed: Any) -> Reply:  # noqa: ANN401 - JSON
        self.active += 1
        try:
            return await handler(parsed)
        finally:
            self.active -= 1

    def _check_load(self) -> None:
        if self.service is None:
            raise Unhealthy("The model is warming up", headers=(("retry-after", "1"),))
        if self.active >= self.settings.max_concurrent_requests:
            raise Overloaded(retry_after=self.service.batcher.retry_after())

    def _check_body_headers(self, headers: dict[bytes, bytes]) -> None:
        kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if kind != b"application/json" and not kind.endswith(b"+json"):
            raise UnsupportedMediaType("Expected request with `Content-Type: application/json`")
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b""):
            raise UnsupportedMediaType(
                "Compressed bodies are not read: send the JSON as it is, without `Content-Encoding`",
                headers=(("accept-encoding", "identity"),),
            )
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.settings.payload_limit:
            raise PayloadTooLarge(f"The body is larger than {self.settings.payload_limit} bytes")

    # Routes that compute -------------------------------------------------------------------------------------

    def _loaded(self) -> Service:
        if self.service is None:  # pragma: no cover - _admitted has checked
            raise Unhealthy("The model is warming up")
        return self.service

    async def _embed(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        request, service, started = self._embed_request(body), self._loaded(), time.monotonic()
        vectors, timing = await service.embed(request)
        headers = self._finished(request, timing, started)
        return Reply(orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY), headers)

    async def _root(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        # The hub's client sends its sentence-similarity task to the bare address too.
        is_similarity = isinstance(body, dict) and isinstance(body.get("inputs"), dict)
        return await (self._similarity if is_similarity else self._embed)(body)

    async def _embed_all(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        request, service, started = self._embed_request(body), self._loaded(), time.monotonic()
        states, timing = await service.token_states(request)
        text = await asyncio.get_running_loop().run_in_executor(None, _nested_json, states)
        return Reply(text, self._finished(request, timing, started))

    async def _similarity(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        request = requests.similarity_request(body, limit=self.settings.max_client_batch_size).embed
        service, started = self._loaded(), time.monotonic()
        self.metrics.received("similarity")
        vectors, timing = await service.embed(request)
        similarities = unit_rows(vectors[1:]) @ unit_rows(vectors[:1])[0]
        headers = self._finished(request, timing, started, method="similarity")
        return Reply(orjson.dumps(similarities, option=orjson.OPT_SERIALIZE_NUMPY), headers)

    async def _openai(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        service, started = self._loaded(), time.monotonic()
        request = requests.openai_request(
            body, limit=self.settings.max_client_batch_size, hidden_size=service.hidden_size
        )
        self.metrics.received("batch" if request.embed.many else "single")
        vectors, timing = await service.embed(request.embed)
        answer = {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": _base64(row) if request.base64 else row, "index": index}
                for index, row in enumerate(vectors)
            ],
            "model": service.model_name,
            "usage": {"prompt_tokens": timing.tokens, "total_tokens": timing.tokens},
        }
        headers = self._finished(request.embed, timing, started)
        return Reply(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), headers)

    async def _vertex(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        instances = requests.vertex_instances(body, limit=self.settings.max_client_batch_size)
        service = self._loaded()
        parsed = [self._embed_request(instance) for instance in instances]
        if sum(len(request.inputs) for request in parsed) > self.settings.max_client_batch_size:
            raise BatchTooLarge(f"the instances hold more than {self.settings.max_client_batch_size} inputs in all")
        answers = await asyncio.gather(*(service.embed(request) for request in parsed))
        for request in parsed:
            self.metrics.succeeded("batch" if request.many else "single")
        predictions = {"predictions": [vectors for vectors, _ in answers]}
        return Reply(orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY))

    async def _tokenize(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        request = requests.tokenize_request(body, limit=self.settings.max_client_batch_size)
        encoder = self._loaded().encoder
        self.metrics.received("tokenize")
        rows = await encoder.tokens(request.inputs, prompt=encoder.prompt(request.prompt_name), special=request.special)
        self.metrics.succeeded("tokenize")
        return Reply(orjson.dumps([[asdict(token) for token in row] for row in rows]))

    async def _decode(self, body: Any) -> Reply:  # noqa: ANN401 - JSON
        request = requests.decode_request(body, limit=self.settings.max_client_batch_size)
        self.metrics.received("decode")
        texts = await self._loaded().encoder.texts(request.rows, skip_special_tokens=request.skip_special)
        self.metrics.succeeded("decode")
        return Reply(orjson.dumps(texts))

    def _searcher(self) -> Searcher:
        searcher = self._loaded().searcher
        if searcher is None:
            raise NotFound(_NO_INDEX)
        return searcher

    async def _search(self, body: Any, caller: Caller) -> Reply:  # noqa: ANN401 - JSON
        searcher = self._searcher()
        request, started = requests.search_request(body, limit=self.settings.max_client_batch_size), time.monotonic()
        self.metrics.received("search")
        answer = await searcher.answer(request, caller)
        self.metrics.succeeded("search")
        took = time.monotonic() - started
        self.metrics.searched(len(request.queries), answer.empty, took)
        return Reply(answer.body, (_JSON, _UNCACHED, (b"x-total-time", b"%d" % (took * 1e3))))

    def _embed_request(self, body: Any) -> requests.EmbedRequest:  # noqa: ANN401 - JSON
        request = requests.embed_request(
            body, limit=self.settings.max_client_batch_size, hidden_size=self._loaded().hidden_size
        )
        self.metrics.received("batch" if request.many else "single")
        return request

    def _finished(
        self, request: requests.EmbedRequest, timing: Timing, started: float, method: str | None = None
    ) -> tuple[Header, ...]:
        """Count a success; the headers that tell the client where the time went, in milliseconds."""
        total = time.monotonic() - started
        metrics = self.metrics
        metrics.succeeded(method or ("batch" if request.many else "single"))
        metrics.duration.observe(total)
        metrics.tokenization.observe(timing.tokenization)
        metrics.queue.observe(timing.queue)
        metrics.inference.observe(timing.inference)
        for length in timing.lengths:
            metrics.input_length.observe(length)
        total_ms = b"%d" % (total * 1e3)
        return (
            _JSON,
            (b"x-compute-type", self._loaded().device.encode()),
            (b"x-compute-time", total_ms),
            (b"x-compute-characters", b"%d" % request.characters),
            (b"x-compute-tokens", b"%d" % timing.tokens),
            (b"x-total-time", total_ms),
            (b"x-tokenization-time", b"%d" % (timing.tokenization * 1e3)),
            (b"x-queue-time", b"%d" % (timing.queue * 1e3)),
            (b"x-inference-time", b"%d" % (timing.inference * 1e3)),
        )

    # Routes that show ----------------------------------------------------------------------------------------

    async def _health(self, _: object) -> Reply:
        if self.service is None:
            raise Unhealthy("The model is warming up", headers=(("retry-after", "1"),))
        if self.service.batcher.broken:
            try:  # the last batch failed: is the next one well?
                await self.service.batcher.run([[1, 1]])
            except RequestFailure as failure:
                raise Unhealthy(failure.message) from failure
        return Reply(b"", ())

    async def _page(self, _: object) -> Reply:
        # Who asks for / to know whether the server is ready still reads it from the status.
        try:
            await self._health(None)
        except Unhealthy as failure:
            return Reply(*search_page(), failure.status)
        return Reply(*search_page())

    async def _info(self, _: object, caller: Caller) -> Reply:
        if self.service is None:
            raise Unhealthy("The model is warming up", headers=(("retry-after", "1"),))
        info = self.service.info
        if self.service.searcher is not None and "index" in info:
            info = info | {"index": info["index"] | {"passages": self.service.searcher.scope(caller).size}}
        return Reply(orjson.dumps(info), (_JSON, _UNCACHED))

    async def _fields(self, _: object, caller: Caller) -> Reply:
        if self.service is None:
            raise Unhealthy("The model is warming up", headers=(("retry-after", "1"),))
        return Reply(await self._searcher().fields(caller), (_JSON, _UNCACHED))

    async def _models(self, _: object) -> Reply:
        if self.service is None:
            raise Unhealthy("The model is warming up", headers=(("retry-after", "1"),))
        model = {"id": self.service.model_name, "object": "model", "created": 0, "owned_by": "embedfit"}
        return Reply(orjson.dumps({"object": "list", "data": [model]}))

    async def _show_metrics(self, _: object) -> Reply:
        return Reply(self.metrics.text().encode(), ((b"content-type", CONTENT_TYPE.encode()),))

    async def _docs(self, _: object) -> Reply:
        return Reply(self._docs_html, ((b"content-type", b"text/html; charset=utf-8"),))

    async def _document(self, _: object) -> Reply:
        return Reply(self._openapi)


async def _send(reply: Reply, send: Send) -> None:
    headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    # This one waits until the client has read, so the next request of the connection does too.
    await send({"type": "http.response.body", "body": b""})


def _chosen_headers(headers: list[Header]) -> dict[bytes, bytes]:
    wanted = (b"authorization", b"content-type", b"content-length", b"content-encoding")
    return {name: value for name, value in headers if name in wanted}


def _parsed(content: bytes | bytearray, *, mends: bool = False) -> Any:  # noqa: ANN401 - JSON
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if mends and (mended := _ESCAPE.sub(_mended, content)) != content:
            return _parsed(mended)
        raise Malformed(f"Failed to parse the request body as JSON: {error}") from error


def _mended(escape: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if escape["half"] else escape[0]


def _failure_reply(failure: RequestFailure, *, openai: bool) -> Reply:
    if openai:
        content = {"message": failure.message, "code": failure.status, "type": failure.kind}
    else:
        content = {"error": failure.message, "error_type": failure.kind}
    headers = tuple((name.encode(), value.encode()) for name, value in failure.headers)
    # A surrogate in a message (from a path, say) would not encode.
    text = {key: _printable(value) if isinstance(value, str) else value for key, value in content.items()}
    return Reply(orjson.dumps(text), (_JSON, *headers), failure.status)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _base64(vector: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def _nested_json(states: list[Vectors]) -> bytes:
    # One input at a time: orjson holds the interpreter lock while it writes.
    parts = [orjson.dumps(np.ascontiguousarray(one), option=orjson.OPT_SERIALIZE_NUMPY) for one in states]
    return b"[" + b",".join(parts) + b"]"
