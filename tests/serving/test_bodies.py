"""Slow bodies, with a clock of our own: who is given up, and that every byte is given back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.serving.edge.bodies import Bodies, BodyLimits, Pace, PaceLimits
from embedfit.serving.failures import Overloaded, PayloadTooLarge, RequestTimeout

LIMITS = PaceLimits(rate=100.0, credit=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(1, 3)), max_size=50))
def test_hostile_who_keeps_the_least_speed_is_never_too_slow(steps):
    pace, now = Pace(LIMITS, 0.0), 0.0
    for seconds, factor in steps:
        now += seconds
        assert now <= pace.due
        pace.moved(int(seconds * LIMITS.rate * factor) + 1, now)


@given(st.lists(st.integers(0, 10**9), max_size=20))
def test_hostile_nobody_can_save_up_for_a_silence(counts):
    pace = Pace(LIMITS, 0.0)
    for count in counts:
        pace.moved(count, 1.0)
        assert pace.due <= 1.0 + LIMITS.credit


def test_hostile_a_byte_a_second_is_too_slow_after_the_credit():
    pace = Pace(LIMITS, 0.0)
    last = next(now for now in range(1, 100) if pace.due < now or pace.moved(1, now))
    assert last == 6


class Client:
    """Sends its parts one by one when told to."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def receive(self) -> dict[str, object]:
        return await self.parts.get()

    def send(self, part: bytes, *, more: bool = True) -> None:
        self.parts.put_nowait({"type": "http.request", "body": part, "more_body": more})


async def read(bodies: Bodies, client: Client, *, is_whole: bool = False, limit: int = 1 << 20) -> bytes:
    with bodies.open() as body:
        return bytes(await body.read(client.receive, is_whole=is_whole, limit=limit))


async def test_hostile_of_too_many_unfinished_bodies_the_slowest_goes():
    clock = Clock()
    bodies = Bodies(BodyLimits(unfinished=3, pace=LIMITS), clock)
    clients = [Client() for _ in range(4)]
    tasks = []
    for number, client in enumerate(clients[:3]):
        tasks.append(asyncio.create_task(read(bodies, client)))
        client.send(b"x" * (1 if number == 1 else 100))
        await asyncio.sleep(0.01)
    clock.now = 1.0
    clients[0].send(b"x" * 300)
    clients[2].send(b"x" * 300)
    await asyncio.sleep(0.01)
    tasks.append(asyncio.create_task(read(bodies, clients[3])))
    with pytest.raises(RequestTimeout) as caught:
        await tasks[1]
    assert caught.value.headers == {"connection": "close"}
    assert bodies.unfinished == 3
    for number in (0, 2, 3):
        clients[number].send(b"end", more=False)
        assert (await tasks[number]).endswith(b"end")
    assert bodies.unfinished == bodies.held == 0


async def test_hostile_whole_bodies_get_in_whatever_the_slow_ones_do():
    bodies = Bodies(BodyLimits(unfinished=2, pace=LIMITS))
    slow = [asyncio.create_task(read(bodies, Client())) for _ in range(2)]
    await asyncio.sleep(0.01)
    for _ in range(10):
        client = Client()
        client.send(b"whole", more=False)
        assert await read(bodies, client, is_whole=True) == b"whole"
    assert bodies.unfinished == 2
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_hostile_slow_bodies_give_their_memory_to_others():
    bodies = Bodies(BodyLimits(unfinished=10, held_bytes=300_000, pace=LIMITS))
    greedy = Client()
    task = asyncio.create_task(read(bodies, greedy))
    greedy.send(b"x" * 200_000)
    await asyncio.sleep(0.01)
    other = Client()
    other.send(b"y" * 200_000, more=False)
    assert len(await read(bodies, other, is_whole=True)) == 200_000
    with pytest.raises(RequestTimeout):
        await task
    with bodies.open() as held:  # of a request that is being answered
        other.send(b"y" * 200_000, more=False)
        await held.read(other.receive, is_whole=True, limit=1 << 20)
        other.send(b"y" * 200_000, more=False)
        with pytest.raises(Overloaded):
            await read(bodies, other, is_whole=True)
    assert bodies.held == 0


async def test_hostile_silence_ends_by_itself():
    bodies = Bodies(BodyLimits(pace=PaceLimits(rate=1.0, credit=0.2)))
    with pytest.raises(RequestTimeout):
        await asyncio.wait_for(read(bodies, Client()), 20)
    assert bodies.unfinished == 0


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=8), st.booleans())
def test_hostile_every_byte_is_given_back(parts, leaves):
    async def scenario() -> None:
        bodies = Bodies(BodyLimits(unfinished=2, held_bytes=1_000, pace=LIMITS))
        client = Client()
        for size, more in parts:
            client.send(b"x" * size, more=more)
        if leaves:
            client.parts.put_nowait({"type": "http.disconnect"})
        else:
            client.send(b"", more=False)
        try:
            await read(bodies, client, limit=200)
        except (PayloadTooLarge, asyncio.CancelledError):
            pass
        assert bodies.held == bodies.unfinished == 0

    asyncio.run(scenario())
