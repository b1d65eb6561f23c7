"""The passages of a batch that may not be negatives of a query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from embedfit.numerics.arrays import Bools, Floats, Ints
from embedfit.numerics.near_duplicates import clusters, runs
from embedfit.training.store import Example, TokenStore

_RUN = 5


def known_positives(examples: Sequence[Example], twins: Mapping[int, Sequence[int]]) -> list[frozenset[int]]:
    """For each example, every passage that is known to answer its query.

    These are the positives of all examples with its query, the passages that other examples list beside one of its
    positives (passages of one group), and the near-duplicates of them all.
    """
    by_query: dict[int, set[int]] = defaultdict(set)
    groups: dict[int, set[int]] = defaultdict(set)
    for example in examples:
        by_query[example.query].update(example.positives)
        for positive in example.positives:
            groups[positive].update(example.positives)
    result = []
    for example in examples:
        direct = by_query[example.query].union(*(groups[positive] for positive in example.positives))
        result.append(frozenset(direct.union(*(twins.get(passage, ()) for passage in direct))))
    return result


def near_duplicates(store: TokenStore, texts: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Texts that share most of their runs of five tokens, directly or by way of others: text → the others.

    Special tokens at the ends are left out.
    """
    firsts = clusters([runs(store[text][1:-1].astype(np.uint64), _RUN) for text in texts])
    members: dict[int, list[int]] = defaultdict(list)
    for text, first in zip(texts, firsts, strict=True):
        members[first].append(text)
    return {
        text: tuple(other for other in together if other != text)
        for together in members.values()
        if len(together) > 1
        for text in together
    }


def guide_allows(queries: Floats, passages: Floats, positive: Ints, margin: float) -> Bools:
    """GIST's rule (arXiv 2402.16829): a negative that the guide scores close to the positive is no negative.

    queries: (B, H), passages: (P, H): unit rows by the guide. positive: (B,) columns. Returns (B, P):
    whether the passage scores at most (1 - margin) × the positive.
    """
    scores = queries @ passages.T
    threshold = (1 - margin) * scores[np.arange(len(queries)), positive]
    result: Bools = scores <= threshold[:, None]
    return result
