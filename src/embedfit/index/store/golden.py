"""Golden answers: a few queries with the passages that an index found when it was built, which prove it later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from embedfit.index.constants import stand_ins
from embedfit.index.retriever import Retriever
from embedfit.index.scoring import Asked, Parts, Scores, find
from embedfit.index.store.manifest import Golden
from embedfit.numerics.arrays import Floats

_QUERIES, _DEPTH = 8, 10
#: The least share of the golden answers that must be found again. Half precision swaps neighbours at the tenth place.
LEAST_SAME = 0.95
#: The least share with which a server starts. Another precision swaps a few neighbours; a wrong model finds a tenth.
LEAST_SERVED = 0.8
Embed = Callable[[Sequence[str]], Floats]


def golden_of(parts: Parts, retriever: Retriever, contents: Sequence[str], embed: Embed) -> tuple[Golden, ...]:
    """What the first stage finds for sentences of some passages. People's questions stay out of an index."""
    texts = stand_ins(contents)[0][:_QUERIES]
    return tuple(
        Golden(query=text, passages=tuple(found))
        for text, found in zip(texts, _found(parts, retriever, texts, embed(texts)), strict=True)
    )


def share_found(parts: Parts, retriever: Retriever, golden: Sequence[Golden], vectors: Floats) -> float:
    """The mean share of the golden answers that are found with some vectors of the queries: (Q, H)."""
    found = _found(parts, retriever, [one.query for one in golden], vectors)
    shares = [len({*one.passages} & {*own}) / max(1, len(one.passages)) for one, own in zip(golden, found, strict=True)]
    return float(np.mean(shares)) if shares else 1.0


def _found(parts: Parts, retriever: Retriever, texts: Sequence[str], vectors: Floats) -> list[list[int]]:
    """Exact, also in an index with approximate lists."""
    exact = replace(parts, near=None, tokens=None)
    ranked = find(Scores(exact, Asked(texts=texts, vectors=vectors)), retriever.without_tokens(), _DEPTH)
    return [one.passages.tolist() for one in ranked]
