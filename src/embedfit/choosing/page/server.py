"""The server of the grading page, for one person on this machine."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from embedfit.choosing.page.session import Session
from embedfit.errors import MissingDependency, ServingError

HOST = "127.0.0.1"


def serve(session: Session, *, port: int, token: str, opened: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. port: 0 takes a free one. opened: gets the address. Raises ServingError."""
    try:
        import uvicorn  # an extra

        from embedfit.choosing.page.app import application
    except ImportError as error:
        raise MissingDependency("starlette or uvicorn", extra="serve", needed_for="The grading page") from error
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise ServingError(
            f"{HOST}:{port} can't be opened: {error.strerror or error}.",
            remedy="Give another --port (0: any free one).",
        ) from error
    with listener:
        config = uvicorn.Config(
            application(session, token),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=64,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=3,
        )
        # uvicorn hands a signal on to the handler that it found; here its own end is the whole of it.
        previous = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
        opened(f"http://{HOST}:{listener.getsockname()[1]}/{token}/")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _ignore(_number: int, _frame: object) -> None:
    pass
