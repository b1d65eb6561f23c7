"""The page at `/` that tries the search: one answer, which needs nothing from another address."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources

Headers = tuple[tuple[bytes, bytes], ...]


@lru_cache(1)
def search_page() -> tuple[bytes, Headers]:
    """The page and its headers. Its policy lets run its own script and style alone, and ask this server alone."""
    style, script = _asset("search.css"), _asset("search.js")
    page = _asset("search.html").replace("/* search.css */", style).replace("/* search.js */", script)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return page.encode(), tuple((name.encode(), value.encode()) for name, value in headers.items())


def _asset(name: str) -> str:
    return resources.files("embedfit.serving").joinpath("templates", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
