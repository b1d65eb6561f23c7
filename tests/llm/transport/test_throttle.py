"""The throttle against simulated services, on a clock that only the simulation moves."""

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.llm.transport.retry import CallError
from embedfit.llm.transport.throttle import Throttle
from embedfit.testing.language_service import Quota


def simulate(throttle, *, minutes, requests=None, tokens=None, latency_s=2.0, seed=0, change=None):
    """Ask as fast as the throttle allows. Returns ((time, tokens) of accepted calls, times of refusals)."""
    rng = random.Random(seed)
    now, number = 0.0, 0
    ends: list = []
    accepted, refused = [], []
    while now < minutes * 60.0:
        if change is not None:
            change(now)
        delay = throttle.delay(now, len(ends))
        if delay > 0:
            now = max(now, min(now + delay, ends[0][0] if ends else math.inf))
            while ends and ends[0][0] <= now:
                _, _, sent, error = heapq.heappop(ends)
                if error is None:
                    throttle.succeeded(sent, now, len(ends) + 1)
                else:
                    throttle.failed(sent, error, now)
            continue
        size = rng.randint(500, 1100)
        throttle.sent(now)
        number += 1
        quotas = [(quota, amount) for quota, amount in ((requests, 1), (tokens, size)) if quota is not None]
        if all(quota.allows(amount, now) for quota, amount in quotas):
            for quota, amount in quotas:
                quota.take(amount)
            accepted.append((now, size))
            heapq.heappush(ends, (now + latency_s * rng.uniform(0.5, 1.5), number, now, None))
        else:
            refused.append(now)
            heapq.heappush(ends, (now + 0.05, number, now, CallError("", status=429, throttled=True)))
    return accepted, refused


def use(accepted, quota, first, last, *, of="requests"):
    """Share of a per-minute quota that was used between two minutes."""
    amount = sum(size if of == "tokens" else 1 for at, size in accepted if first * 60 <= at < last * 60)
    return amount / (last - first) / quota.per_minute


KINDS = {
    "a bucket that holds a second": {"kind": "bucket", "burst": 1 / 60},
    "a bucket that holds five seconds": {"kind": "bucket", "burst": 1 / 12},
    "a bucket that holds a minute": {"kind": "bucket", "burst": 1.0},
    "a window that starts anew each minute": {"kind": "window"},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize(("per_minute", "share"), [(20, 0.9), (60, 0.9), (800, 0.95), (3000, 0.95)])
def test_requests_per_minute_are_used(kind, per_minute, share):
    quota = Quota(per_minute, **kind)
    accepted, _ = simulate(Throttle(max_concurrency=256), minutes=8, requests=quota)
    assert use(accepted, quota, 2, 8) >= share


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_tokens_per_minute_are_used_to_95_percent_under_a_looser_limit_of_requests(kind):
    requests, tokens = Quota(800, **kind), Quota(300_000, **kind)
    accepted, _ = simulate(Throttle(max_concurrency=256), minutes=8, requests=requests, tokens=tokens)
    assert use(accepted, tokens, 2, 8, of="tokens") >= 0.95


def test_few_calls_are_refused_once_the_quota_is_found():
    quota = Quota(800)
    accepted, refused = simulate(Throttle(max_concurrency=256), minutes=10, requests=quota)
    assert sum(at >= 120 for at in refused) < 0.05 * sum(at >= 120 for at, _ in accepted)


def test_a_quota_that_others_used_for_a_while_is_found_again():
    quota = Quota(600)

    def change(now):
        quota.per_minute = 60 if 180 <= now < 360 else 600

    accepted, _ = simulate(Throttle(max_concurrency=64), minutes=14, requests=quota, change=change)
    assert use(accepted, quota, 1, 3) >= 0.95
    assert use(accepted, Quota(60), 4, 6) >= 0.95
    assert use(accepted, quota, 10, 14) >= 0.95


def test_without_quotas_calls_in_flight_are_the_limit():
    throttle = Throttle(max_concurrency=32)
    accepted, _ = simulate(throttle, minutes=2, latency_s=1.0)
    assert throttle.limit == 32
    assert len(accepted) == pytest.approx(2 * 60 * 32, rel=0.1)


def test_overload_means_fewer_at_once_but_once_per_round_trip():
    throttle = Throttle(max_concurrency=64, start=40)
    for _ in range(40):
        throttle.sent(0.0)
    for _ in range(40):
        throttle.failed(0.0, CallError("", status=503), 1.0)
    assert throttle.limit == pytest.approx(28)
    for at in range(2, 100):
        _round(throttle, float(at), 0.5)
    assert throttle.limit == 64


def _round(throttle, at, latency_s):
    """As many calls at once as may be, all answered after so many seconds."""
    count = int(throttle.limit)
    for _ in range(count):
        throttle.sent(at)
    for left in range(count, 0, -1):
        throttle.succeeded(at, at + latency_s, left)


def test_a_server_that_queues_is_not_given_more_than_it_can_use():
    throttle = Throttle(max_concurrency=64, start=4, patience_s=30.0)
    for at in range(20):
        _round(throttle, 60.0 * at, 40.0)
    assert throttle.limit == 4


def test_bad_requests_change_nothing():
    throttle = Throttle(start=8)
    throttle.sent(0.0)
    throttle.failed(0.0, CallError("", status=400), 1.0)
    assert (throttle.limit, throttle.delay(1.0, 0)) == (8, 0.0)


def test_no_more_calls_are_in_flight_than_the_limit():
    throttle = Throttle(max_concurrency=4)
    assert (throttle.delay(0.0, 3), throttle.delay(0.0, 4)) == (0.0, math.inf)


@pytest.mark.parametrize(("asked_s", "kept_s"), [(0.0, 0.0), (5.0, 5.0), (60.0, 60.0), (86_400.0, 60.0)])
def test_the_wait_that_the_provider_asks_for_is_kept_up_to_a_minute(asked_s, kept_s):
    throttle = Throttle()
    throttle.sent(0.0)
    throttle.failed(0.0, CallError("", status=429, throttled=True, retry_after=asked_s), 1.0)
    assert throttle.delay(1.0, 0) == pytest.approx(kept_s)


def test_a_provider_that_takes_nothing_is_asked_less_and_less_often():
    throttle, now, waits = Throttle(), 0.0, []
    for _ in range(9):
        throttle.sent(now)
        throttle.failed(now, CallError("", status=429, throttled=True), now)
        waits.append(throttle.delay(now, 0))
        now += waits[-1]
    assert waits == sorted(waits)
    assert waits[0] < 1.0 < waits[4] < waits[-1] == 30.0


def test_refusals_of_one_moment_count_once():
    throttle = Throttle()
    for number in range(50):
        throttle.sent(0.1 * number)
    throttle.failed(0.0, CallError("", status=429, throttled=True), 6.0)
    pace = throttle.rate
    for number in range(1, 50):
        throttle.failed(0.1 * number, CallError("", status=429, throttled=True), 6.0)
    assert throttle.rate == pace
    throttle.sent(60.0)
    throttle.failed(60.0, CallError("", status=429, throttled=True), 60.0)
    assert throttle.rate < 1.5 * pace


@pytest.mark.parametrize("crowd", [1, 8, 64])
def test_calls_that_are_refused_together_are_one_refusal(crowd):
    throttle = Throttle(max_concurrency=crowd, start=crowd)
    for _ in range(crowd):
        throttle.sent(0.0)
    for _ in range(crowd):
        throttle.failed(0.0, CallError("slow down", status=429, throttled=True), 0.5)
    assert throttle.delay(0.5, 0) <= 0.25
    throttle.sent(1.0)
    throttle.failed(1.0, CallError("slow down", status=429, throttled=True), 1.5)
    assert throttle.delay(1.5, 0) == pytest.approx(0.5)  # the next one waits longer


_ENDS = (
    None,
    CallError("", status=503),
    CallError("", status=429, throttled=True),
    CallError("", status=429, throttled=True, retry_after=5.0),
)


@given(
    calls=st.lists(st.tuples(st.floats(0, 200), st.floats(0, 400), st.sampled_from(_ENDS)), min_size=1, max_size=40),
    minute=st.sampled_from([0.5, 60.0]),
)
def test_calls_may_end_in_any_order_and_after_any_time(calls, minute):
    throttle = Throttle(max_concurrency=len(calls), start=len(calls), minute=minute)
    events = [(sent, 0, sent, None) for sent, _, _ in calls]
    events += [(sent + took, 1, sent, end) for sent, took, end in calls]
    in_flight = 0
    for now, ends, sent, end in sorted(events, key=lambda event: event[:2]):
        if not ends:
            throttle.sent(now)
        elif end is None:
            throttle.succeeded(sent, now, in_flight)
        else:
            throttle.failed(sent, end, now)
        in_flight += -1 if ends else 1
        assert throttle.rate >= 0.1
        assert 1 <= throttle.limit <= len(calls)
        assert 0 <= throttle.delay(now, 0) < math.inf
