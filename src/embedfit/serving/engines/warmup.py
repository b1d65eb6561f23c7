"""The measurement of an engine's speed on this machine: its batch budget, and the fixed cost of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from embedfit.serving.engines.engine import Engine, PaddedRows
from embedfit.serving.scheduling.batcher import Capacity

#: The length of the rows in the measured batches, in tokens: between a query and a passage.
_ROW = 64
#: A budget is large enough if it reaches this share of the best rate.
_NEAR_BEST = 0.95
#: The longest time of a batch: later requests would wait that long for a stream.
_LONGEST_BATCH = 0.25


def example_batch(rows: int, length: int) -> PaddedRows:
    """A batch without padding. The ids are small, so that every vocabulary has them."""
    ids = np.arange(rows * length, dtype=np.int64).reshape(rows, length) % 97 + 1
    return PaddedRows(ids, np.ones_like(ids))


def seconds_a_batch(
    engine: Engine, batch: PaddedRows, *, clock: Callable[[], float] = time.perf_counter, least: float = 0.05
) -> float:
    """Seconds of one batch while every stream runs one; the best of at least two rounds."""

    def run(stream: int) -> None:
        engine.pooled(batch, stream)

    best, start = float("inf"), clock()
    rounds = 0
    with ThreadPoolExecutor(engine.streams) as pool:
        list(pool.map(run, range(engine.streams)))  # the first run of a shape sets up kernels
        while rounds < 2 or (clock() - start < least and rounds < 20):
            begun = clock()
            list(pool.map(run, range(engine.streams)))
            best = min(best, clock() - begun)
            rounds += 1
    return best


def warm_up(engine: Engine) -> None:
    """Run each stream once, so that no request waits for what an engine sets up at its first batch."""
    with ThreadPoolExecutor(engine.streams) as pool:
        list(pool.map(partial(engine.pooled, example_batch(1, 1)), range(engine.streams)))


def tokens_a_second(engine: Engine, max_tokens: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The speed of all streams together, over a batch of queries and one of passages."""
    queries, passages = example_batch(16, min(16, max_tokens)), example_batch(2, min(256, max_tokens))
    seconds = sum(seconds_a_batch(engine, batch, clock=clock) for batch in (queries, passages))
    return engine.streams * (queries.padded_tokens + passages.padded_tokens) / seconds


def calibrate(engine: Engine, *, max_tokens: int, max_batch_tokens: int) -> Capacity:
    """The smallest budget that keeps the engine near its best rate, at least one longest row."""
    row = min(_ROW, max_tokens)
    rates: dict[int, float] = {}
    tokens = 4 * row
    while tokens <= max(max_batch_tokens, 4 * row):
        seconds = seconds_a_batch(engine, example_batch(tokens // row, row))
        rates[tokens] = tokens / seconds
        if 2 * seconds > _LONGEST_BATCH:
            break
        tokens *= 2
    best = max(rates.values())
    budget = min(tokens for tokens, rate in rates.items() if rate >= _NEAR_BEST * best)
    short = min(8, max_tokens)
    overhead = (seconds_a_batch(engine, example_batch(1, short)) - short / best) * best
    return Capacity(
        budget=max(min(budget, max_batch_tokens), max_tokens),
        overhead=max(0, round(overhead)),
        tokens_per_second=best * engine.streams,
    )
