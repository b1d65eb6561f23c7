"""The bytes that a retriever's parts take."""

from __future__ import annotations

import numpy as np

from embedfit.index.retriever import Retriever
from embedfit.index.scoring import Parts, Rows, Tokens
from embedfit.retrieval.bm25 import Bm25


def part_bytes(parts: Parts) -> dict[str, int]:
    """The size of each part that is there, by its name; "tokens" belongs to the second stage."""
    found: dict[str, int] = {}
    for name in ("one", "windows", "queries", "words", "words_and_queries", "tokens"):
        part: object = getattr(parts, name)
        if isinstance(part, (Rows, Tokens)):
            found[name] = part.vectors.nbytes + part.starts.nbytes
        elif isinstance(part, (np.ndarray, Bm25)):
            found[name] = part.nbytes
    return found


def bytes_a_passage(parts: Parts, retriever: Retriever) -> float:
    """The mean number of bytes that a retriever keeps for a passage.

    Windows need the one vectors too, because a passage of one window has no other.
    """
    names = {part.name for part in retriever.parts} | ({"tokens"} if retriever.rerank else set())
    if "windows" in names:
        names.add("one")
    each = part_bytes(parts)
    return sum(each.get(name, 0) for name in names) / max(1, parts.size)
