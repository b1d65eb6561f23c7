"""Progress of work: a bar on a terminal, plain log lines elsewhere, nothing in tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from embedfit.display.terminal import console, visible, write_line


class Task(Protocol):
    """One piece of work with a known amount."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Report work done. note: a short text beside the bar (a loss, a rate), kept until the next one."""


class Reporter(Protocol):
    """A display to which stages report their work."""

    def log(self, message: str) -> None:
        """One line for people."""

    def task(self, description: str, total: float, unit: str = "") -> AbstractContextManager[Task]:
        """A context manager that yields a Task."""


class _SilentTask:
    def advance(self, amount: float = 1, note: str = "") -> None:
        pass


class Silent:
    """Shows nothing. For tests and for --json."""

    def log(self, message: str) -> None:
        """Ignore the line."""

    @contextmanager
    def task(self, description: str, total: float, unit: str = "") -> Iterator[Task]:
        """Yield a task that shows nothing."""
        yield _SilentTask()


class LogLines:
    """A line at the start, at most one every `every` seconds, and one at the end, for files and CI."""

    def __init__(
        self, stream: TextIO | None = None, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock

    def log(self, message: str) -> None:
        """Write the line at once."""
        write_line(self._stream, message)

    @contextmanager
    def task(self, description: str, total: float, unit: str = "") -> Iterator[Task]:
        """Yield a task that writes a line now and then."""
        task = _LogTask(self, description, total, unit, self._every, self._clock)
        yield task
        task.finish()


class _LogTask:
    def __init__(
        self, parent: LogLines, description: str, total: float, unit: str, every: float, clock: Callable[[], float]
    ) -> None:
        self._parent, self._description, self._total, self._unit = parent, description, total, unit
        self._every, self._clock = every, clock
        self._done, self._note = 0.0, ""
        self._written: float | None = None  # the amount done when the last line was written
        self._start = self._last = clock()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        if self._clock() - self._last >= self._every:
            self._write()

    def finish(self) -> None:
        if self._clock() - self._start >= 2 and self._written != self._done:
            self._write()

    def _write(self) -> None:
        self._last, self._written = self._clock(), self._done
        elapsed = max(self._last - self._start, 1e-9)
        rate = self._done / elapsed
        left = f", {duration((self._total - self._done) / rate)} left" if 0 < self._done < self._total else ""
        note = f", {self._note}" if self._note else ""
        self._parent.log(
            f"{self._description}: {self._done:,.0f}/{self._total:,.0f} {self._unit}".rstrip()
            + f" in {duration(elapsed)} ({rate:,.1f}/s{left}{note})"
        )


class Bars:
    """rich bars with rate and time left, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def log(self, message: str) -> None:
        """Print the line above any bar."""
        self._console.print(visible(message), markup=False, highlight=False)

    @contextmanager
    def task(self, description: str, total: float, unit: str = "") -> Iterator[Task]:
        """Yield a task that is drawn as a bar."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(unit.replace("{", "{{").replace("}", "}}"), markup=False),
            TextColumn("{task.fields[rate]}", style="cyan"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        with Progress(*columns, console=self._console) as bars:
            yield _BarTask(bars, bars.add_task(description, total=total, rate="", note=""))


class _BarTask:
    def __init__(self, bars: Progress, task_id: object) -> None:
        self._bars, self._id = bars, task_id
        self._note = ""

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._note = note or self._note
        task = next(task for task in self._bars.tasks if task.id == self._id)
        speed = task.speed
        self._bars.update(task.id, advance=amount, note=self._note, rate=f"{speed:,.1f}/s" if speed else "")


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 05 s", "2 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def reporter_for(stream: TextIO) -> Reporter:
    """Bars for a terminal, log lines for any other stream."""
    if stream.isatty():
        return Bars(console(stream))
    return LogLines(stream)
