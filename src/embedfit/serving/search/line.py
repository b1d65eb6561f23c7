"""Work on one thread, in the order in which it arrives."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from embedfit.numerics.machine import cores
from embedfit.serving.failures import BackendFailure, Overloaded, RequestFailure

T = TypeVar("T")

#: Share of a new measurement in the running mean of the seconds that a unit of work takes.
_NEW_SHARE = 0.1


class Left(Exception):
    """The client has left while its work ran. Work raises it when `gone` is set."""


class Line:
    """A queue with one thread, because a search takes all cores.

    Work that would wait longer than max_queue_seconds, at the present speed, is refused. Each kind of work has units
    of its own (a search: queries) and a speed of its own. waiting: units that wait or are being done, by kind.
    seconds: what a unit of a kind takes.
    """

    def __init__(self, *, max_queue_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_queue_seconds = max_queue_seconds
        self.waiting: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search")

    @property
    def delay(self) -> float:
        """The seconds that new work would wait."""
        return sum(units * self.seconds.get(kind, 0.0) for kind, units in self.waiting.items())

    async def run(self, kind: str, units: int, work: Callable[[Event], T]) -> T:
        """The result of work(gone) on the thread. gone is set when the caller is cancelled: its client has left.

        Raises Overloaded if the work would wait too long, BackendFailure if it fails. Work of a cancelled caller that
        still waits is never begun.
        """
        delay = self.delay
        if delay > self.max_queue_seconds:
            raise Overloaded(retry_after=max(1, min(60, round(delay))))
        gone = Event()
        self.waiting[kind] += units
        try:
            result, seconds = await asyncio.wrap_future(self._pool.submit(self._timed, work, gone))
        except asyncio.CancelledError:
            gone.set()
            raise
        finally:
            self.waiting[kind] -= units
        known = self.seconds.get(kind)
        each = seconds / units
        self.seconds[kind] = each if known is None else known + _NEW_SHARE * (each - known)
        return result

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Work that is always accepted."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Stop the thread after its current work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[Event], T], gone: Event) -> tuple[T, float]:
        """On the thread."""
        _use_own_cores()
        started = self._clock()
        try:
            return work(gone), self._clock() - started
        except (RequestFailure, Left):
            raise
        except Exception as error:  # whatever torch or numpy raises becomes this request's 424
            raise BackendFailure(f"The search failed: {type(error).__name__}: {error}"[:500]) from error


def _use_own_cores() -> None:
    """Let torch use the cores that this process may use: in a container it would take all of the machine's."""
    torch = sys.modules.get("torch")  # a server that does without it shall not load it for this
    if torch is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
