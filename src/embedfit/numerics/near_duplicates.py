"""Texts that say nearly the same: MinHash finds the pairs to look at, the exact Jaccard index decides.

A text is the set of its runs of a few words, or tokens, each a hash (Broder 1997).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np

from embedfit.numerics.arrays import Hashes, Ints, Vectors

#: Texts whose sets of runs have at least this Jaccard index are near-duplicates.
SAME_RUNS = 0.8
#: Above this cosine two texts say the same.
SAME_COSINE = 0.95

#: Bands of MinHashes: sets that agree in one of them are compared.
BANDS = 16
_ROWS = 4
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
    table = np.array([bands(one) for one in sets], np.uint64).reshape(len(sets), BANDS)
    found: list[int] = linked(len(sets), list(table.T), sets.__getitem__, threshold).tolist()
    return found


def linked(count: int, columns: Iterable[Hashes], get: Callable[[int], Hashes], threshold: float = SAME_RUNS) -> Ints:
    """The same for `count` sets of which only bands() are in memory: (count,).

    columns: (count,) of each band. get: makes a set again; only sets that agree in a band with another are asked for.
    """
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while (above := parent.get(index, index)) != index:
            parent[index] = parent.get(above, above)
            index = above
        return index

    for column in columns:
        for members in places_of_equal(column):
            own = None
            for other in members[1:]:
                a, b = root(members[0]), root(other)
                if a != b:
                    own = get(members[0]) if own is None else own
                    if jaccard(own, get(other)) >= threshold:
                        parent[max(a, b)] = min(a, b)
    result = np.arange(count)
    for index in parent:
        result[index] = root(index)
    return result


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


def places_of_equal(column: Hashes | Ints) -> Iterator[list[int]]:
    """The places, ascending, of each value that occurs more than once. column: (N,)."""
    order = np.argsort(column, kind="stable")
    ends = np.flatnonzero(np.diff(column[order])) + 1
    starts, stops = np.append(0, ends), np.append(ends, len(order))
    several = stops - starts > 1
    for start, stop in zip(starts[several].tolist(), stops[several].tolist(), strict=True):
        yield order[start:stop].tolist()


def bands(values: Hashes) -> Hashes:
    """A hash of each band of a set's MinHashes, (BANDS,). Sets that agree in one are looked at.

    A MinHash is the least of the set's values by multiply-add hashing modulo 2^64.
    """
    factors, offsets = _hashing()
    mixed = values[:, None] * factors[None, :] + offsets[None, :]
    least = (mixed ^ (mixed >> np.uint64(29))).min(axis=0).reshape(BANDS, _ROWS)
    return np.asarray((least * np.array(_FACTORS[:_ROWS], np.uint64)).sum(axis=1, dtype=np.uint64))


@cache
def _hashing() -> tuple[Hashes, Hashes]:
    rng = np.random.default_rng(20240229)  # a fixed seed: every run must compare the same pairs of texts
    count = BANDS * _ROWS
    return rng.integers(1, 1 << 63, count, np.uint64) | np.uint64(1), rng.integers(0, 1 << 63, count, np.uint64)
