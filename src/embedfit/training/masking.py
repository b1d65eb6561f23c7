"""Which passages of a batch may not be negatives of a query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedfit.training.store import Example, TokenStore

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_SHINGLE = 5
_SKETCH = 32
_BUCKET = 64


def known_positives(examples: Sequence[Example], twins: Mapping[int, Sequence[int]]) -> list[frozenset[int]]:
    """For each example, every passage that is known to answer its query.

    These are the positives of all examples with its query, what other examples list beside one of its
    positives (passages of one group), and near-duplicates of all of these.
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


def near_duplicates(store: TokenStore, texts: Sequence[int], *, similarity: float = 0.8) -> dict[int, tuple[int, ...]]:
    """Texts whose runs of five tokens are nearly the same: text → its near-duplicates, itself left out.

    The Jaccard similarity of the two sets of runs is estimated from bottom-k sketches (Broder 1997), so
    that the work grows with the number of texts and not with its square.
    """
    sketches = {text: _sketch(store[text]) for text in texts}
    buckets: dict[int, list[int]] = defaultdict(list)
    for text, sketch in sketches.items():
        for value in sketch:
            buckets[int(value)].append(text)
    # A run that very many passages hold (a footer) says nothing of two of them.
    pairs = {
        (members[i], members[j])
        for members in buckets.values()
        if 1 < len(members) <= _BUCKET
        for i in range(len(members))
        for j in range(i + 1, len(members))
    }
    twins: dict[int, list[int]] = defaultdict(list)
    for left, right in sorted(pairs):
        if jaccard(sketches[left], sketches[right]) >= similarity:
            twins[left].append(right)
            twins[right].append(left)
    return {text: tuple(others) for text, others in twins.items()}


def _sketch(tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """The smallest hashes of the text's runs of tokens, ascending, special tokens at the ends left out."""
    inner = tokens[1:-1].astype(np.uint64)
    width = min(_SHINGLE, len(inner))
    hashes = np.zeros(max(len(inner) - width + 1, 1), np.uint64)
    for offset in range(width):
        hashes = (hashes ^ inner[offset : offset + len(hashes)]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes)[:_SKETCH]


def jaccard(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> float:
    """Estimate of |A ∩ B| / |A ∪ B| from the sorted bottom-k sketches of A and B."""
    union = np.union1d(left, right)[:_SKETCH]
    both = np.intersect1d(left, right, assume_unique=True)
    return float(np.isin(union, both, assume_unique=True).mean()) if len(union) else 0.0


def guide_allows(queries: Floats, passages: Floats, positive: npt.NDArray[np.int64], margin: float) -> Bools:
    """GIST's rule (arXiv 2402.16829): a negative that the guide scores close to the positive is no negative.

    queries: (B, H), passages: (P, H): unit rows by the guide. positive: (B,) columns. Returns (B, P):
    whether the passage scores at most (1 - margin) × the positive.
    """
    scores = queries @ passages.T
    threshold = (1 - margin) * scores[np.arange(len(queries)), positive]
    result: Bools = scores <= threshold[:, None]
    return result
