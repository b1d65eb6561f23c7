"""One process that serves one model: socket, warm-up, drain."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, cast

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from embedfit.display.terminal import write_line
from embedfit.errors import EmbedfitError, ServingError
from embedfit.serving.answers import Answers
from embedfit.serving.app import App
from embedfit.serving.edge.access import keys_of
from embedfit.serving.edge.bodies import PaceLimits
from embedfit.serving.edge.limits import BoundedProtocol, ConnectionLimits, Connections
from embedfit.serving.loading import load_service, load_with_index
from embedfit.serving.proxy import MappedAnswers, open_upstream
from embedfit.serving.search.query_log import query_log_of
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

    On SIGHUP the model and its index are read again. The new ones take the place of the old ones together, between two
    requests; if they can't be read, the old ones stay.

    opened: opens the index that `model` names, and may build it first; None: `model` is a model alone.
    Raises ServingError if the port is taken, and the errors of loading the model.
    """
    keys, agents = keys_of(settings), _for_agents(settings)
    query_log = query_log_of(settings, searches=opened is not None, log=log)
    listener = listen(settings.host, settings.port)
    address = _url(listener)
    log(f"{address} is open; warming up {model}")
    if settings.api_key is None and settings.access is None and not _is_loopback(listener):
        log("No key is set: everybody who reaches this address can use the server. To ask for one: EMBEDFIT_API_KEY")

    mapped = MappedAnswers(settings) if settings.upstream is not None else None
    app = App(settings, searches=opened is not None, keys=keys, answers=mapped or agents)
    if query_log is not None:
        app.answers.metrics.watch(query_log)
    server = uvicorn.Server(_uvicorn_config(app, settings))

    def load() -> None:
        if mapped is not None:
            mapped.upstream = open_upstream(settings)
        elif opened is not None:
            app.answers.replace(load_with_index(opened, settings, keys, log=log, query_log=query_log))
        else:
            app.answers.replace(load_service(model, settings, log=log))
        shown = f"search: {address}/, " if app.answers.searches else ""
        shown += f"agents: {address}/mcp, " if settings.mcp else ""
        log(f"ready: {address} ({shown}docs: {address}/docs)")

    loader = Loader(load, app.answers.metrics.reloaded, stop=partial(setattr, server, "should_exit", True), log=log)
    # uvicorn passes a signal on to the handler that was set before; ours ignores it, so that only the drain runs.
    handlers: dict[int, Callable[..., None]] = {signal.SIGTERM: lambda *_: None, signal.SIGINT: lambda *_: None}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = hang_up_handler(loader.again)
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        loader.start()
        server.run(sockets=[listener])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        listener.close()
    if app.answers.service is not None:
        app.answers.service.close()
    if query_log is not None:
        query_log.close()
    if loader.failure is not None:
        raise loader.failure
    log("drained, bye")


def _for_agents(settings: ServeSettings) -> Answers | None:
    """The answers of a server with --mcp http; None for another."""
    if settings.mcp != "http":
        return None
    from embedfit.serving.agents.http import AgentAnswers  # an extra

    return AgentAnswers(settings, searches=True)


class Loader:
    """Loads what is served on a thread: at the start, and whenever again() asks for it.

    load: does it once. stop: called if the first load fails, whose error `failure` then is. reloaded: is told whether
    a later one worked. is_loading: whether a load runs.
    """

    def __init__(
        self, load: Callable[[], None], reloaded: Callable[..., None], *, stop: Callable[[], None], log: Log
    ) -> None:
        self.failure: BaseException | None = None
        self.is_loading = True
        self._load, self._reloaded, self._stop, self._log = load, reloaded, stop, log
        self._asked: SimpleQueue[None] = SimpleQueue()  # a signal's handler may put into it at any time

    def start(self) -> None:
        """Begin the first load."""
        # A daemon does not keep the process alive when the user stops it during warm-up.
        Thread(target=self._run, name="warm-up", daemon=True).start()

    def again(self) -> None:
        """Load again as soon as the present load has ended. Several calls in the meantime are one."""
        self._asked.put(None)

    def _run(self) -> None:
        """On the thread."""
        try:
            self._load()
        except BaseException as error:
            self.failure = error
            self.is_loading = False
            self._stop()
            return
        while True:
            self.is_loading = False
            self._asked.get()
            self.is_loading = True
            while not self._asked.empty():
                self._asked.get()
            self._log("loading again")
            try:
                self._load()
            except Exception as error:
                why = error.message if isinstance(error, EmbedfitError) else f"{type(error).__name__}: {error}"
                self._log(f"What was to be loaded can't be served, and the old stays: {why}")
                self._reloaded(worked=False)
            else:
                self._reloaded(worked=True)


def hang_up_handler(reload: Callable[[], None]) -> Callable[..., None]:
    """A handler of SIGHUP that reloads. If the terminal that the server was started in was closed, it ends instead."""
    terminal = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None

    def handle(*_: object) -> None:
        if terminal is not None and not os.isatty(terminal):
            signal.raise_signal(signal.SIGTERM)
        else:
            reload()

    return handle


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
