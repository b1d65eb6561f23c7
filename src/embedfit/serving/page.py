"""The page at `/` that tries the search: one answer, which needs nothing from another address."""

from __future__ import annotations

from embedfit.display.pages import whole_page


def search_page() -> tuple[bytes, dict[str, str]]:
    """The page and its headers. Its policy lets run its own script and style alone, and ask this server alone."""
    page, policy = whole_page("embedfit.serving", "search")
    return page, {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
