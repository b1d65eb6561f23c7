"""Which passages say nearly the same: MinHash finds the pairs to look at, the exact Jaccard index decides."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedfit.retrieval.words import words

#: Passages whose shingle sets have at least this Jaccard index are near-duplicates.
THRESHOLD = 0.8
_SHINGLE = 3
_BANDS, _ROWS = 16, 4

Hashes = npt.NDArray[np.uint64]


def shingles(text: str) -> Hashes:
    """Hashes of the distinct runs of three words (dense letters), sorted. A shorter text is one shingle."""
    found = words(text)
    codes = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in found], np.uint64)
    if len(codes) < _SHINGLE:
        return np.array([zlib.crc32(" ".join(found).encode("utf-8", "replace"))], np.uint64)
    mixed = codes[:-2] * np.uint64(0x9E3779B97F4A7C15) + codes[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F) + codes[2:]
    return np.unique(mixed)


def jaccard(first: Hashes, second: Hashes) -> float:
    """Share of two sorted sets that both have."""
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def clusters(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """For each text the index of the first of its cluster: texts linked by near-duplicates, directly or not."""
    sets = [shingles(text) for text in texts]
    parent = list(range(len(texts)))

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
    return [root(index) for index in range(len(texts))]


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
    rng = np.random.default_rng(20240229)  # fixed: whether two texts are compared must not depend on the run
    count = _BANDS * _ROWS
    factors = rng.integers(1, 1 << 63, count, np.uint64) | np.uint64(1)
    offsets = rng.integers(0, 1 << 63, count, np.uint64)
    result = np.empty((len(sets), count), np.uint64)
    for index, values in enumerate(sets):
        mixed = values[:, None] * factors[None, :] + offsets[None, :]
        result[index] = (mixed ^ (mixed >> np.uint64(29))).min(axis=0)
    return result
