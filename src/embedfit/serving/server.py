"""One process that serves one model: socket, warm-up, drain."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, cast

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from embedfit.display.terminal import write_line
from embedfit.errors import ServingError
from embedfit.serving.answers import Answers
from embedfit.serving.app import App
from embedfit.serving.edge.access import keys_of
from embedfit.serving.edge.bodies import PaceLimits
from embedfit.serving.edge.limits import BoundedProtocol, ConnectionLimits, Connections
from embedfit.serving.loading import load_service, load_with_index
from embedfit.serving.proxy import MappedAnswers, open_upstream
from embedfit.serving.settings import ServeSettings

if TYPE_CHECKING:
    from embedfit.index.search import Index

Log = Callable[[str], None]

#: Headers of MCP's clients, which a page may send only if they are named.
_MCP_HEADERS = ("mcp-protocol-version", "mcp-method", "mcp-name")
_KERNEL_BUFFER = 262_144
#: Open files beside connections: libraries, the model, the log.
_OTHER_FILES = 128


def serve(model: str, settings: ServeSettings, *, log: Log, opened: Callable[[], Index] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then finish the accepted requests and return.

    opened: opens the index that `model` names, and may build it first; None: `model` is a model alone.
    Raises ServingError if the port is taken, and the errors of loading the model.
    """
    keys, agents = keys_of(settings), _for_agents(settings)
    listener = listen(settings.host, settings.port)
    address = _url(listener)
    log(f"{address} is open; warming up {model}")
    if settings.api_key is None and settings.access is None and not _is_loopback(listener):
        log("No key is set: everybody who reaches this address can use the server. To ask for one: EMBEDFIT_API_KEY")

    mapped = MappedAnswers(settings) if settings.upstream is not None else None
    app = App(settings, searches=opened is not None, keys=keys, answers=mapped or agents)
    server = uvicorn.Server(_uvicorn_config(app, settings))
    failures: list[BaseException] = []

    def warm_up() -> None:
        try:
            if mapped is not None:
                mapped.upstream = open_upstream(settings)
            elif opened is not None:
                app.answers.service = load_with_index(opened, settings, keys, log=log)
            else:
                app.answers.service = load_service(model, settings, log=log)
            shown = f"search: {address}/, " if app.answers.searches else ""
            shown += f"agents: {address}/mcp, " if settings.mcp else ""
            log(f"ready: {address} ({shown}docs: {address}/docs)")
        except BaseException as error:
            failures.append(error)
            server.should_exit = True

    # uvicorn passes a signal on to the handler that was set before; ours ignores it, so that only the drain runs.
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # A daemon does not keep the process alive when the user stops it during warm-up.
        Thread(target=warm_up, name="warm-up", daemon=True).start()
        server.run(sockets=[listener])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        listener.close()
    if app.answers.service is not None:
        app.answers.service.close()
    if failures:
        raise failures[0]
    log("drained, bye")


def _for_agents(settings: ServeSettings) -> Answers | None:
    """The answers of a server with --mcp http; None for another."""
    if settings.mcp != "http":
        return None
    from embedfit.serving.agents.http import AgentAnswers  # an extra

    return AgentAnswers(settings, searches=True)


def listen(host: str, port: int) -> socket.socket:
    """An open socket; port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # The kernel buffers no more than this for a connection, so that a client that does not read is noticed sooner.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
        return listener
    except OSError as error:
        raise ServingError(
            f"{host}:{port} can't be opened: {error.strerror or error}.",
            remedy="Give another --port (0: any free one) or --host, or stop what uses it.",
        ) from error


def _uvicorn_config(app: App, settings: ServeSettings) -> uvicorn.Config:
    application: ASGIApp = app
    if settings.cors_allow_origin:
        application = CORSMiddleware(
            application,
            allow_origins=list(settings.cors_allow_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", *_MCP_HEADERS],
            expose_headers=["*"],
        )
    connections = Connections(
        ConnectionLimits(
            header_timeout=settings.header_timeout,
            body_timeout=settings.body_timeout,
            answer_pace=PaceLimits(credit=settings.write_timeout),
            connections=_room_for(4 * settings.max_concurrent_requests + 64),
        )
    )
    return uvicorn.Config(
        application,
        http=cast(
            type[asyncio.Protocol], partial(BoundedProtocol, connections)
        ),  # uvicorn calls this as it would call a class
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # any client can cause uvicorn's warnings, as often as it likes
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=int(settings.keep_alive),
        timeout_graceful_shutdown=int(settings.drain_timeout),
    )


def _room_for(connections: int) -> int:
    """The wanted connections, or as many as the limit of open files allows. The limit is raised first, if possible."""
    if sys.platform == "win32":
        return connections
    import resource  # not on Windows

    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return connections if soft == resource.RLIM_INFINITY else max(16, min(connections, soft - _OTHER_FILES))


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def logger(*, json_output: bool) -> Log:
    """A logger of lines on stderr, as JSON objects if asked for."""

    def log(message: str) -> None:
        line = json.dumps({"level": "INFO", "message": message}) if json_output else message
        write_line(sys.stderr, line)

    return log
