"""Log lines of long work: not too many, and none twice."""

from __future__ import annotations

import io

from embedfit.progress import LogLines


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(steps: list[tuple[float, float]], total: float = 10) -> list[str]:
    """The lines of a task that does an amount at each time."""
    stream, clock = io.StringIO(), Clock()
    with LogLines(stream, clock=clock).task("work", total, "texts") as task:
        for time, amount in steps:
            clock.now = time
            task.advance(amount)
    return stream.getvalue().splitlines()


def test_the_last_line_is_not_written_twice() -> None:
    assert lines_of([(5, 4), (12, 6)]) == ["work: 10/10 texts in 12 s (0.8/s)"]


def test_a_line_now_and_then_and_one_at_the_end() -> None:
    lines = lines_of([(11, 4), (12, 1), (15, 5)])
    assert [line.split(" in ")[0] for line in lines] == ["work: 4/10 texts", "work: 10/10 texts"]
    assert "left" in lines[0] and "left" not in lines[1]


def test_short_work_says_nothing() -> None:
    assert lines_of([(1, 10)]) == []
