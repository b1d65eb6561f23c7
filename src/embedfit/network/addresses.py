"""Addresses of servers: which are local, to which a key may be sent, and the certificates that prove one."""

from __future__ import annotations

import ipaddress
import ssl
from functools import cache
from urllib.parse import SplitResult, urlsplit

from embedfit.errors import UsageError


def is_private_host(host: str) -> bool:
    """Whether a host is this machine or in the local network, so that nobody bills for its answers."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or "." not in host or host.endswith((".local", ".internal", ".lan"))
    return address.is_private or address.is_loopback


def checked_address(url: str, key: str, *, key_name: str, example: str) -> SplitResult:
    """A server's URL, taken apart.

    key: the key that is sent with every request, "" for none; key_name: its origin, for people. Raises UsageError for
    an address that is not HTTP, and if the key would travel unencrypted through the internet.
    """
    parts = _taken_apart(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{_shown(url)!r} is not an address.", remedy=f"For example: {example}")
    if key and parts.scheme == "http" and not is_private_host(parts.hostname):
        raise UsageError(
            f"{parts.hostname} is addressed by http, which would show the API key to everybody on the way.",
            remedy=f"Use https, or unset {key_name}.",
        )
    if not key.isascii():
        raise UsageError(f"{key_name} is not a key: it has letters outside ASCII.", remedy="Copy it again.")
    return parts


def _taken_apart(url: str) -> SplitResult | None:
    """The URL's parts; None if the host's brackets or the port are wrong."""
    try:
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


def _shown(url: str) -> str:
    """The URL without the user and password that may stand in it."""
    return url.rpartition("@")[2]


@cache
def certificates() -> ssl.SSLContext:
    """The certificates, read once, because reading them takes longer than a request."""
    import httpx  # an optional package

    return httpx.create_ssl_context()
