"""The ASGI application: it checks keys and limits, reads bodies, and answers errors in the form of the route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from embedfit.serving.answers import Answers, Operation, Raw
from embedfit.serving.edge.access import ANYBODY, Caller, Keys, keys_of
from embedfit.serving.edge.bodies import Bodies, BodyLimits, PaceLimits
from embedfit.serving.failures import (
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RequestFailure,
    Unauthorized,
    UnsupportedMediaType,
)
from embedfit.serving.openapi import docs_page, openapi_document
from embedfit.serving.responses import Error, OpenAIError
from embedfit.serving.schemas import read_body, read_parameters
from embedfit.serving.settings import ServeSettings

_LOG = logging.getLogger("embedfit.serving")


class App:
    """The application of one server. One request is one call; requests share the answers' state alone."""

    def __init__(
        self,
        settings: ServeSettings,
        *,
        searches: bool = False,
        keys: Keys | None = None,
        answers: Answers | None = None,
    ) -> None:
        """searches: an index is, or will be, served beside the model. keys: the settings', if they were read before.

        answers: other ones than those of a model.
        """
        self.settings = settings
        self.answers = answers or Answers(settings, searches)
        self.active = 0
        self.bodies = Bodies(
            BodyLimits(
                unfinished=settings.max_concurrent_requests,
                held_bytes=max(BodyLimits().held_bytes, 4 * settings.payload_limit),
                pace=PaceLimits(credit=min(PaceLimits().credit, settings.body_timeout)),
            )
        )
        self._keys = keys_of(settings) if keys is None else keys
        table = self.answers.table()
        document = openapi_document(table, protected=bool(self._keys))
        shown = {  # made once, because anybody may ask for it as often as they like
            "/docs": Response(docs_page(document), media_type="text/html"),
            "/api-doc/openapi.json": Response(orjson.dumps(document), media_type="application/json"),
        }
        shown["/openapi.json"] = shown["/api-doc/openapi.json"]
        table += [(path, _showing(response)) for path, response in shown.items()]
        self._routes = [(Route(path, one.answered_by, methods=[one.method]), one) for path, one in table]

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
            await _send(await self._response(scope, receive), send)
        except asyncio.CancelledError:
            if gone:
                return  # the client has left
            raise
        finally:
            if lost is not None:
                lost.remove(cancel)

    async def _response(self, scope: Scope, receive: Receive) -> Response:
        is_openais = False
        try:
            operation = self._operation(scope)
            is_openais = operation.is_openais
            with self.answers.holding():
                return await self._answered(operation, scope, receive)
        except RequestFailure as failure:
            self.answers.metrics.failed(failure.label)
            return _failed(failure, is_openais=is_openais)
        except Exception as error:  # a bug of ours: TEI's clients expect a backend error, and the log has the trace
            _LOG.exception("A request failed unexpectedly")
            self.answers.metrics.failed("internal")
            return _failed(RequestFailure(f"Internal error: {type(error).__name__}"), is_openais=is_openais)

    def _operation(self, scope: Scope) -> Operation:
        allowed: list[str] = []
        for route, operation in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return operation
            if match is Match.PARTIAL:
                allowed.append(operation.method)
        if not allowed:
            raise NotFound(f"There is no route {scope['path'][:200]}")
        names = ", ".join(allowed)
        raise MethodNotAllowed(f"{scope['method']} is not allowed here, {names} is", headers={"allow": names})

    async def _answered(self, operation: Operation, scope: Scope, receive: Receive) -> Response:
        """Answer a request. It takes no place in a queue before its body is there."""
        headers = Headers(scope=scope)
        caller = ANYBODY if operation.is_open else self._caller(headers)
        request: object
        if operation.reader is None:
            return await operation.answered_by(None, caller)
        self._check_load()
        if operation.method == "GET":
            request = read_parameters(operation.reader, scope["query_string"], self.answers.bounds())
            return await self._counted(operation, request, caller)
        self._check_body_headers(headers)
        with self.bodies.open() as body:
            is_whole = bool((scope.get("extensions") or {}).get("embedfit.whole"))
            content = await body.read(receive, is_whole=is_whole, limit=self.settings.payload_limit)
            self._check_load()
            if operation.is_raw:
                request = Raw(scope, bytes(content))
            else:
                request = read_body(operation.reader, content, self.answers.bounds(), mends=operation.mends)
            del content  # the texts are copies
            return await self._counted(operation, request, caller)

    async def _counted(self, operation: Operation, request: object, caller: Caller) -> Response:
        self.active += 1
        try:
            return await operation.answered_by(request, caller)
        finally:
            self.active -= 1

    def _caller(self, headers: Headers) -> Caller:
        if not self._keys:
            return ANYBODY
        scheme, _, key = headers.get("authorization", "").partition(" ")
        caller = self._keys.caller(key.strip().encode("latin-1"))
        if scheme.lower() != "bearer" or caller is None:
            raise Unauthorized("The API key is missing or wrong", headers={"www-authenticate": "Bearer"})
        return caller

    def _check_load(self) -> None:
        retry_after = self.answers.retry_after()
        if self.active >= self.settings.max_concurrent_requests:
            raise Overloaded(retry_after=retry_after)

    def _check_body_headers(self, headers: Headers) -> None:
        kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise UnsupportedMediaType("Expected request with `Content-Type: application/json`")
        if headers.get("content-encoding", "").strip().lower() not in ("identity", ""):
            raise UnsupportedMediaType(
                "Compressed bodies are not read: send the JSON as it is, without `Content-Encoding`",
                headers={"accept-encoding": "identity"},
            )
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.settings.payload_limit:
            raise PayloadTooLarge(f"The body is larger than {self.settings.payload_limit} bytes")


def _showing(response: Response) -> Operation:
    async def show(_body: None, _caller: Caller) -> Response:
        return response

    return Operation(show, method="GET", is_open=True)


async def _send(response: Response, send: Send) -> None:
    start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    # Sending waits until the client reads, and that holds up the connection's next request too.
    await send({"type": "http.response.body", "body": b""})


def _failed(failure: RequestFailure, *, is_openais: bool) -> Response:
    # A surrogate in a message (from a path, say) would not encode.
    message = failure.message.encode("utf-8", "replace").decode("utf-8")
    tei: Error = {"error": message, "error_type": failure.kind}
    openai: OpenAIError = {"message": message, "code": failure.status, "type": failure.kind}
    content = orjson.dumps(openai if is_openais else tei)
    return Response(content, failure.status, failure.headers, "application/json")
