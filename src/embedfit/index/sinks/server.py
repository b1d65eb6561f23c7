"""The URL of a server that answers by HTTP, and where an index lies there."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from embedfit.errors import UsageError
from embedfit.index.sinks.sink import shown

#: Room for "_", the 16 signs of a content and "_about" within the 255 bytes of a name.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_DEFAULT = "embedfit"
#: A load says that it is at work every so many seconds. One that was killed is at work for so many more.
_MARK_SECONDS, _ALIVE_SECONDS = 30, 600


@dataclass(frozen=True, slots=True)
class Place:
    """A server, and the name under which an index lies there.

    address: http:// or https://, host and port. user, secret: a user with a password, or a key alone; "" for none.
    shown: the URL without its secret. options: the further ones that follow "?".
    """

    address: str
    name: str
    shown: str
    user: str = ""
    secret: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is encrypted."""
        return self.address.startswith("https:")


def place_of(url: str, form: str, port: int, secret_from: str, known: Sequence[str] = ()) -> Place:
    """What SCHEME://[USER:SECRET@]HOST[:PORT][/NAME][?api_key=SECRET&tls=false] names.

    The connection is encrypted unless the host is this machine or tls=false. secret_from: the environment variable
    that holds the secret if the URL does not. known: names of further options. Raises UsageError, never with the
    secret.
    """
    wrong = UsageError(
        f"The address {shown(url)} can't be read.",
        remedy=f"Use {form}; write @ / : ? # in a password as %40 %2F %3A %3F %23, or give it in {secret_from}.",
    )
    login, at, rest = url.partition("://")[2].rpartition("@")
    user, colon, secret = login.partition(":")
    if (at and not colon) or re.search(r"[/?#]", login):
        raise UsageError(
            "The part of the address before @ must be USER:PASSWORD or :KEY.",
            remedy=f"Write @ / : ? # in a password as %40 %2F %3A %3F %23, or give it in {secret_from}.",
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, number = parts.hostname or "", parts.port or port
    except ValueError:
        raise wrong from None
    name = parts.path.strip("/") or _DEFAULT
    if not host or parts.fragment or not _NAME.fullmatch(name):
        raise wrong
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    tls = options.pop("tls", "").lower() or ("false" if _is_local(host) else "true")
    secret = unquote(secret) or options.pop("api_key", "") or os.environ.get(secret_from, "")
    if tls not in ("true", "false"):
        raise wrong
    unknown = sorted(options.keys() - set(known))
    if unknown:
        every = ", ".join(["api_key", "tls", *known])
        raise UsageError(f"{shown(url)} has an unknown option.", remedy=f"After ? these are known: {every}.")
    scheme, shown_host = "https" if tls == "true" else "http", f"[{host}]" if ":" in host else host
    return Place(f"{scheme}://{shown_host}:{number}", name, shown(url), unquote(user), secret, options)


class AtWork:
    """The sign that rows are being written. Other hand-overs do not drop them then: these servers have no lock.

    put: writes the time of the sign beside the rows.
    """

    def __init__(self, put: Callable[[float], object]) -> None:
        self._put = put
        self._last = 0.0

    def __enter__(self) -> AtWork:
        self.renew()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._put(0.0)
            return
        with suppress(Exception):  # the error that ended the work is the one to tell
            self._put(0.0)

    def renew(self) -> None:
        """Write the sign again if it is old."""
        if time.time() - self._last > _MARK_SECONDS:
            self._last = time.time()
            self._put(self._last)


def is_at_work(sign: object) -> bool:
    """Whether a sign that was read is fresh. The clocks of two machines may differ by minutes."""
    return isinstance(sign, (int, float)) and abs(time.time() - sign) < _ALIVE_SECONDS


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
