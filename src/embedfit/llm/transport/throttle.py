"""How fast a provider may be asked: finds its quotas by trying, and stays there.

Two paces, one of requests and one of tokens, and a limit on calls in flight. Each learns from
refusals, by additive increase and multiplicative decrease (Chiu and Jain, 1989). What keeps them
within a few percent of a quota, instead of sawing through half of it:

* a decrease is small, and never goes below what the provider did accept a moment ago (or, where it
  has shut altogether until its next minute begins, during the last minute);
* refusals of calls that were sent before the last decrease say nothing new and are not counted;
* the increase is slow at first and then faster and faster, as in CUBIC (RFC 9438), so that a quota
  which another program used for a while is found again soon.

Nothing here waits or reads a clock: every method is told the time, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from embedfit.llm.transport.retry import CallError


@dataclass(slots=True)
class Booking:
    """An amount that was asked of a quota; 0 once it was refused."""

    at: float
    amount: float


class Pace:
    """Amount per second of one resource. Unlimited until the first refusal, unless told a quota.

    minute: length in seconds of the window in which the provider counts (tests shorten it).
    per_minute: a quota that is known; refusals still lower it.
    """

    DECREASE = 0.95
    INCREASE = 0.15  # of the rate, in the first minute's terms; see _grow
    RESTLESS = 0.1  # minutes without refusal after which the increase has doubled
    RECENT = 1 / 12  # minutes that "a moment ago" means
    REFUND = 0.9  # share of the pause after a call that is given back if the call was refused: it took no quota
    LATENESS = 0.02  # minutes of lateness in sending that are made up for
    LEAST = 6.0  # calls a minute, however much is refused

    def __init__(self, minute: float = 60.0, per_minute: float = math.inf) -> None:
        self.rate = per_minute / minute
        self._ceiling = self.rate
        self._minute = minute
        self._next = -math.inf
        self._held_until = -math.inf
        self._refused_at = -math.inf
        self._grown_at = -math.inf
        self._booked: deque[Booking] = deque()
        self._largest = 1.0

    def delay(self, now: float) -> float:
        """Seconds until the next call may go; 0 for now."""
        return max(0.0, self._next - now, self._held_until - now)

    def sent(self, amount: float, now: float) -> Booking:
        """Book a call. It counts as accepted until it is refused."""
        self._grow(now)
        self._largest = max(self._largest, amount)
        self._next = max(self._next, now - self.LATENESS * self._minute) + amount / self.rate
        booking = Booking(now, amount)
        self._booked.append(booking)
        while self._booked[0].at <= now - self._minute:
            self._booked.popleft()
        return booking

    def refused(self, booking: Booking, now: float, retry_after: float | None = None) -> None:
        """Slow down, for a call was refused for want of this resource."""
        booking.amount = 0.0
        if retry_after is not None:
            self._held_until = max(self._held_until, now + min(retry_after, self._minute))
        if booking.at <= self._refused_at:
            return
        self._grow(now)
        lowered = 0.0 if math.isinf(self.rate) else self.DECREASE * self.rate
        least = self.LEAST * self._largest / self._minute
        self.rate = min(self._ceiling, max(lowered, self._accepted_rate(now), least))
        self._next -= self.REFUND * self._largest / self.rate
        self._refused_at = self._grown_at = now

    def _accepted_rate(self, now: float) -> float:
        """What was accepted of late, per second."""
        recent = self.RECENT * self._minute
        long = sum(booking.amount for booking in self._booked if booking.at > now - self._minute) / self._minute
        short = sum(booking.amount for booking in self._booked if booking.at > now - recent) / recent
        return short if short > 0.25 * long else long

    def _grow(self, now: float) -> None:
        if not math.isinf(self.rate):
            since, before = (
                (time - self._refused_at) / self._minute if self._refused_at > -math.inf else 0.0
                for time in (now, self._grown_at)
            )
            # d(log rate)/dt = INCREASE · (1 + (t / RESTLESS)²), t in minutes since the last refusal
            power = self.INCREASE * (since - before + (since**3 - before**3) / (3.0 * self.RESTLESS**2))
            self.rate = min(self._ceiling, self.rate * math.exp(min(power, 5.0)))
        self._grown_at = now


@dataclass(frozen=True, slots=True)
class Sent:
    """A call in flight."""

    at: float
    requests: Booking
    tokens: Booking


class Throttle:
    """When the next call may go.

    max_concurrency: calls in flight at most. patience_s: no more calls in flight are tried while
    replies take longer than this (a server of one's own that queues gains nothing from more).
    """

    def __init__(
        self,
        *,
        max_concurrency: int = 64,
        start: int = 8,
        minute: float = 60.0,
        requests_per_minute: float = math.inf,
        tokens_per_minute: float = math.inf,
        patience_s: float = 30.0,
    ) -> None:
        self.requests = Pace(minute, requests_per_minute)
        self.tokens = Pace(minute, tokens_per_minute)
        self.in_flight = 0
        self.limit = float(min(start, max_concurrency))
        self._max = max_concurrency
        self._patience_s = patience_s
        self._slow_start = True
        self._cut_at = -math.inf

    def delay(self, now: float) -> float:
        """Seconds until another call may go; infinite where one in flight must end first."""
        if self.in_flight >= int(self.limit):
            return math.inf
        return max(self.requests.delay(now), self.tokens.delay(now))

    def sent(self, tokens: float, now: float) -> Sent:
        """Book a call."""
        self.in_flight += 1
        return Sent(now, self.requests.sent(1.0, now), self.tokens.sent(tokens, now))

    def succeeded(self, call: Sent, now: float) -> None:
        """Count a reply."""
        crowded = 2 * self.in_flight >= int(self.limit)
        self.in_flight -= 1
        if crowded and now - call.at < self._patience_s:
            self.limit = min(self._max, self.limit + (1.0 if self._slow_start else 1.0 / self.limit))

    def failed(self, call: Sent, error: CallError, now: float) -> None:
        """Count a call without a reply."""
        self.in_flight -= 1
        if error.throttled is not None:  # neither quota was charged, but only one is to blame
            blamed = self.requests if error.throttled == "requests" else self.tokens
            call.requests.amount = call.tokens.amount = 0.0
            blamed.refused(call.tokens if blamed is self.tokens else call.requests, now, error.retry_after)
        elif error.retryable and call.at > self._cut_at:  # overload or a time-out: fewer at once
            self.limit = max(1.0, 0.7 * self.limit)
            self._slow_start = False
            self._cut_at = now
