"""Who is closed when there is no room, with connections that only say how they are."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from embedfit.serving.edge.limits import BoundedProtocol, ConnectionLimits, Connections


class FakeConnection:
    def __init__(self, unread: int = 0, due: float = float("inf"), pipeline: int = 0) -> None:
        self.held, self.answer_due, self.pipeline = unread, due, [None] * pipeline
        self.ended = ""

    def unread(self) -> int:
        return self.held

    def reads_too_slowly(self, now: float) -> bool:
        return self.answer_due < now

    def abort(self) -> None:
        self.ended = "aborted"

    def make_room(self) -> None:
        self.ended = "closed"


def opened(connections: Connections, *fakes: FakeConnection) -> list[bool]:
    async def scenario() -> list[bool]:
        loop = asyncio.get_running_loop()
        return [connections.opened(cast(Any, fake), loop) for fake in fakes]

    return asyncio.run(scenario())


def spoke(connections: Connections, *fakes: FakeConnection) -> None:
    for fake in fakes:
        connections.spoke(cast(BoundedProtocol, fake))


def test_hostile_who_is_silent_longest_makes_room():
    connections = Connections(ConnectionLimits(connections=3))
    fakes = [FakeConnection() for _ in range(5)]
    assert opened(connections, *fakes[:3]) == [True] * 3
    spoke(connections, fakes[0])
    assert opened(connections, fakes[3]) == [True]
    assert [fake.ended for fake in fakes] == ["", "closed", "", "", ""]
    connections.answered(cast(Any, fakes[0]))  # it is silent again, but not for long
    assert opened(connections, fakes[4]) == [True]
    assert [fake.ended for fake in fakes] == ["", "closed", "closed", "", ""]


def test_hostile_then_the_slowest_reader_then_who_queues_requests():
    connections = Connections(ConnectionLimits(connections=4), clock=lambda: 0.0)
    busy, queueing = FakeConnection(), FakeConnection(pipeline=3)
    slow, slower = FakeConnection(10, due=9.0), FakeConnection(10, due=2.0)
    late = [FakeConnection() for _ in range(4)]
    opened(connections, busy, queueing, slow, slower)
    spoke(connections, busy, queueing, slow, slower)
    for one in late[:3]:
        assert opened(connections, one) == [True]
        spoke(connections, one)
    assert [one.ended for one in (slower, slow, queueing, busy)] == ["aborted", "aborted", "aborted", ""]
    assert opened(connections, late[3]) == [False]  # all are at work: it is refused


def test_hostile_unread_answers_are_bounded_in_all_and_the_slowest_go():
    connections = Connections(ConnectionLimits(unread_bytes=100))
    fakes = [FakeConnection(40, due=float(due)) for due in (3, 1, 2, 4)] + [FakeConnection()]
    opened(connections, *fakes)
    connections.bound_unread()
    assert [fake.ended for fake in fakes] == ["", "aborted", "aborted", "", ""]
    alone = Connections(ConnectionLimits(unread_bytes=100))
    large = FakeConnection(1_000, due=1.0)
    opened(alone, large)
    alone.bound_unread()
    assert not large.ended
