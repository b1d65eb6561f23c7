"""The routes of the page: the page itself, a question with its passages, and a grade.

Every path begins with a secret, so that only people who have the address can read or grade. Requests of other sites
are refused: a request must name this host, and a request that grades must come from the page itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedfit.choosing.page.session import PageGrade, Session
from embedfit.display.pages import whole_page
from embedfit.errors import InputError

#: The most bytes of a request's body. A grade has some fifty.
MOST_BYTES = 2_000
#: The seconds that a request's body may take.
_BODY_SECONDS = 10.0
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}
_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})

Handler = Callable[[Request], Awaitable[Response]]


def application(session: Session, token: str) -> Starlette:
    """The routes of a session. token: the secret at the beginning of each path."""

    def guarded(handler: Handler) -> Handler:
        async def guard(request: Request) -> Response:
            if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()) or not _is_own(
                request
            ):
                return _error(404, "There is nothing here. Use the address that embedfit grade printed.")
            try:
                return await handler(request)
            except InputError as error:
                return _error(400, error.message)
            except (ClientDisconnect, asyncio.TimeoutError, TimeoutError):
                return _error(408, "The request did not arrive whole.")
            except OSError as error:
                return _error(500, f"The grade could not be saved: {error.strerror or error}.")

        return guard

    async def page(_: Request) -> Response:
        content, policy = whole_page("embedfit.choosing.page", "grade")
        return Response(content, media_type="text/html", headers={**_HEADERS, "content-security-policy": policy})

    async def state(_: Request) -> Response:
        return JSONResponse(session.state(), headers=_HEADERS)

    async def question(request: Request) -> Response:
        return JSONResponse(session.question(request.path_params["number"]), headers=_HEADERS)

    async def grade(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _error(415, "A grade is JSON.")
        given = PageGrade.read(await asyncio.wait_for(_body(request), _BODY_SECONDS))
        return JSONResponse(session.grade(given), headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/{token}/", guarded(page)),
            Route("/{token}/state", guarded(state)),
            Route("/{token}/question/{number:int}", guarded(question)),
            Route("/{token}/grade", guarded(grade), methods=["POST"]),
        ]
    )


def _is_own(request: Request) -> bool:
    """Whether a request names this machine and, if a browser gives its origin, comes from this page."""
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "none")
    return name in _HOSTS and origin in (None, f"http://{host}") and site in ("none", "same-origin")


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise InputError(f"A grade has at most {MOST_BYTES:,} bytes.")
    return body


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status, headers=_HEADERS)
