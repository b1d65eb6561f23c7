from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from embedfit.serving.failures import BackendFailure, Overloaded, Unhealthy
from tests.serving.conftest import FakeEngine, known_vector, make_batcher


def rows(*lengths: int) -> list[list[int]]:
    return [[10 * index + position + 1 for position in range(length)] for index, length in enumerate(lengths)]


async def started(engine: FakeEngine) -> None:
    assert await asyncio.to_thread(engine.started.acquire, timeout=20)


async def test_every_row_gets_its_own_vector_in_order(engine):
    batcher = make_batcher(engine, overhead=50)
    given = rows(3, 9, 3, 1, 30, 9)
    job = await batcher.run(given)
    for ids, vector in zip(given, job.results, strict=True):
        np.testing.assert_allclose(vector, known_vector(ids))
    batcher.close()


async def test_an_idle_engine_starts_at_once_and_what_comes_meanwhile_shares_a_batch(engine):
    batcher = make_batcher(engine)
    engine.gate.clear()
    first = asyncio.create_task(batcher.run(rows(4)))
    await started(engine)
    others = [asyncio.create_task(batcher.run(rows(4))) for _ in range(5)]
    await asyncio.sleep(0)
    assert engine.batches == [[4]]
    assert batcher.queued_rows == 5
    engine.gate.set()
    await asyncio.gather(first, *others)
    assert engine.batches == [[4], [4] * 5]
    batcher.close()


async def test_requests_that_arrive_together_share_the_first_batch(engine):
    batcher = make_batcher(engine)
    await asyncio.gather(*(batcher.run(rows(4)) for _ in range(5)))
    assert engine.batches == [[4] * 5]
    batcher.close()


async def test_streams_run_at_the_same_time():
    engine = FakeEngine(streams=2)

    batcher = make_batcher(engine, budget=4)
    engine.gate.clear()
    jobs = [asyncio.create_task(batcher.run(rows(4))) for _ in range(3)]
    await started(engine)
    await started(engine)
    assert len(engine.batches) == 2
    engine.gate.set()
    await asyncio.gather(*jobs)
    batcher.close()


async def test_a_cancelled_request_never_reaches_the_engine(engine):
    batcher = make_batcher(engine)
    engine.gate.clear()
    first = asyncio.create_task(batcher.run(rows(4)))
    await started(engine)
    doomed, kept = asyncio.create_task(batcher.run(rows(7))), asyncio.create_task(batcher.run(rows(5)))
    await asyncio.sleep(0)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    assert batcher.queued_rows == 1
    engine.gate.set()
    await asyncio.gather(first, kept)
    assert engine.batches == [[4], [5]]
    batcher.close()


async def test_a_request_cancelled_while_it_runs_harms_no_other(engine):
    batcher = make_batcher(engine)
    engine.gate.clear()
    doomed, kept = asyncio.create_task(batcher.run(rows(4))), asyncio.create_task(batcher.run(rows(4)))
    await started(engine)
    doomed.cancel()
    await asyncio.sleep(0)
    engine.gate.set()
    np.testing.assert_allclose((await kept).results[0], known_vector(rows(4)[0]))
    batcher.close()


async def test_a_full_queue_refuses_with_the_time_to_try_again(engine):
    batcher = make_batcher(engine, max_queue_tokens=3000)
    engine.gate.clear()
    jobs = [asyncio.create_task(batcher.run(rows(4)))]
    await started(engine)
    jobs += [asyncio.create_task(batcher.run(rows(*[30] * 100)))]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await batcher.run(rows(4))
    assert caught.value.headers == {"retry-after": "3"}
    engine.gate.set()
    await asyncio.gather(*jobs)
    batcher.close()


async def test_one_request_larger_than_the_queue_is_served_when_nothing_waits(engine):
    batcher = make_batcher(engine, max_queue_tokens=10)
    assert len((await batcher.run(rows(30, 30))).results) == 2
    batcher.close()


async def test_an_engine_that_fails_fails_its_batch_alone(engine):
    batcher = make_batcher(engine)
    engine.fail_with = RuntimeError("out of memory")
    with pytest.raises(BackendFailure, match="out of memory"):
        await batcher.run(rows(4))
    assert batcher.broken
    engine.fail_with = None
    await batcher.run(rows(4))
    assert batcher.broken is None
    batcher.close()


async def test_nan_fails_its_own_request_and_no_other_of_the_batch(engine):
    batcher = make_batcher(engine)
    engine.give_nan_for = 99
    poisoned, healthy = await asyncio.gather(
        batcher.run([[1, 2], [99, 2]]), batcher.run([[3, 4]]), return_exceptions=True
    )
    assert isinstance(poisoned, BackendFailure)
    assert "NaN" in poisoned.message
    np.testing.assert_allclose(healthy.results[0], known_vector([3, 4]))
    assert engine.batches == [[2, 2, 2]]
    batcher.close()


async def test_closing_answers_what_still_waits(engine):
    batcher = make_batcher(engine)
    engine.gate.clear()
    running = asyncio.create_task(batcher.run(rows(4)))
    await started(engine)
    waiting = asyncio.create_task(batcher.run(rows(4)))
    await asyncio.sleep(0)
    batcher.close()
    with pytest.raises(Unhealthy):
        await waiting
    engine.gate.set()
    await running


async def test_token_states_and_pooled_rows_may_share_a_batch(engine):
    batcher = make_batcher(engine)
    states, pooled = await asyncio.gather(batcher.run([[5, 6]], token_states=True), batcher.run([[5, 6]]))
    assert states.results[0].shape == (2, 8)
    np.testing.assert_allclose(pooled.results[0], known_vector([5, 6]))
    batcher.close()


def test_under_random_load_every_answer_is_the_right_one():
    """Many clients, cancellations among them, on two streams: no answer is lost, doubled or swapped."""
    engine = FakeEngine(streams=2)
    generator = np.random.default_rng(1)
    before = set(threading.enumerate())

    async def client(batcher, number):
        for _ in range(20):
            given = [list(map(int, generator.integers(1, 50, generator.integers(1, 30)))) for _ in range(3)]
            call = asyncio.create_task(batcher.run(given))
            if number % 5 == 0:
                await asyncio.sleep(0)
                call.cancel()
                continue
            job = await call
            for ids, vector in zip(given, job.results, strict=True):
                np.testing.assert_allclose(vector, known_vector(ids))

    async def scenario():
        batcher = make_batcher(engine, budget=200, overhead=20)
        await asyncio.gather(*(client(batcher, number) for number in range(25)))
        assert batcher.queued_rows == 0
        batcher.close()

    asyncio.run(scenario())
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in started)


async def test_the_queue_follows_the_speed_that_the_engine_shows(engine):
    """A start on a busy machine must not make the queue short for ever."""

    batcher = make_batcher(engine, budget=64, max_queue_tokens=0)
    assert batcher.queue_limit == 5_000  # five seconds at the 1,000 tokens/s of the calibration
    ticks = iter(range(10_000))
    batcher.clock = lambda: next(ticks) / 1000  # a batch takes a few milliseconds: faster than calibrated
    for _ in range(100):
        await batcher.run(rows(*[8] * 8))
    assert batcher.queue_limit > 25_000
    batcher.close()


async def test_the_queue_may_be_bounded_by_the_expected_wait(engine):
    """Half a second of work may wait; a larger request gets in while nothing waits, and only then."""

    batcher = make_batcher(engine, budget=64, max_queue_tokens=0)
    batcher.max_queue_seconds = 0.5
    assert batcher.queue_limit == 500  # at the 1,000 tokens/s of the calibration
    engine.gate.clear()
    running = asyncio.create_task(batcher.run(rows(64)))
    await asyncio.to_thread(engine.started.acquire)
    large = asyncio.create_task(batcher.run(rows(*[60] * 20)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.run(rows(1))
    engine.gate.set()
    await asyncio.gather(running, large)
    batcher.close()


def test_a_slow_engine_still_takes_one_full_request(engine):
    batcher = make_batcher(engine, max_queue_tokens=0)
    batcher.least_queue_tokens = 40_000
    assert batcher.queue_limit == 40_000
    batcher.close()
