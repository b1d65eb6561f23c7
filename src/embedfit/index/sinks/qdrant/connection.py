"""A connection to a Qdrant server, and its errors as errors for people."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedfit.errors import EmbedfitError, MissingDependency, first_line
from embedfit.index.sinks import server
from embedfit.index.sinks.server import Place

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

FORM, EXTRA = "qdrant://HOST:6333/NAME", "stores"
SECRET = "QDRANT_API_KEY"  # the name of the variable
_TIMEOUT_SECONDS = 120
_AGAIN = "Run the same command again: what was loaded stays, and the load goes on. Readers see the old rows."


def place_of(url: str) -> Place:
    """A URL's server and name. Raises UsageError without any secret."""
    if importlib.util.find_spec("qdrant_client") is None:
        raise MissingDependency("qdrant-client", extra=EXTRA, needed_for="Qdrant")
    return server.place_of(url, FORM, 6333, SECRET)


@contextmanager
def opened(place: Place) -> Iterator[QdrantClient]:
    """A connection that is closed at the end, with the server's errors as ours."""
    client = connected(place)
    try:
        with errors_of(place):
            yield client
    finally:
        client.close()


def connected(place: Place) -> QdrantClient:
    """A connection. Nothing is asked yet."""
    from qdrant_client import QdrantClient

    with warnings.catch_warnings():  # tls=false in the URL is the user's answer to the warning of an open connection
        warnings.simplefilter("ignore")
        return QdrantClient(
            url=place.address, api_key=place.secret or None, timeout=_TIMEOUT_SECONDS, check_compatibility=False
        )


@contextmanager
def errors_of(place: Place) -> Iterator[None]:
    """The server's errors as ours."""
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        text, remedy = _explained(error.status_code or 0, _said(error.content), place)
    except ResourceExhaustedResponse as error:
        text, remedy = f"the server is overloaded ({first_line(error)}).", f"Wait a little. {_AGAIN}"
    except ResponseHandlingException as error:
        text, remedy = f"the connection failed or was lost ({first_line(error.source)}).", _AGAIN
    else:
        return
    raise EmbedfitError(f"{place.shown}: {text}", remedy=remedy) from None


def _said(content: bytes) -> str:
    """What the server said, shortened."""
    try:
        text = str(json.loads(content)["status"]["error"])
    except (ValueError, TypeError, KeyError):
        text = content[:200].decode("utf-8", "replace")
    return " ".join(text.split())[:300]


def _explained(status: int, said: str, place: Place) -> tuple[str, str]:
    if status in (401, 403):
        key = "refuses the API key" if place.secret else "asks for an API key"
        return f"the server {key} ({said}).", f"Give a key that may write in {SECRET}, and run the command again."
    if status == 429:
        return f"the server is overloaded ({said}).", f"Wait a little. {_AGAIN}"
    if status == 507 or "no space left" in said.lower() or "disk" in said.lower():
        return f"the server's disk is full ({said}).", f"Free some space. {_AGAIN}"
    if "dimension" in said.lower():
        return (
            f"the vectors don't fit the collection ({said}).",
            "Delete the collection that somebody changed, and run the command again.",
        )
    return f"the server refused: {said} (HTTP {status}).", _AGAIN
