"""Bodies that are still arriving: the least speed of one, and the memory of all together."""

from __future__ import annotations

import asyncio
import time
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Receive

from embedfit.serving.failures import Overloaded, PayloadTooLarge, RequestTimeout

_SWEEP_SECONDS = 0.5
#: A smaller body is never given up for its memory.
_WORTH_DROPPING = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceLimits:
    """The least speed of a peer. rate: bytes a second. credit: seconds that it may fall behind, also at the start."""

    rate: float = 500.0
    credit: float = 10.0


class Pace:
    """How long a peer may still do nothing: a leaky bucket.

    `due` is the clock's time from which the peer is too slow. Bytes put it off by the time that they take at the
    least speed, but never to more than the credit from now: no peer can save up for a long silence.
    """

    __slots__ = ("_limits", "due")

    def __init__(self, limits: PaceLimits, now: float) -> None:
        self._limits = limits
        self.due = now + limits.credit

    def moved(self, count: int, now: float) -> None:
        """Count bytes that came through."""
        self.due = min(self.due + count / self._limits.rate, now + self._limits.credit)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Bounds of all bodies together.

    unfinished: how many may lack a part. held_bytes: the memory of bodies that are arriving or being answered.
    """

    unfinished: int = 512
    held_bytes: int = 256 << 20
    pace: PaceLimits = PaceLimits()


class Body:
    """One body, as long as its request lives. failure: the error with which the server gave it up, or None."""

    __slots__ = ("_bodies", "failure", "held", "pace", "task")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.held = 0
        self.pace = Pace(bodies.limits.pace, bodies.clock())
        self.failure: RequestTimeout | None = None
        self.task: Task[object] | None = None

    async def read(self, receive: Receive, *, is_whole: bool, limit: int) -> bytearray:
        """All bytes of the body. is_whole: all bytes are there already, so there is no wait.

        Raises PayloadTooLarge above limit bytes; RequestTimeout if the body is too slow, or the slowest of too many;
        Overloaded if there is no memory for it; CancelledError if the client leaves.
        """
        parts = bytearray()
        if not is_whole:
            self._bodies.wait_for(self)
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise asyncio.CancelledError
                part = message.get("body", b"")
                parts += part
                if len(parts) > limit:
                    raise PayloadTooLarge(f"The body is larger than {limit} bytes")
                self._bodies.charge(self, len(part))
                more = message.get("more_body", False)
        except asyncio.CancelledError:
            if self.failure is None:
                raise
            if self.task is not None and hasattr(self.task, "uncancel"):  # Python 3.11 counts cancellations
                self.task.uncancel()
            raise self.failure from None
        finally:
            self._bodies.arrived(self)
        return parts

    def give_up(self, why: str) -> None:
        """End the reading with RequestTimeout."""
        if self.failure is None and self.task is not None:
            self.failure = RequestTimeout(why, headers={"connection": "close"})
            self.task.cancel()


def _due(body: Body) -> float:
    return body.pace.due


class Bodies:
    """All bodies of one server, used from its event loop alone.

    A body that is whole when its request arrives never waits here, so slow clients can't hold up quick ones. If there
    are too many slow bodies, or if they hold too much memory, the slowest is given up.
    """

    def __init__(self, limits: BodyLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.clock = clock
        self.held = 0
        self._unfinished: dict[Body, None] = {}
        self._sweeping = False

    @property
    def unfinished(self) -> int:
        """How many bodies lack a part."""
        return len(self._unfinished)

    @contextmanager
    def open(self) -> Iterator[Body]:
        """The context of a body; its memory is given back at the end."""
        body = Body(self)
        try:
            yield body
        finally:
            self.release(body)

    def wait_for(self, body: Body) -> None:
        """Count a body as unfinished. If there are too many, the slowest is given up."""
        if len(self._unfinished) >= self.limits.unfinished:
            self._drop(min(self._unfinished, key=_due))
        body.task = asyncio.current_task()
        self._unfinished[body] = None
        if not self._sweeping:
            self._sweeping = True
            loop = asyncio.get_running_loop()
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)

    def arrived(self, body: Body) -> None:
        """A body is whole, or its request has ended."""
        self._unfinished.pop(body, None)

    def charge(self, body: Body, count: int) -> None:
        """Count bytes of a body. Raises Overloaded if they don't fit even without the slow bodies."""
        body.pace.moved(count, self.clock())
        body.held += count
        self.held += count
        while self.held > self.limits.held_bytes:
            large = [other for other in self._unfinished if other is not body and other.held >= _WORTH_DROPPING]
            if not large:
                raise Overloaded
            self._drop(min(large, key=_due))

    def release(self, body: Body) -> None:
        """Give back the memory of a body."""
        self.held -= body.held
        body.held = 0

    def _drop(self, body: Body) -> None:
        self.arrived(body)
        self.release(body)  # safe: its task ends before more of the body can arrive
        body.give_up("The body came too slowly, and others need the room")

    def _sweep(self, loop: AbstractEventLoop) -> None:
        now = self.clock()
        for body in [body for body in self._unfinished if body.pace.due < now]:
            self.arrived(body)
            body.give_up("The body came too slowly")
        if self._unfinished:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)
        else:
            self._sweeping = False
