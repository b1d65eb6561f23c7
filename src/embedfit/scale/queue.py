"""The shards of one map: which is next, which must be done again, which failed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Generic

from embedfit.errors import EmbedfitError
from embedfit.scale.executor import Shard

#: How often a shard is given out whose workers end in the middle of it.
ATTEMPTS = 3
#: After so many failed shards the others are not tried: something is wrong with all of them.
MOST_FAILED = 8

Numbered = tuple[int, Shard]


class Queue(Generic[Shard]):
    """Gives out shards, one at a time and each with its number, until all are done or have failed."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._shards = iter(enumerate(shards))
        self._again: deque[Numbered[Shard]] = deque()
        self._attempts: Counter[int] = Counter()
        self._failed: list[tuple[str, BaseException]] = []

    def next(self) -> Numbered[Shard] | None:
        """A shard to do; None if there is none now."""
        return self._again.popleft() if self._again else next(self._shards, None)

    def is_empty(self) -> bool:
        """Whether there is no shard to do now."""
        if (numbered := self.next()) is not None:
            self.give_back(numbered)
        return numbered is None

    def give_back(self, numbered: Numbered[Shard]) -> None:
        """Take a shard back that nobody began."""
        self._again.appendleft(numbered)

    def is_suspect(self, numbered: Numbered[Shard]) -> bool:
        """Whether a worker ended that had this shard."""
        return self._attempts[numbered[0]] > 0

    def lost(self, numbered: Numbered[Shard], reason: str) -> None:
        """Take a shard back whose worker ended. Raises as `failed` if that happened too often."""
        number, shard = numbered
        self._attempts[number] += 1
        if self._attempts[number] < ATTEMPTS:
            self._again.append(numbered)
            return
        self.failed(
            shard,
            EmbedfitError(
                f"{reason}, {ATTEMPTS} times",
                remedy="Where memory is short, let fewer work at once: --workers 1. What is done is kept.",
            ),
        )

    def failed(self, shard: Shard, error: BaseException) -> None:
        """Note the error of a shard. Raises it if too many have failed."""
        self._failed.append((str(shard), error))
        if len(self._failed) == MOST_FAILED:
            self.end()

    def end(self) -> None:
        """Raise the first error, with the names of all shards that failed."""
        if not self._failed:
            return
        name, error = self._failed[0]
        if isinstance(error, EmbedfitError):
            others = [_short(other) for other, _ in self._failed[1:]]
            error.message = f"{_short(name)}: {error.message}"
            if others:
                error.message += f" ({len(others)} more failed: {', '.join(others)})"
        raise error


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:199]}…"
