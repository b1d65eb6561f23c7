"""From requests' rows to the engine's batches and back, on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.engine import Batch, Engine, batch_of
from embedfit.serving.failures import BackendFailure, Overloaded, Unhealthy
from embedfit.serving.scheduling.queue import LengthQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine can do, measured at warm-up.

    budget: rows × longest of one batch. overhead: what one more batch costs, in tokens.
    tokens_per_second: of all streams together.
    """

    budget: int
    overhead: int
    tokens_per_second: float


#: Seconds of work that may wait where nothing else is given.
QUEUE_SECONDS = 5.0
#: Share of a new measurement in the running mean of the speed.
_NEW_SHARE = 0.05


@dataclass(eq=False, slots=True)
class Job:
    """One request's rows. results[i] belongs to row i. Times are of the monotonic clock, in seconds."""

    results: list[Vectors | None]
    done: asyncio.Future[None]
    token_states: bool
    queued_at: float
    left: int
    queue_time: float = 0.0
    inference_time: float = 0.0


@dataclass(eq=False, slots=True)
class Row:
    """One row of a job."""

    job: Job
    index: int
    ids: Sequence[int]


@dataclass(slots=True)
class BatchSizes:
    """The last batch, for the metrics."""

    rows: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Batcher:
    """Keeps every stream of the engine busy while rows wait, and starts at once when it is idle.

    Nothing sleeps or polls: a batch is packed when rows arrive or when a stream becomes free.
    max_queue_tokens: more than these may not wait; 0 for max_queue_seconds of the speed that it shows, and
    least_queue_tokens at least.
    """

    engine: Engine
    pad_id: int
    capacity: Capacity
    max_rows: int
    max_queue_tokens: int = 0
    max_queue_seconds: float = QUEUE_SECONDS
    least_queue_tokens: int = 0
    clock: Callable[[], float] = time.monotonic
    last_batch: BatchSizes = field(default_factory=BatchSizes)
    broken: str | None = None
    _rate: float = field(init=False)
    _waiting: LengthQueue[Row] = field(default_factory=LengthQueue)
    _idle: list[int] = field(default_factory=list)
    _running: int = 0
    _pool: ThreadPoolExecutor = field(init=False)
    _scheduled: bool = False
    _drained: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._idle = list(range(self.engine.streams))
        self._rate = self.capacity.tokens_per_second
        self._pool = ThreadPoolExecutor(self.engine.streams, thread_name_prefix="engine")

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a batch."""
        return self._waiting.rows

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for a batch."""
        return self._waiting.tokens

    @property
    def queue_limit(self) -> int:
        """Tokens that may wait now."""
        return self.max_queue_tokens or max(round(self.max_queue_seconds * self._rate), self.least_queue_tokens)

    def seconds_to_drain(self) -> float:
        """How long what waits will take, at the speed of late."""
        return self._waiting.tokens / max(self._rate, 1.0)

    async def run(self, rows: Sequence[Sequence[int]], *, token_states: bool = False) -> Job:
        """The job of these rows, when all of them are computed.

        Raises Overloaded where the queue is full, BackendFailure where the engine failed or gave NaN.
        Cancelling the caller removes what still waits.
        """
        tokens = sum(map(len, rows))
        if self._waiting.rows and self._waiting.tokens + tokens > self.queue_limit:
            raise Overloaded(retry_after=self.retry_after())
        loop = asyncio.get_running_loop()
        job = Job([None] * len(rows), loop.create_future(), token_states, self.clock(), len(rows))
        mine = [Row(job, index, ids) for index, ids in enumerate(rows)]
        for row in mine:
            self._waiting.push(row, len(row.ids))
        self._schedule(loop)
        try:
            await job.done
        except asyncio.CancelledError:
            self._waiting.drop(set(mine))
            raise
        return job

    def retry_after(self) -> int:
        """Whole seconds after which a refused client may try again."""
        return max(1, min(60, round(self.seconds_to_drain())))

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        while self._waiting.rows or self._running:
            self._drained.clear()
            await self._drained.wait()

    def close(self) -> None:
        """Stop the threads. What still waits gets an error."""
        stopped = Unhealthy("The server is shutting down")
        for row in self._waiting:
            _fail(row.job, stopped)
        self._waiting = LengthQueue()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # On the next turn of the loop, so that requests which arrived together share a batch.
        if not self._scheduled and self._idle:
            self._scheduled = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        while self._idle and self._waiting.rows:
            rows = self._waiting.pop_batch(
                budget=self.capacity.budget, max_rows=self.max_rows, overhead=self.capacity.overhead
            )
            stream = self._idle.pop()
            self._running += 1
            started = self.clock()
            self._pool.submit(self._compute, rows, stream, started, loop)

    def _compute(self, rows: list[Row], stream: int, started: float, loop: asyncio.AbstractEventLoop) -> None:
        """On an engine thread: pad, run, hand back."""
        outcome: list[Vectors | None] | BackendFailure
        padded = 0
        try:
            batch = batch_of([row.ids for row in rows], self.pad_id)
            padded = batch.padded_tokens
            outcome = self._vectors(rows, batch, stream)
        except Exception as error:  # whatever an engine raises becomes this batch's 424
            outcome = BackendFailure(f"Inference failed: {type(error).__name__}: {error}"[:500])
        try:
            loop.call_soon_threadsafe(self._deliver, rows, stream, started, padded, outcome, loop)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _vectors(self, rows: list[Row], batch: Batch, stream: int) -> list[Vectors | None]:
        """One result a row; None where it holds NaN or infinite numbers."""
        plain = [index for index, row in enumerate(rows) if not row.job.token_states]
        states: Vectors | None = None
        pooled: Vectors | None = None
        if len(plain) < len(rows):
            states = self.engine.token_states(batch, stream)
        if plain:
            pooled = self.engine.pooled(batch, stream)
        found: list[Vectors | None] = []
        for index, row in enumerate(rows):
            if row.job.token_states and states is not None:
                vectors = states[index, : len(row.ids)]
                found.append(vectors if np.isfinite(vectors).all() else None)
            elif pooled is not None:
                found.append(pooled[index] if np.isfinite(pooled[index]).all() else None)
        return found

    def _deliver(
        self,
        rows: list[Row],
        stream: int,
        started: float,
        padded: int,
        outcome: list[Vectors | None] | BackendFailure,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._running -= 1
        self._idle.append(stream)
        self._dispatch(loop)  # first the engine, then the answers
        took = self.clock() - started
        self.last_batch.rows, self.last_batch.tokens = len(rows), padded
        if 2 * padded >= self.capacity.budget and took > 0:  # smaller batches say little of the speed under load
            self._rate += _NEW_SHARE * (padded * self.engine.streams / took - self._rate)
        if isinstance(outcome, BackendFailure):
            self.broken = outcome.message
            for row in rows:
                _fail(row.job, outcome)
        else:
            self.broken = None
            self._settle(rows, outcome, started, took)
        if not self._running and not self._waiting.rows:
            self._drained.set()

    def _settle(self, rows: list[Row], vectors: list[Vectors | None], started: float, took: float) -> None:
        for row, vector in zip(rows, vectors, strict=True):
            job = row.job
            job.results[row.index] = vector
            job.left -= 1
            job.queue_time = max(job.queue_time, started - job.queued_at)
            job.inference_time = max(job.inference_time, took)
            if vector is None:
                _fail(job, BackendFailure("The model gave a vector with NaN or infinite values"))
            elif not job.left and not job.done.done():
                job.done.set_result(None)


def _fail(job: Job, failure: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(failure)
