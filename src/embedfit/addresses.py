"""Which hosts are this machine or in the local network."""

from __future__ import annotations

import ipaddress


def is_private_host(host: str) -> bool:
    """Whether a host is this machine or in the local network, so that nobody bills for what it answers."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or "." not in host or host.endswith((".local", ".internal", ".lan"))
    return address.is_private or address.is_loopback
