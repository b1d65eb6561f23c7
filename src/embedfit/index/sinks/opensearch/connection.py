"""A connection to an OpenSearch server, and its errors as errors for people."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embedfit.errors import EmbedfitError, MissingDependency, UsageError
from embedfit.index.sinks import server
from embedfit.index.sinks.server import Place
from embedfit.index.sinks.sink import shown
from embedfit.network.aws import open_session

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

FORM, EXTRA = "opensearch://USER@HOST:9200/NAME", "stores"
SECRET = "OPENSEARCH_PASSWORD"  # the name of the variable
_TIMEOUT_SECONDS = 120
#: The region and the service of a host of Amazon's.
_AWS = re.compile(r"\.([a-z0-9-]+)\.(es|aoss)\.amazonaws\.com(?:\.cn)?(?=[:/?]|$)")
_AGAIN = "Run the same command again: what was loaded stays, and the load goes on. Readers see the old rows."


def place_of(url: str) -> Place:
    """A URL's server and name. Raises UsageError without any secret."""
    if importlib.util.find_spec("opensearchpy") is None:
        raise MissingDependency("opensearch-py", extra=EXTRA, needed_for="OpenSearch")
    of_aws = _AWS.search(url.rpartition("@")[2])
    if of_aws and of_aws[2] == "aoss":
        raise UsageError(
            f"{shown(url)} is Amazon OpenSearch Serverless, which gives vectors ids of its own; no index fits there.",
            remedy="Use a domain of Amazon OpenSearch Service: opensearch://NAME.REGION.es.amazonaws.com/NAME",
        )
    place = server.place_of(url, FORM, 443 if of_aws else 9200, SECRET, ("aws",))
    if of_aws and not place.user:
        place = replace(place, options={"aws": of_aws[1], **place.options})
    return place


def _login(place: Place) -> Any:  # noqa: ANN401 - what opensearch-py takes: a pair, or a function that signs
    """A user and password, or a signature by the AWS credentials of this machine. Raises UsageError without those."""
    region = place.options.get("aws")
    if not region:
        return (place.user, place.secret) if place.user else None
    from opensearchpy import Urllib3AWSV4SignerAuth

    credentials = open_session(region, needed_for="Amazon OpenSearch Service").get_credentials()
    if credentials is None:
        raise UsageError(
            f"{place.shown} asks for requests that AWS credentials sign, and this machine has none.",
            remedy="Run: aws configure; or write opensearch://USER@HOST/NAME.",
        )
    return Urllib3AWSV4SignerAuth(credentials, region, "es")


def connected(place: Place) -> OpenSearch:
    """A connection. Nothing is asked yet."""
    from opensearchpy import OpenSearch

    parts = urlsplit(place.address)
    return OpenSearch(
        hosts=[{"host": parts.hostname, "port": parts.port}],
        http_auth=_login(place),
        use_ssl=place.is_encrypted,
        timeout=_TIMEOUT_SECONDS,
        max_retries=2,
    )


@contextmanager
def opened(place: Place) -> Iterator[OpenSearch]:
    """A connection that is closed at the end, with the server's errors as ours."""
    client = connected(place)
    try:
        with errors_of(place):
            yield client
    finally:
        client.close()


@contextmanager
def errors_of(place: Place) -> Iterator[None]:
    """The server's errors as ours."""
    from opensearchpy.exceptions import ConnectionError as NoConnection
    from opensearchpy.exceptions import SerializationError, TransportError

    try:
        yield
    except NoConnection as error:
        text, remedy = f"the connection failed or was lost ({_short(error.error)}).", _AGAIN
    except TransportError as error:
        text, remedy = explained(int(error.status_code), f"{error.error}: {_reason(error.info)}", place)
    except (SerializationError, AttributeError):  # opensearch-py reads an error's JSON as an object, whatever it is
        text, remedy = "the answer is not OpenSearch's.", "Look at the address and its port."
    else:
        return
    raise EmbedfitError(f"{place.shown}: {text}", remedy=remedy) from None


def _reason(info: object) -> str:
    error = info.get("error") if isinstance(info, dict) else info
    return str(error.get("reason", error)) if isinstance(error, dict) else str(error)


def _short(text: object) -> str:
    return " ".join(str(text).split())[:300]


def explained(status: int, said: str, place: Place) -> tuple[str, str]:
    """What an answer of the server, or of an item of a load, means, and what to do."""
    said = _short(said)
    if status in (401, 403) and "block" not in said:
        if place.options.get("aws"):
            return (
                f"the server refuses this machine's AWS identity ({said}).",
                "Look who it is: aws sts get-caller-identity; then let it write in the domain's access policy.",
            )
        who = f"refuses the user {place.user}" if place.user else "asks for a user"
        return f"the server {who} ({said}).", f"Write opensearch://USER@HOST/NAME, and the password into {SECRET}."
    if "flood" in said or "watermark" in said or "No space left" in said:
        return f"the server's disk is full ({said}).", f"Free some space. {_AGAIN}"
    if status == 429:
        return f"the server is overloaded ({said}).", f"Wait a little. {_AGAIN}"
    if "dimension" in said.lower():
        return (
            f"the vectors don't fit the index ({said}).",
            "Delete the index that somebody changed, and run the command again.",
        )
    return f"the server refused: {said} (HTTP {status}).", _AGAIN
