"""The display of the demo: headings with the time that is left; the stages' own lines go to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from embedfit.numerics.machine import gemm_rate
from embedfit.progress import Reporter, Task, duration

#: FLOP/s of fp32 products on the machine on which the parts were timed: two cores with AVX2.
_REFERENCE = 1.1e11


class Details:
    """A display that shows bars and writes lines to a file, because a newcomer needs few of them."""

    def __init__(self, shown: Reporter, file: Path) -> None:
        self._shown, self._file = shown, file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("", "utf-8")

    def log(self, message: str) -> None:
        """Append the line to the file."""
        with self._file.open("a", encoding="utf-8", errors="replace") as file:
            file.write(message + "\n")

    def task(self, description: str, total: float, unit: str = "") -> AbstractContextManager[Task]:
        """The task of the display itself."""
        return self._shown.task(description, total, unit)


def machine_pace() -> float:
    """How long this machine takes for a second of the machine on which the parts were timed; a first guess."""
    return min(5.0, max(0.2, _REFERENCE / gemm_rate("fp32")))


@dataclass(kw_only=True)
class Headings:
    """Announces each part with the time that is left, and times it.

    parts: the seconds of each part on the reference machine, by title. pace: this machine's seconds for one of those;
    after the first part its real time says more. took: seconds of the parts that have ended.
    """

    report: Reporter
    parts: Mapping[str, float]
    pace: float
    clock: Callable[[], float] = time.monotonic
    took: dict[str, float] = field(default_factory=dict)
    _running: tuple[str, float] | None = None

    def begin(self, title: str) -> None:
        """End the part before, and announce the next one."""
        self.end()
        names = list(self.parts)
        place = names.index(title)
        left = sum(self.parts[name] for name in names[place:]) * self._pace_now()
        self.report.log(f"\n{place + 1}/{len(names)}  {title}: about {duration(max(10, round(left, -1)))} left in all")
        self._running = title, self.clock()

    def end(self) -> None:
        """End the part that runs."""
        if self._running is not None:
            title, began = self._running
            self.took[title] = self.clock() - began
            self._running = None

    def _pace_now(self) -> float:
        timed = sum(self.parts[title] for title in self.took)
        return sum(self.took.values()) / timed if timed else self.pace
