"""Records that stay in their file: each is read when it is asked for."""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import IO, Generic, TypeAlias, TypeVar

import numpy as np

from embedfit.numerics.arrays import Ints
from embedfit.numerics.on_demand import OnDemand

Data: TypeAlias = bytes | mmap.mmap
T = TypeVar("T")
U = TypeVar("U")


class Lines(OnDemand[T]):
    """N records of a file of lines. In memory are 16 bytes a record."""

    def __init__(self, data: Data, starts: Ints, stops: Ints, decode: Callable[[bytes], T]) -> None:
        """starts, stops: (N,) where each record's bytes lie in the data. decode: makes a record of its bytes."""
        self._data, self._starts, self._stops, self._decode = data, starts, stops, decode

    def __len__(self) -> int:
        return len(self._starts)

    def item(self, place: int) -> T:
        """The record at a place."""
        start, stop = int(self._starts[place]), int(self._stops[place])
        return self._decode(self._data[start:stop])

    def __iter__(self) -> Iterator[T]:
        return (self[place] for place in range(len(self)))

    def map(self, function: Callable[[T], U]) -> Lines[U]:
        """What a function makes of each record, when it is asked for."""
        decode = self._decode
        return Lines(self._data, self._starts, self._stops, lambda line: function(decode(line)))

    def at(self, places: Ints | Sequence[int]) -> Lines[T]:
        """The records at some places, in their order."""
        chosen = np.asarray(places, np.int64)
        return Lines(self._data, self._starts[chosen], self._stops[chosen], self._decode)

    def where(self, keep: Callable[[T], bool]) -> Lines[T]:
        """The records that are kept, in order."""
        return self.at([place for place, one in enumerate(self) if keep(one)])

    def by(self, key: Callable[[T], str]) -> Lines[T]:
        """The records by ascending key."""
        keys = [key(one) for one in self]
        if all(first <= second for first, second in pairwise(keys)):
            return self
        return self.at(sorted(range(len(keys)), key=keys.__getitem__))


class Growing(Generic[T]):
    """A file to which records are added, and then read as Lines."""

    def __init__(self, file: IO[bytes], decode: Callable[[bytes], T]) -> None:
        self._file, self._decode = file, decode
        self._starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, line: bytes) -> None:
        """Add a record's bytes."""
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))

    def lines(self) -> Lines[T]:
        """The records that were added so far."""
        self._file.flush()
        starts = np.array(self._starts, np.int64)
        return Lines(mapped(self._file), starts[:-1], starts[1:], self._decode)


def mapped(file: IO[bytes]) -> Data:
    """The bytes of a file, mapped into memory."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""
