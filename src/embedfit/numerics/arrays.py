"""The names of array types. Vectors, Scores and Floats are one type: the name says what the numbers are."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

#: Rows that stand for texts: (N, H).
Vectors = npt.NDArray[np.float32]
#: How well passages answer queries: (Q, N).
Scores = npt.NDArray[np.float32]
#: Other numbers of single precision.
Floats = npt.NDArray[np.float32]
#: Values of metrics and of statistics, which are summed over many queries.
Doubles = npt.NDArray[np.float64]
#: Numbers of passages, queries, tokens.
Ints = npt.NDArray[np.int64]
#: Token ids as they are stored.
Tokens = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Halves = npt.NDArray[np.float16]
Bytes = npt.NDArray[np.int8]
Hashes = npt.NDArray[np.uint64]


class Rows(Protocol):
    """Rows that stand for texts, (N, H), as an array or on a disk: they are in memory as far as they were asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | slice | Ints) -> Vectors:
        """Rows in memory, (n, H), or one row, (H,)."""
