"""From requests' rows to the engine's batches and back, on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.engine import Engine, PaddedRows, batch_of
from embedfit.serving.failures import BackendFailure, Overloaded, Unhealthy
from embedfit.serving.scheduling.queue import LengthQueue

#: Seconds of work that may wait, unless the settings say otherwise.
QUEUE_SECONDS = 5.0
#: Share of a new measurement in the running mean of the speed.
_NEW_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The engine's capacity, measured at warm-up.

    budget: rows × longest of one batch. overhead: the fixed cost of a batch, in tokens. tokens_per_second: of all
    streams together.
    """

    budget: int
    overhead: int
    tokens_per_second: float


@dataclass(eq=False, slots=True)
class ComputedRows:
    """The rows of one request. results[i] belongs to row i. Times are of the monotonic clock, in seconds."""

    results: list[Vectors | None]
    done: asyncio.Future[None]
    token_states: bool
    queued_at: float
    left: int
    queue_time: float = 0.0
    inference_time: float = 0.0

    def fail(self, failure: Exception) -> None:
        """Answer the request with an error, if it has no answer yet."""
        if not self.done.done():
            self.done.set_exception(failure)


@dataclass(eq=False, slots=True)
class _Row:
    request: ComputedRows
    index: int
    ids: Sequence[int]


@dataclass(slots=True)
class _RunningBatch:
    """Rows that a stream computes. results: None for vectors that are not finite. failure: the error instead."""

    rows: list[_Row]
    stream: int
    started: float
    padded: int = 0
    results: list[Vectors | None] = field(default_factory=list)
    failure: BackendFailure | None = None


@dataclass(slots=True)
class Batcher:
    """Keeps every stream of the engine busy while rows wait, and starts at once when it is idle.

    Nothing sleeps or polls: a batch is packed when rows arrive or when a stream becomes free. max_queue_tokens: no more
    than these may wait; 0 for max_queue_seconds at the measured speed, but at least least_queue_tokens. last_rows,
    last_tokens: the last batch's. broken: the error of the last batch, if it failed.
    """

    engine: Engine
    pad_id: int
    capacity: Capacity
    max_rows: int
    max_queue_tokens: int = 0
    max_queue_seconds: float = QUEUE_SECONDS
    least_queue_tokens: int = 0
    clock: Callable[[], float] = time.monotonic
    last_rows: int = 0
    last_tokens: int = 0
    broken: str | None = None
    _rate: float = field(init=False)
    _waiting: LengthQueue[_Row] = field(default_factory=LengthQueue)
    _idle: list[int] = field(init=False)
    _pool: ThreadPoolExecutor = field(init=False)
    _scheduled: bool = False

    def __post_init__(self) -> None:
        self._idle = list(range(self.engine.streams))
        self._rate = self.capacity.tokens_per_second
        self._pool = ThreadPoolExecutor(self.engine.streams, thread_name_prefix="engine")

    def over(self, engine: Engine) -> Batcher:
        """A batcher of another engine with the same limits, and with rows of its own."""
        return replace(self, engine=engine, _waiting=LengthQueue(), _scheduled=False)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a batch."""
        return self._waiting.rows

    @property
    def queue_limit(self) -> int:
        """Tokens that may wait now."""
        return self.max_queue_tokens or max(round(self.max_queue_seconds * self._rate), self.least_queue_tokens)

    def retry_after(self) -> int:
        """Whole seconds after which a refused client may try again: about the time that the waiting rows take."""
        return max(1, min(60, round(self._waiting.tokens / max(self._rate, 1.0))))

    async def run(self, rows: Sequence[Sequence[int]], *, token_states: bool = False) -> ComputedRows:
        """The rows with their results, when all of them are computed.

        Raises Overloaded if the queue is full, BackendFailure if the engine failed or gave NaN.
        Cancelling the caller removes the rows that still wait.
        """
        tokens = sum(map(len, rows))
        if self._waiting.rows and self._waiting.tokens + tokens > self.queue_limit:
            raise Overloaded(retry_after=self.retry_after())
        loop = asyncio.get_running_loop()
        request = ComputedRows([None] * len(rows), loop.create_future(), token_states, self.clock(), len(rows))
        mine = [_Row(request, index, ids) for index, ids in enumerate(rows)]
        for row in mine:
            self._waiting.push(row, len(row.ids))
        if not self._scheduled and self._idle:
            # On the next turn of the event loop, so that requests which arrived together share a batch.
            self._scheduled = True
            loop.call_soon(self._dispatch, loop)
        try:
            await request.done
        except asyncio.CancelledError:
            self._waiting.drop(set(mine))
            raise
        return request

    def close(self) -> None:
        """Stop the threads. Requests that still wait get an error."""
        for row in self._waiting:
            row.request.fail(Unhealthy("The server is shutting down"))
        self._waiting = LengthQueue()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        while self._idle and self._waiting.rows:
            rows = self._waiting.pop_batch(
                budget=self.capacity.budget, max_rows=self.max_rows, overhead=self.capacity.overhead
            )
            self._pool.submit(self._compute, _RunningBatch(rows, self._idle.pop(), self.clock()), loop)

    def _compute(self, batch: _RunningBatch, loop: asyncio.AbstractEventLoop) -> None:
        """On an engine thread: pad, run, hand back."""
        try:
            padded = batch_of([row.ids for row in batch.rows], self.pad_id)
            batch.padded = padded.padded_tokens
            batch.results = self._results(batch.rows, padded, batch.stream)
        except Exception as error:  # whatever an engine raises becomes this batch's 424
            batch.failure = BackendFailure(f"Inference failed: {type(error).__name__}: {error}"[:500])
        try:
            loop.call_soon_threadsafe(self._deliver, batch, loop)
        except RuntimeError:  # the loop is closed, so nobody waits for the rows
            return

    def _results(self, rows: list[_Row], padded: PaddedRows, stream: int) -> list[Vectors | None]:
        wants_states = [row.request.token_states for row in rows]
        states = self.engine.token_states(padded, stream) if any(wants_states) else None
        pooled = self.engine.pooled(padded, stream) if not all(wants_states) else None
        found = (
            states[index, : len(row.ids)] if row.request.token_states else pooled[index]  # type: ignore[index]
            for index, row in enumerate(rows)
        )
        return [vectors if np.isfinite(vectors).all() else None for vectors in found]

    def _deliver(self, batch: _RunningBatch, loop: asyncio.AbstractEventLoop) -> None:
        self._idle.append(batch.stream)
        self._dispatch(loop)  # start the engine again before giving the answers
        took = self.clock() - batch.started
        self.last_rows, self.last_tokens = len(batch.rows), batch.padded
        # Smaller batches say little about the speed under load.
        if 2 * batch.padded >= self.capacity.budget and took > 0:
            self._rate += _NEW_SHARE * (batch.padded * self.engine.streams / took - self._rate)
        self.broken = batch.failure.message if batch.failure else None
        if batch.failure is not None:
            for row in batch.rows:
                row.request.fail(batch.failure)
            return
        for row, result in zip(batch.rows, batch.results, strict=True):
            request = row.request
            request.results[row.index] = result
            request.left -= 1
            request.queue_time = max(request.queue_time, batch.started - request.queued_at)
            request.inference_time = max(request.inference_time, took)
            if result is None:
                request.fail(BackendFailure("The model gave a vector with NaN or infinite values"))
            elif not request.left and not request.done.done():
                request.done.set_result(None)
