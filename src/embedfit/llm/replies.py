"""What every provider's replies go through."""

from __future__ import annotations

from collections.abc import Iterable


def cut_at_stop(text: str, stop: Iterable[str]) -> tuple[str, bool]:
    """(the text before the first stop string, whether there was one): for servers that know none or few."""
    ends = [at for at in (text.find(end) for end in stop if end) if at >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
