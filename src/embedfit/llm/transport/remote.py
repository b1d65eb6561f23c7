"""Many calls at once to a provider over a network: paced, retried, cancellable."""

from __future__ import annotations

import heapq
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, Protocol

from embedfit.llm.protocol import Failure, Gate, LanguageModel, Outcome, Reply, Request
from embedfit.llm.transport.retry import CallError, RetryPolicy
from embedfit.llm.transport.throttle import Throttle
from embedfit.progress import Reporter

#: Calls given up in a row, with no reply before them, after which the fault is taken to be common to all.
_COMMON_FAULT = 5
#: Seconds after which the gate is asked again about a call that must wait for others.
_POLL_S = 0.25
#: Calls in flight at most. The throttle finds out how many of them help.
CONNECTIONS = 96


class Transport(Protocol):
    """One call to one provider. Thread-safe. Its attributes are those of LanguageModel."""

    provider: str
    price_provider: str
    model: str
    counts_exactly: bool

    def count_tokens(self, request: Request) -> int:
        """Input tokens of a request."""

    def send(self, request: Request) -> Reply:
        """Make the call and wait for its reply. Raises CallError."""

    def close(self) -> None:
        """Close the connections."""


class RemoteModel(LanguageModel):
    """A language model behind a network.

    throttle: the knowledge of the provider's quotas; it keeps learning from one complete() to the next. grace_s: how
    long a cancelled complete() waits for calls in flight, for they are paid for. report: the display that shows, once,
    that the provider takes no calls.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        throttle: Throttle | None = None,
        retry: RetryPolicy | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        grace_s: float = 10.0,
        report: Reporter | None = None,
    ) -> None:
        self.transport = transport
        self.provider, self.price_provider, self.model = transport.provider, transport.price_provider, transport.model
        self.counts_exactly = transport.counts_exactly
        self.throttle = throttle or Throttle()
        self.retry = retry or RetryPolicy()
        self.rng = rng or random.Random()
        self.clock = clock
        self.grace_s = grace_s
        #: Whether there has ever been a reply.
        self.replied = False
        self._report = report

    def count_tokens(self, request: Request) -> int:
        """Input tokens of a request, as the transport counts them."""
        return self.transport.count_tokens(request)

    def close(self) -> None:
        """Close the connections; nothing can be asked afterwards."""
        self.transport.close()

    def complete(self, requests: Sequence[Request]) -> Generator[tuple[int, Outcome], None, None]:
        """Yield (index, outcome) as they arrive. Raises ProviderError if no call can succeed."""
        return self.complete_through(requests, Gate())

    def complete_through(self, requests: Sequence[Request], gate: Gate) -> Generator[tuple[int, Outcome], None, None]:
        """As complete(), asking the gate about each attempt."""
        calls = _Calls(self, requests, gate)
        try:
            yield from calls.outcomes()
        finally:
            calls.stop()

    def say_once(self, error: CallError) -> None:
        """Tell the user why nothing arrives, if the provider refuses the very first calls for their number."""
        if self._report is not None and error.throttled and not self.replied:
            self._report.log(f"{error.message} (trying again, more slowly)")
            self._report = None


class _Attempt(NamedTuple):
    """due: when it may be made at the earliest. call: index of its request. number: 1-based, without throttled ones."""

    due: float
    call: int
    number: int


class _Calls:
    """The calls of one complete(), each in a thread of its own. All else happens in the thread of the caller."""

    def __init__(self, model: RemoteModel, requests: Sequence[Request], gate: Gate) -> None:
        self._model, self._requests, self._gate = model, requests, gate
        self._waiting = [_Attempt(-math.inf, index, 1) for index in range(len(requests))]  # a heap
        self._in_flight: dict[int, float] = {}  # when each was sent, by index
        self._working: set[_Attempt] = set()  # those whose threads have not put their end into the queue yet
        self._ended: queue.SimpleQueue[tuple[_Attempt, Reply | BaseException]] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._replies = self._given_up = 0
        self._last_success = model.clock()

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Send; yield outcomes as they arrive. An error that dooms all calls is raised after the last arrival."""
        while self._error is None and (self._waiting or self._in_flight):
            wait = self._send_due()
            yield from self._arrived(wait)
        if self._error is not None:
            yield from self._rest()
            raise self._error

    def stop(self) -> None:
        """Give the calls in flight some time to arrive, for their replies are paid for; count the others as lost."""
        for _ in self._rest():
            pass
        for index in self._in_flight:
            self._gate.lost(index)

    def _rest(self) -> Iterator[tuple[int, Outcome]]:
        until = time.monotonic() + self._model.grace_s
        # An end that Ctrl-C took from the queue never arrives: what neither works nor has ended is not waited for. A
        # thread puts its end into the queue before it leaves _working, so the queue is asked last.
        while self._in_flight and (self._working or not self._ended.empty()) and (left := until - time.monotonic()) > 0:
            yield from self._arrived(left)

    def _send_due(self) -> float:
        """Send the calls that may go now. Returns the seconds after which to look again."""
        model = self._model
        while self._waiting:
            now = model.clock()
            wait = max(self._waiting[0].due - now, model.throttle.delay(now, len(self._in_flight)))
            if wait > 0:
                return wait
            if not self._send(now):
                return _POLL_S
        return math.inf

    def _send(self, now: float) -> bool:
        """Send the next call if it is admitted, or drop it if it never can be. False if it must wait for others."""
        attempt, started = self._waiting[0], False
        try:
            admitted = self._gate.admit(attempt.call)
            if admitted is None:
                return False
            heapq.heappop(self._waiting)
            if admitted:
                self._model.throttle.sent(now)
                self._in_flight[attempt.call] = now
                thread = threading.Thread(target=self._call, args=(attempt,), name="embedfit-call", daemon=True)
                self._working.add(attempt)
                started = True
                thread.start()
        except BaseException:  # Ctrl-C here must not leave a call counted that was never sent
            if not started:
                self._in_flight.pop(attempt.call, None)
                self._working.discard(attempt)
                self._gate.returned(attempt.call)
            raise
        return True

    def _call(self, attempt: _Attempt) -> None:
        """Make a call, in its own thread. The gate learns of its end first."""
        end: Reply | BaseException
        try:
            try:
                end = self._model.transport.send(self._requests[attempt.call])
            except BaseException as error:
                end = error
                if isinstance(error, CallError) and not error.maybe_billed:
                    self._gate.returned(attempt.call)
                else:
                    self._gate.lost(attempt.call)
            else:
                self._gate.received(attempt.call, end)
        except BaseException as error:  # for example a ledger that can't be written
            end = error
        self._ended.put((attempt, end))
        self._working.discard(attempt)

    def _arrived(self, wait: float) -> Iterator[tuple[int, Outcome]]:
        """The outcome of the next call that ends within so many seconds, if it has one yet."""
        if not self._in_flight and not self._waiting:
            return
        try:
            # Without a limit some systems would not notice Ctrl-C.
            attempt, end = self._ended.get(timeout=min(wait, 1.0))
        except queue.Empty:
            return
        model, now = self._model, self._model.clock()
        crowd = len(self._in_flight)
        sent = self._in_flight.pop(attempt.call)
        if isinstance(end, Reply):
            model.throttle.succeeded(sent, now, crowd)
            model.replied, self._last_success = True, now
            self._replies += 1
            yield attempt.call, end
        elif isinstance(end, CallError):
            model.throttle.failed(sent, end, now)
            model.say_once(end)
            if model.retry.gives_up(end, attempt.number, now - self._last_success, ever=model.replied):
                self._give_up(end)
                failure = Failure(error=end.message, retryable=end.retryable, remedy=end.remedy or "")
                yield attempt.call, failure
            else:
                due = now + model.retry.delay(end, attempt.number, model.rng)
                number = attempt.number + (not end.throttled)
                heapq.heappush(self._waiting, _Attempt(due, attempt.call, number))
        else:
            self._error = self._error or end

    def _give_up(self, error: CallError) -> None:
        """Stop everything if a failure is not about this one call."""
        self._given_up += 1
        starved = error.throttled and not self._model.replied
        common = not self._replies and (starved or self._given_up >= _COMMON_FAULT)
        if error.hopeless or common:
            self._error = self._error or error


def paced(transport: Transport, report: Reporter) -> RemoteModel:
    """The model behind a transport, asked as fast as its provider takes calls."""
    return RemoteModel(transport, throttle=Throttle(max_concurrency=CONNECTIONS), report=report)
