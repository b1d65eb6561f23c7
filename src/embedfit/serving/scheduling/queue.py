"""Rows that wait for the engine, by age and by length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from embedfit.serving.scheduling.packing import next_batch

Row = TypeVar("Row")


class LengthQueue(Generic[Row]):
    """First in, first out within a length; next_batch() decides across lengths.

    Nothing here waits or knows about threads.
    """

    def __init__(self) -> None:
        self._rows: dict[int, deque[tuple[int, Row]]] = {}
        self._arrivals = 0
        self.rows = 0
        self.tokens = 0

    def push(self, row: Row, length: int) -> None:
        """Add a row of so many tokens."""
        self._rows.setdefault(length, deque()).append((self._arrivals, row))
        self._arrivals += 1
        self.rows += 1
        self.tokens += length

    def pop_batch(self, *, budget: int, max_rows: int, overhead: int) -> list[Row]:
        """Remove and return the next batch, the oldest row first. Empty: no row waits."""
        if not self._rows:
            return []
        oldest = min(self._rows, key=lambda length: self._rows[length][0][0])
        waiting = {length: len(rows) for length, rows in self._rows.items()}
        batch: list[Row] = []
        for length, count in next_batch(waiting, oldest, budget=budget, max_rows=max_rows, overhead=overhead).items():
            rows = self._rows[length]
            batch.extend(rows.popleft()[1] for _ in range(count))
            if not rows:
                del self._rows[length]
            self.rows -= count
            self.tokens -= length * count
        return batch

    def drop(self, unwanted: set[Row]) -> int:
        """Remove rows whose request has ended. Returns their number."""
        dropped = 0
        for length in list(self._rows):
            kept = deque(entry for entry in self._rows[length] if entry[1] not in unwanted)
            gone = len(self._rows[length]) - len(kept)
            if not gone:
                continue
            dropped += gone
            self.rows -= gone
            self.tokens -= gone * length
            if kept:
                self._rows[length] = kept
            else:
                del self._rows[length]
        return dropped

    def __iter__(self) -> Iterator[Row]:
        for rows in self._rows.values():
            yield from (row for _, row in rows)
