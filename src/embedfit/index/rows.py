"""Vectors of passages as an index stores them: one or several rows each, and their products with queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from embedfit.numerics import arrays
from embedfit.numerics.arrays import Bytes, Floats, Halves, Ints

#: Rows that are turned into float32 at a time.
_BLOCK = 16_384
#: Rows whose conversion stays in a core's cache.
_IN_CACHE = 512
_HALF = 2.0**-11  # the most by which rounding to float16 changes a number, as a share of it
_SIGN_AND_NUMBER = np.int32(-0x70002000)  # the bits of a half, moved: not the sign's copies beside it
_OTHER_EXPONENT = np.float32(2.0**112)
_SMALLEST_HALF = 2.0**-25  # the same for numbers near 0


def to_halves(rows: arrays.Rows) -> Halves:
    """Rows (N, H) in float16. They are read block by block, so that both forms are never in memory as a whole."""
    result = np.empty(rows.shape, np.float16)
    for start in range(0, len(rows), _BLOCK):
        result[start : start + _BLOCK] = rows[start : start + _BLOCK]
    return result


def to_floats(rows: Halves, result: Floats | None = None) -> Floats:
    """Finite numbers (R, H) of half precision in float32, exactly; result: (R, H), where to write them.

    numpy's own conversion takes six times as long. The bits of a half, moved into a float's places, are 2^-112 times
    the number.
    """
    result = np.empty(rows.shape, np.float32) if result is None else result
    for start in range(0, len(rows), _IN_CACHE):
        part = slice(start, start + _IN_CACHE)
        bits = result[part].view(np.int32)
        np.left_shift(rows[part].view(np.int16), 13, out=bits, dtype=np.int32)
        bits &= _SIGN_AND_NUMBER
        result[part] *= _OTHER_EXPONENT
    return result


def starts_of(sizes: npt.ArrayLike) -> Ints:
    """The first place of each of N runs with these sizes, then the end of the last one: (N + 1,)."""
    return np.append(0, np.cumsum(sizes)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Several vectors of each of N passages.

    vectors: (R, H) float16 unit rows, passage by passage. starts: (N + 1,) the first row of each passage, then R.
    """

    vectors: Halves
    starts: Ints

    def best(self, queries: Floats, otherwise: Floats | None) -> Floats:
        """The highest cosine of each passage's rows. queries: (Q, H); returns (Q, N).

        otherwise: (Q, N), the scores of passages that have no row; None: -1.
        """
        return best_of(cosines(queries, self.vectors), self.starts, otherwise)

    def some(self, passages: Ints) -> Rows:
        """The rows of passages (G,) alone, in their order."""
        counts = self.starts[passages + 1] - self.starts[passages]
        starts = starts_of(counts)
        places = np.repeat(self.starts[passages] - starts[:-1], counts) + np.arange(starts[-1])
        return Rows(self.vectors[places], starts)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token vectors of N passages.

    vectors: (T, D) int8, each row scaled to its largest value. starts: (N + 1,) the first token of each passage,
    then T.
    """

    vectors: Bytes
    starts: Ints

    def best(self, queries: Floats, passages: Ints) -> Floats:
        """The highest cosine of each passage's tokens with each row. queries: (L, D); passages: (G,); gives (L, G).

        A passage without tokens has 0.
        """
        found = [self.vectors[self.starts[one] : self.starts[one + 1]] for one in passages.tolist()]
        counts = np.array([len(one) for one in found], np.int64)
        best = np.zeros((len(queries), len(found)), np.float32)
        own = np.flatnonzero(counts)
        if len(own):
            rows = np.concatenate(found).astype(np.float32)
            scores = product(queries, rows.T)
            # The lengths divide the few products, not the many numbers of the rows.
            scores /= np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), np.float32(1e-9))
            # The starts of passages that have tokens rise strictly, as reduceat wants them.
            best[:, own] = np.maximum.reduceat(scores, (np.cumsum(counts) - counts)[own], axis=1)
        return best


def product(left: Floats, right: Floats) -> Floats:
    """The matrix product: (A, H) and (H, B) or (H,) give (A, B) or (A,).

    It is numpy's, also where torch is loaded, so that a server without torch adds as an evaluation does. The command
    line keeps the threads of numpy's library from waiting by spinning, which would hold the cores that the model wants.
    """
    result: Floats = left @ right
    return result


def cosines(queries: Floats, rows: Halves | Floats) -> Floats:
    """Inner products of queries (Q, H) and rows (R, H), in float32: (Q, R)."""
    result = np.empty((len(queries), len(rows)), np.float32)
    block = np.empty((min(_BLOCK, len(rows)), rows.shape[1]), np.float32)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        result[:, start : start + _BLOCK] = product(queries, _in_floats(part, block[: len(part)]).T)
    return result


def _in_floats(rows: Halves | Floats, room: Floats) -> Floats:
    """Rows in float32: themselves if they are, else converted into the room."""
    return cast(Floats, rows) if rows.dtype == np.float32 else to_floats(cast(Halves, rows), room)


def best_of(scores: Floats, starts: Ints, otherwise: Floats | None) -> Floats:
    """The best score of each passage's rows. scores: (Q, R) of all rows; starts: (N + 1,) as in Rows; gives (Q, N).

    otherwise: (Q, N), the scores of passages that have no row; None: -1.
    """
    own = np.flatnonzero(np.diff(starts))
    if otherwise is None:
        result = np.full((len(scores), len(starts) - 1), -1.0, np.float32)
    else:
        result = otherwise.copy()
    if len(own):
        # The starts of passages that have rows rise strictly, as reduceat wants them.
        result[:, own] = np.maximum.reduceat(scores, starts[own], axis=1)
    return result


class RoughQuery:
    """A query whose cosines with float16 rows need no conversion and take a fifth of the time of the function cosines.

    torch multiplies them: numpy has no such product. Searches of large indexes alone load it.
    error: the largest error of a cosine. The query is rounded to float16, sums run in float32, results are rounded.
    """

    def __init__(self, query: Floats) -> None:
        """query: (H,)."""
        import torch  # slow to import

        self._query = torch.from_numpy(query).half()
        width = len(query)
        row = 1 + _HALF + width**0.5 * _SMALLEST_HALF  # the length of a unit row that was rounded
        length = float(np.linalg.norm(query))
        rounding = float(np.linalg.norm(query - self._query.float().numpy()))
        self.error = row * (rounding + length * (_HALF + width * 2.0**-22)) + _SMALLEST_HALF

    def cosines(self, rows: Halves) -> Floats:
        """Inner products with rows (R, H): (R,)."""
        import torch  # see __init__

        result: Floats = torch.mv(torch.from_numpy(rows), self._query).float().numpy()
        return result
