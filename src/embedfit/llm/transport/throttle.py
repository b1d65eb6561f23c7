"""The pace of calls to a provider: additive increase, multiplicative decrease (Chiu and Jain, 1989).

Two bounds learn from what happens. The number of calls in flight rises with each quick reply and falls on overload. The
pace, in calls per second, is unbounded until the provider first says "too many"; then it drops to the rate of recently
accepted calls, and rises again steadily.

Nothing here waits or reads a clock: every method is given the time, in seconds.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque

from embedfit.llm.transport.retry import CallError

_DECREASE = 0.93  # the factor on the pace at a refusal
_INCREASE = 0.5  # the share that the pace gains in a minute without refusal
_LEAST = 0.1  # calls per second, however much is refused


class Throttle:
    """When the next call may go.

    max_concurrency: calls in flight at most. start: calls in flight at first. minute: length in seconds of the time
    in which the provider counts; tests shorten it. patience_s: no more calls in flight are tried while replies take
    longer than this, for a server that queues gains nothing from more.
    """

    def __init__(
        self, *, max_concurrency: int = 64, start: int = 8, minute: float = 60.0, patience_s: float = 30.0
    ) -> None:
        self.limit, self._max = float(min(start, max_concurrency)), max_concurrency
        self.rate = math.inf
        self._minute, self._patience_s = minute, patience_s
        self._doubling = True
        self._accepted: deque[float] = deque()  # the times at which accepted calls were sent
        self._refusals = 0  # one after another, since the last accepted call
        self._next = self._cut_at = self._grown_at = -math.inf

    def delay(self, now: float, in_flight: int) -> float:
        """Seconds until another call may go; infinite if one in flight must end first."""
        return math.inf if in_flight >= int(self.limit) else max(0.0, self._next - now)

    def sent(self, now: float) -> None:
        """Count a call."""
        if self.rate < math.inf:
            self.rate *= 1 + _INCREASE * (now - self._grown_at) / self._minute
            self._grown_at = now
        self._next = max(self._next, now) + 1 / self.rate
        self._accepted.append(now)

    def succeeded(self, sent: float, now: float, in_flight: int) -> None:
        """Count a reply. sent: when its call went; in_flight: calls at that moment, this one included."""
        self._refusals = 0
        if 2 * in_flight >= int(self.limit) and now - sent < self._patience_s:
            self.limit = min(self._max, self.limit + (1.0 if self._doubling else 1.0 / self.limit))

    def failed(self, sent: float, error: CallError, now: float) -> None:
        """Count a call without a reply."""
        if error.throttled:
            self._refusals += sent > self._cut_at  # once for all calls that were on their way together
            with contextlib.suppress(ValueError):  # a call that took longer than a minute is no longer counted
                self._accepted.remove(sent)
            self._slow_down(sent, now)
            # A provider that refuses everything, and does not say for how long, is asked less and less often.
            grown = min(self._minute / 240 * 2.0 ** (min(self._refusals, 9) - 1), self._minute / 2)
            self._next = now + (grown if error.retry_after is None else min(error.retry_after, self._minute))
        elif error.retryable and sent > self._cut_at:  # overload or a time-out: fewer calls at once
            self.limit, self._doubling, self._cut_at = max(1.0, 0.7 * self.limit), False, now

    def _slow_down(self, sent: float, now: float) -> None:
        """Lower the pace once for all calls that were sent before."""
        if sent <= self._cut_at:
            return
        while self._accepted and self._accepted[0] <= now - self._minute:
            self._accepted.popleft()
        since = max(now - self._accepted[0], self._minute / 12) if self._accepted else self._minute
        lowered = _DECREASE * self.rate if self.rate < math.inf else len(self._accepted) / since
        self.rate = max(lowered, len(self._accepted) / self._minute, _LEAST)
        self._cut_at = self._grown_at = now
