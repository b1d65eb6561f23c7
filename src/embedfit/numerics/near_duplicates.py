"""Texts that say nearly the same: MinHash finds the pairs to look at, the exact Jaccard index decides.

A text is the set of its runs of a few words, or tokens, each a hash (Broder 1997).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from embedfit.numerics.arrays import Hashes, Ints, Vectors

#: Texts whose sets of runs have at least this Jaccard index are near-duplicates.
SAME_RUNS = 0.8
#: Above this cosine two texts say the same.
SAME_COSINE = 0.95

_BANDS, _ROWS = 16, 4
_FACTORS = (0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 1)
#: Cosines are held for so many rows and columns at a time.
_BLOCK, _COLUMNS = 1024, 65_536


def runs(codes: Hashes, width: int) -> Hashes:
    """Hashes of the distinct runs of `width` codes, at most 5, sorted. A shorter text is one run."""
    width = max(1, min(width, len(codes)))
    if not len(codes):
        return np.zeros(1, np.uint64)
    hashes = np.zeros(len(codes) - width + 1, np.uint64)
    for offset, factor in enumerate(_FACTORS[-width:]):
        hashes += codes[offset : offset + len(hashes)] * np.uint64(factor)
    return np.unique(hashes)


def jaccard(first: Hashes, second: Hashes) -> float:
    """Share of two sorted sets that both have."""
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def clusters(sets: Sequence[Hashes], threshold: float = SAME_RUNS) -> list[int]:
    """For each set the index of the first of its cluster: sets linked by near-duplicates, directly or not."""
    parent = list(range(len(sets)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for members in _candidates(sets):
        first = members[0]
        for other in members[1:]:
            a, b = root(first), root(other)
            if a != b and jaccard(sets[first], sets[other]) >= threshold:
                parent[max(a, b)] = min(a, b)
    return [root(index) for index in range(len(sets))]


def close_pairs(vectors: Vectors, cosine: float, of: Ints | None = None) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose cosine is at least the threshold, in both orders. vectors: (N, H) unit rows.

    of: (S,) only pairs whose first row is one of these are found, in time that is linear in N; None: all.
    """
    rows = np.arange(len(vectors)) if of is None else of
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        for first in range(0, len(vectors), _COLUMNS):
            near = vectors[some] @ vectors[first : first + _COLUMNS].T >= cosine
            places, columns = np.nonzero(near)
            for row, column in zip(some[places].tolist(), (columns + first).tolist(), strict=True):
                if row != column:
                    yield row, column


def _candidates(sets: Sequence[Hashes]) -> list[list[int]]:
    """Groups of indices that agree in a band of MinHashes."""
    signatures = _signatures(sets)
    groups: list[list[int]] = []
    for band in range(_BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, part in enumerate(signatures[:, band * _ROWS : (band + 1) * _ROWS]):
            buckets[part.tobytes()].append(index)
        groups += [members for members in buckets.values() if len(members) > 1]
    return groups


def _signatures(sets: Sequence[Hashes]) -> Hashes:
    """MinHashes, (number of sets, bands × rows), by multiply-add hashing modulo 2^64."""
    rng = np.random.default_rng(20240229)  # a fixed seed: every run must compare the same pairs of texts
    count = _BANDS * _ROWS
    factors = rng.integers(1, 1 << 63, count, np.uint64) | np.uint64(1)
    offsets = rng.integers(0, 1 << 63, count, np.uint64)
    result = np.empty((len(sets), count), np.uint64)
    for index, values in enumerate(sets):
        mixed = values[:, None] * factors[None, :] + offsets[None, :]
        result[index] = (mixed ^ (mixed >> np.uint64(29))).min(axis=0)
    return result
