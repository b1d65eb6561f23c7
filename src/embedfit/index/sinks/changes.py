"""What a hand-over changes at a place that holds an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from embedfit.index.sinks.sink import Digest, Handover

#: A passage's number before and after, None where it is not, and whether it is the same there.
Match = tuple[int | None, int | None, bool]


@dataclass(slots=True)
class Changes:
    """How many passages a hand-over adds, changes, drops and leaves as they are."""

    new: int = 0
    changed: int = 0
    gone: int = 0
    same: int = 0

    def add(self, match: Match) -> None:
        """Count a passage."""
        was, number, is_same = match
        if was is None:
            self.new += 1
        elif number is None:
            self.gone += 1
        elif is_same:
            self.same += 1
        else:
            self.changed += 1

    def __str__(self) -> str:
        counts = f"{self.new:,} new, {self.changed:,} changed, {self.gone:,} gone, {self.same:,} the same"
        return f"passages since the last hand-over: {counts}"


def matched(before: Iterable[Digest], after: Iterable[Digest]) -> Iterator[Match]:
    """The passages of two indexes side by side. Both come in the order of their ids, and none is held in memory."""
    old, new = enumerate(before), enumerate(after)
    one, other = next(old, None), next(new, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[1].id < other[1].id):
            assert one is not None
            yield one[0], None, False
            one = next(old, None)
        elif one is None or other[1].id < one[1].id:
            yield None, other[0], False
            other = next(new, None)
        else:
            yield one[0], other[0], one[1] == other[1]
            one, other = next(old, None), next(new, None)


def say_changes(handover: Handover, before: Iterable[Digest]) -> None:
    """Tell the user what changes. before: of the earlier rows."""
    changes = Changes()
    for match in matched(before, handover.digests()):
        changes.add(match)
    handover.log(f"index: {changes}")
