"""Near-duplicates among passages: those that share most of their runs of three words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from embedfit.numerics import near_duplicates
from embedfit.numerics.arrays import Hashes
from embedfit.retrieval.words import words

_RUN = 3


def clusters(texts: Sequence[str]) -> list[int]:
    """For each text the index of the first of its cluster: texts linked by near-duplicates, directly or not."""
    return near_duplicates.clusters([shingles(text) for text in texts])


def shingles(text: str) -> Hashes:
    """Hashes of the distinct runs of three words (dense letters), sorted. A shorter text is one run."""
    codes = [zlib.crc32(word.encode("utf-8", "replace")) for word in words(text)]
    return near_duplicates.runs(np.array(codes, np.uint64), _RUN)
