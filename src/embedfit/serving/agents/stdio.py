"""MCP over standard input and output: a line is a message. Whatever else is printed goes to standard error."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, cast

import anyio
import mcp_types as types
import orjson
from mcp.server.stdio import stdio_server
from pydantic import ValidationError

from embedfit.errors import UsageError
from embedfit.serving.agents.protocol import server_of
from embedfit.serving.agents.tools import SECONDS, Tools
from embedfit.serving.edge.access import ANYBODY, Caller, keys_of
from embedfit.serving.loading import encode_by_graphs, graph_engine, proven
from embedfit.serving.search.query_log import query_log_of
from embedfit.serving.search.searcher import Searcher
from embedfit.serving.server import Loader
from embedfit.serving.settings import ServeSettings

if TYPE_CHECKING:
    from embedfit.index.search import Index

Log = Callable[[str], None]
_PIECE = 65_536


def serve_stdio(opened: Callable[[], Index], settings: ServeSettings, *, log: Log) -> None:
    """Answer messages until standard input ends, or SIGTERM or SIGINT. On SIGHUP the index is opened again.

    opened: opens the index, and may build it first; it runs beside the protocol, which answers at once. Raises its
    errors of the first time, and UsageError if --access is given without a key of it.
    """
    caller, query_log = _caller(settings), query_log_of(settings, searches=True, log=log)
    log("MCP on standard input and output, for an agent that starts this command; the index is being opened")
    with _only_the_protocol() as (source, sink):
        lines = _Lines(source, sink, settings.payload_limit)

        def made() -> Searcher:
            index = opened()
            encode_by_graphs(index, graph_engine(settings), log=log)
            return Searcher(index, query_log=query_log)

        asyncio.run(_serve(made, caller, lines, log))


def _caller(settings: ServeSettings) -> Caller:
    """Who asks: the one whose key is in the environment, because the client starts this process."""
    if settings.access is None:
        return ANYBODY
    key = settings.api_key
    own = settings.model_copy(update={"api_key": None})
    caller = None if key is None else keys_of(own, all_set=False).caller(key.encode())
    if caller is None:
        raise UsageError(
            f"--access {settings.access} asks for a key, and {'none is set' if key is None else 'has no such key'}.",
            remedy="Set EMBEDFIT_API_KEY to one of its keys, in the environment that the agent gives this command.",
        )
    return caller


async def _serve(made: Callable[[], Searcher], caller: Caller, lines: _Lines, log: Log) -> None:
    loop = asyncio.get_running_loop()
    current: asyncio.Future[Searcher] = loop.create_future()
    serving = asyncio.current_task()
    assert serving is not None
    stop = lines.gone = serving.cancel

    def settle(searcher: Searcher) -> None:
        nonlocal current
        if current.done():
            loop.call_later(SECONDS + 1, current.result().close)  # no call lasts so long
            current = loop.create_future()
        current.set_result(searcher)

    def load() -> None:
        searcher = made()
        searcher.findable(caller)  # raises if the key's filter does not fit the index
        searcher.warm_up()
        proven(searcher.index)
        log(f"ready: {len(searcher.index):,} passages of {searcher.index.stored.folder}, by MCP")
        with suppress(RuntimeError):  # the loop is closed: the client left before
            loop.call_soon_threadsafe(settle, searcher)

    # A failure that comes after the client has left finds the loop closed.
    loader = Loader(load, lambda **_: None, stop=lambda: _soon(loop, stop), log=log)
    for number, handler in _handlers(stop, loader.again).items():
        loop.add_signal_handler(number, handler)
    loader.start()
    server = server_of(Tools(lambda: asyncio.shield(current)), lambda _: caller)
    try:
        async with stdio_server(cast(anyio.AsyncFile[str], lines), cast(anyio.AsyncFile[str], lines)) as (taken, given):
            await server.run(taken, given, server.create_initialization_options())
    except asyncio.CancelledError:
        pass  # stopped by a signal, by a failure, or because the client reads no more
    finally:
        if current.done():
            searcher = current.result()
            searcher.close()
            if searcher.query_log is not None:
                searcher.query_log.close()
    if loader.failure is not None:
        raise loader.failure
    log("bye")
    if loader.is_loading:  # its libraries abort the process if it ends in the usual way while they load
        os._exit(0)


def _handlers(stop: Callable[[], object], reload: Callable[[], None]) -> dict[int, Callable[[], object]]:
    handlers: dict[int, Callable[[], object]] = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = reload
    return handlers


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


@contextmanager
def _only_the_protocol() -> Iterator[tuple[int, int]]:
    """Descriptors of the real standard input and output.

    Meanwhile what this process and its libraries print goes to standard error, and what they read is empty.
    """
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    sys.stdout.flush()
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    try:
        yield source, sink
    finally:
        sys.stdout.flush()
        os.dup2(sink, 1)
        os.close(nothing)  # `source` stays open: a thread may still read from it


class _Lines:
    """Standard input and output as the protocol's package reads and writes them.

    It gives the package only lines that are messages, and answers the others itself. While the client does not read, no
    further line is taken.
    """

    def __init__(self, source: int, sink: int, longest: int) -> None:
        self._source, self._sink, self._longest = source, sink, longest
        self._writing = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="stdout")
        #: Called when the client has closed standard output.
        self.gone: Callable[[], object] = lambda: None

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in self._lines():
            fault = "the message is too long" if line is None else _fault(line)
            if fault == "":
                async with self._writing:
                    pass
                yield cast(bytes, line).decode()
            elif fault is not None:
                await self.write(_refusal(line, fault))

    async def write(self, text: str) -> None:
        """Write a message with its line end."""
        async with self._writing:
            try:
                await asyncio.get_running_loop().run_in_executor(self._writer, self._write, text.encode())
            except BrokenPipeError:
                self.gone()

    async def flush(self) -> None:
        """Nothing waits."""

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._sink, content) :]

    async def _lines(self) -> AsyncIterator[bytes | None]:
        """Lines; None for one that is too long."""
        send, receive = anyio.create_memory_object_stream[bytes | None](0)
        loop = asyncio.get_running_loop()

        def deliver(line: bytes | None) -> None:
            asyncio.run_coroutine_threadsafe(send.send(line), loop).result()

        def read() -> None:
            # The loop is closed, or nobody receives any more: the server has ended.
            with suppress(RuntimeError, anyio.BrokenResourceError, CancelledError, OSError):
                for line in _split(self._source, self._longest):
                    deliver(line)
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(send.close)

        Thread(target=read, name="stdin", daemon=True).start()
        async with receive:
            async for line in receive:
                yield line


def _split(source: int, longest: int) -> Iterator[bytes | None]:
    """The lines of a descriptor; None for one that is longer than `longest` bytes, of which nothing is kept."""
    held, is_too_long = bytearray(), False
    while piece := os.read(source, _PIECE):
        *ended, rest = piece.split(b"\n")
        for end in ended:
            is_too_long = is_too_long or len(held) + len(end) > longest
            yield None if is_too_long else bytes(held + end)
            held, is_too_long = bytearray(), False
        is_too_long = is_too_long or len(held) + len(rest) > longest
        held = bytearray() if is_too_long else held + rest
    if held or is_too_long:
        yield None if is_too_long else bytes(held)


def _fault(line: bytes) -> str | None:
    """Why a line is no message; "" if it is one, None if it is blank."""
    if not line.strip():
        return None
    try:
        types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        return "the message is not JSON" if error.errors()[0]["type"] == "json_invalid" else "not a message of JSON-RPC"
    return ""


def _refusal(line: bytes | None, fault: str) -> str:
    """The protocol's error for a line that is no message, with the message's id if it has one."""
    number: object = None
    if line is not None and fault.startswith("not a"):
        with suppress(orjson.JSONDecodeError):
            message = orjson.loads(line)
            number = message.get("id") if isinstance(message, dict) else None
    code = types.PARSE_ERROR if "JSON" in fault and "RPC" not in fault else types.INVALID_REQUEST
    known = number if isinstance(number, (str, int)) and not isinstance(number, bool) else None
    answer = {"jsonrpc": "2.0", "id": known, "error": {"code": code, "message": fault}}
    return orjson.dumps(answer).decode() + "\n"
