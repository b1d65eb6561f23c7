"""Many calls at once to a provider over a network: paced, retried, cancellable."""

from __future__ import annotations

import heapq
import math
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from embedfit.llm.metered import Admission, Gate
from embedfit.llm.protocol import BilledAs, Failure, Named, Reply, Request
from embedfit.llm.transport.retry import CallError, RetryPolicy
from embedfit.llm.transport.throttle import Sent, Throttle
from embedfit.progress import Reporter

#: Calls given up in a row, with no reply before them, after which the fault is taken to be common to all.
_COMMON_FAULT = 5
_TICK_S = 1.0
_LATER_S = (0.25, 5.0)  # first and longest wait before the gate is asked again about one call


#: Calls in flight at most. The throttle finds how many of them are of use.
CONNECTIONS = 96


class Transport(Named, BilledAs, Protocol):
    """One call to one provider. Thread-safe."""

    def send(self, request: Request) -> Reply:
        """Make the call and wait for its reply. Raises CallError."""

    def close(self) -> None:
        """Close the connections."""


class _OpenGate:
    """Lets everything through."""

    def admit(self, index: int) -> Admission | Reply:
        return "send"

    def settle(self, index: int, outcome: Reply | Failure) -> None:
        pass

    def lost(self, index: int) -> None:
        pass

    def returned(self, index: int) -> None:
        pass

    def tick(self) -> None:
        pass


class RemoteModel:
    """A language model behind a network.

    throttle: what is known of the provider's quotas; it goes on learning from one complete() to the
    next. grace_s: how long a cancelled complete() waits for calls in flight, for they are paid for.
    report: where it is said once that the provider takes no calls.
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
        self.counts_exactly, self.count_tokens = transport.counts_exactly, transport.count_tokens
        self.throttle = throttle or Throttle()
        self.retry = retry or RetryPolicy()
        self.rng = rng or random.Random()
        self.clock = clock
        self.grace_s = grace_s
        self.lock = threading.Lock()
        #: Whether there has ever been a reply.
        self.replied = False
        self._report = report
        self._said = False
        self._holds, self._held_until = 0, -math.inf

    def close(self) -> None:
        """Close the connections; nothing can be asked afterwards."""
        self.transport.close()

    def complete(self, requests: Sequence[Request]) -> Generator[tuple[int, Reply | Failure], None, None]:
        """Yield (index, reply or failure) as they arrive. Raises ProviderError where no call can succeed."""
        return self.complete_through(requests, _OpenGate())

    def say_once(self, error: CallError) -> None:
        """Tell the user why nothing arrives, where the provider refuses the very first calls for their number."""
        with self.lock:
            first = error.throttled is not None and not self.replied and not self._said
            self._said = self._said or first
        if first and self._report is not None:
            self._report.log(f"{error.message} (trying again, more slowly)")

    def hold(self, error: CallError, now: float) -> None:
        """Wait longer and longer for a provider that has not taken a single call and does not say how long."""
        if error.throttled is None or error.retry_after is not None or self.replied:
            return
        if now >= self._held_until:
            self._holds = min(self._holds + 1, 30)
            self._held_until = now + min(self.retry.cap_s, self.retry.base_s * 2.0**self._holds)
        error.retry_after = self._held_until - now

    def complete_through(
        self, requests: Sequence[Request], gate: Gate
    ) -> Generator[tuple[int, Reply | Failure], None, None]:
        """As complete(), asking the gate about each attempt."""
        fanout = _Fanout(self, requests, gate)
        try:
            yield from fanout.outcomes()
        finally:
            fanout.stop()


@dataclass(frozen=True, slots=True)
class _Attempt:
    index: int
    number: int  # 1-based; attempts that were throttled are not counted
    asked: int = 0  # how often the gate said "later"


class _Fanout:
    """One complete(): a thread that sends, and one thread for each call in flight.

    State is guarded by `changed`; the throttle, which outlives us, by the model's lock.
    """

    def __init__(self, model: RemoteModel, requests: Sequence[Request], gate: Gate) -> None:
        self._model, self._requests, self._gate = model, requests, gate
        self._tokens = [model.count_tokens(request) + request.max_tokens for request in requests]
        self._changed = threading.Condition()
        self._ready = deque(_Attempt(index, 1) for index in range(len(requests)))
        self._delayed: list[tuple[float, int, _Attempt]] = []
        self._sequence = 0
        self._unfinished = len(requests)
        self._in_flight: set[int] = set()
        self._stopping = False
        self._error: BaseException | None = None
        self._replies = 0
        self._given_up = 0
        self._last_success = model.clock()
        self._outcomes: queue.SimpleQueue[tuple[int, Reply | Failure] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="embedfit-sender", daemon=True)

    def outcomes(self) -> Generator[tuple[int, Reply | Failure], None, None]:
        """Start; yield what arrives; raise what makes going on useless, after what was in flight has arrived."""
        self._sender.start()
        while (item := self._outcomes.get()) is not None:
            yield item
        if self._error is not None:
            self._wait_for_calls()
            while not self._outcomes.empty():
                if (item := self._outcomes.get()) is not None:
                    yield item
            raise self._error

    def stop(self) -> None:
        """Send no more, and give the calls in flight some time to arrive: their replies reach the gate."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._sender.ident is not None:
            self._sender.join()
        for index in self._wait_for_calls():
            self._gate.lost(index)

    def _wait_for_calls(self) -> set[int]:
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, timeout=self._model.grace_s)
            return set(self._in_flight)

    # --- the sending thread

    def _send_all(self) -> None:
        ticked = self._model.clock()
        try:
            while True:
                now = self._model.clock()
                if now - ticked >= _TICK_S:
                    self._gate.tick()
                    ticked = now
                with self._changed:
                    if self._stopping or self._error is not None or not self._unfinished:
                        break
                    attempt, wait = self._next(now)
                    if attempt is None:
                        self._changed.wait(timeout=min(wait, _TICK_S))
                if attempt is not None:
                    self._offer(attempt)
        except BaseException as error:  # a ledger that can't be written, above all: tell the caller's thread
            self._fail(error)
        self._outcomes.put(None)

    def _next(self, now: float) -> tuple[_Attempt | None, float]:
        """(the attempt to make now or None, seconds after which to look again)."""
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        wait = self._delayed[0][0] - now if self._delayed else math.inf
        if not self._ready:
            return None, wait
        with self._model.lock:
            delay = self._model.throttle.delay(now)
        return (self._ready.popleft(), 0.0) if delay <= 0 else (None, min(wait, delay))

    def _offer(self, attempt: _Attempt) -> None:
        index = attempt.index
        verdict = self._gate.admit(index)
        if verdict == "send":
            self._start(attempt)
        elif verdict == "wait":
            with self._changed:
                self._ready.appendleft(attempt)
                self._changed.wait(timeout=_LATER_S[0])
        elif verdict == "later":
            wait = min(_LATER_S[1], _LATER_S[0] * 2.0**attempt.asked)
            self._delay(_Attempt(index, attempt.number, min(attempt.asked + 1, 10)), wait)
        else:
            if isinstance(verdict, Reply):
                self._outcomes.put((index, verdict))
            with self._changed:
                self._unfinished -= 1

    def _start(self, attempt: _Attempt) -> None:
        with self._model.lock:
            sent = self._model.throttle.sent(self._tokens[attempt.index], self._model.clock())
        with self._changed:
            self._in_flight.add(attempt.index)
        threading.Thread(target=self._call, args=(attempt, sent), name="embedfit-call", daemon=True).start()

    def _delay(self, attempt: _Attempt, seconds: float) -> None:
        with self._changed:
            self._sequence += 1
            heapq.heappush(self._delayed, (self._model.clock() + seconds, self._sequence, attempt))
            self._changed.notify_all()

    # --- the threads of calls

    def _call(self, attempt: _Attempt, sent: Sent) -> None:
        try:
            try:
                reply = self._model.transport.send(self._requests[attempt.index])
            except CallError as error:
                with self._model.lock:
                    self._model.hold(error, self._model.clock())
                    self._model.throttle.failed(sent, error, self._model.clock())
                self._failed(attempt, error)
            except BaseException:
                fault = CallError("", maybe_billed=True)
                with self._model.lock:
                    self._model.throttle.failed(sent, fault, self._model.clock())
                self._gate.lost(attempt.index)
                raise
            else:
                with self._model.lock:
                    self._model.throttle.succeeded(sent, self._model.clock())
                self._last_success = self._model.clock()
                self._model.replied = True
                self._finish(attempt.index, reply)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._in_flight.discard(attempt.index)
                self._changed.notify_all()

    def _failed(self, attempt: _Attempt, error: CallError) -> None:
        model = self._model
        if error.maybe_billed:
            self._gate.lost(attempt.index)
        else:
            self._gate.returned(attempt.index)
        model.say_once(error)
        starved_s = model.clock() - self._last_success
        if model.retry.gives_up(error, attempt.number, starved_s, ever=model.replied):
            self._finish(
                attempt.index, Failure(error=error.message, retryable=error.retryable, remedy=error.remedy or "")
            )
            self._judge(error)
            return
        with model.lock:
            wait = model.retry.delay(error, attempt.number, model.rng)
        number = attempt.number if error.throttled else attempt.number + 1
        self._delay(_Attempt(attempt.index, number), wait)

    def _finish(self, index: int, outcome: Reply | Failure) -> None:
        self._gate.settle(index, outcome)
        self._outcomes.put((index, outcome))
        with self._changed:
            self._unfinished -= 1
            self._replies += isinstance(outcome, Reply)
            self._changed.notify_all()

    def _judge(self, error: CallError) -> None:
        """Stop everything where a failure is not about this one call."""
        with self._changed:
            self._given_up += 1
            starved = error.throttled is not None and not self._model.replied
            common = not self._replies and (starved or self._given_up >= _COMMON_FAULT)
        if error.hopeless or common:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


def paced(transport: Transport, report: Reporter) -> RemoteModel:
    """The model behind a transport, asked as fast as its provider takes calls."""
    return RemoteModel(transport, throttle=Throttle(max_concurrency=CONNECTIONS), report=report)
