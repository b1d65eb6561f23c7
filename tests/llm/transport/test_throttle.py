"""The throttle against simulated services, on a clock that only the simulation moves."""

import heapq
import math
import random

import pytest

from embedfit.llm.transport.retry import CallError
from embedfit.llm.transport.throttle import Pace, Throttle
from embedfit.testing.language_service import Quota


def simulate(throttle, *, minutes, requests=None, tokens=None, latency_s=2.0, seed=0, change=None):
    """Ask as fast as the throttle allows. Returns ((time, tokens) of accepted calls, refusals)."""
    rng = random.Random(seed)
    now, number = 0.0, 0
    ends: list = []
    accepted, refused = [], []
    while now < minutes * 60.0:
        if change is not None:
            change(now)
        delay = throttle.delay(now)
        if delay > 0:
            now = max(now, min(now + delay, ends[0][0] if ends else math.inf))
            while ends and ends[0][0] <= now:
                _, _, call, error = heapq.heappop(ends)
                if error is None:
                    throttle.succeeded(call, now)
                else:
                    throttle.failed(call, error, now)
            continue
        size = rng.randint(500, 1100)
        call = throttle.sent(size, now)
        number += 1
        for quota, amount, name in ((requests, 1, "requests"), (tokens, size, "tokens")):
            if quota is not None and not quota.allows(amount, now):
                refused.append((now, name))
                heapq.heappush(ends, (now + 0.05, number, call, CallError("", status=429, throttled=name)))
                break
        else:
            for quota, amount in ((requests, 1), (tokens, size)):
                if quota is not None:
                    quota.take(amount)
            accepted.append((now, size))
            heapq.heappush(ends, (now + latency_s * rng.uniform(0.5, 1.5), number, call, None))
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
@pytest.mark.parametrize("per_minute", [60, 800])
def test_requests_per_minute_are_used_to_95_percent(kind, per_minute):
    quota = Quota(per_minute, **kind)
    accepted, _ = simulate(Throttle(max_concurrency=256), minutes=8, requests=quota)
    assert use(accepted, quota, 2, 8) >= 0.95


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_tokens_per_minute_are_used_to_95_percent_under_a_looser_limit_of_requests(kind):
    requests, tokens = Quota(800, **kind), Quota(300_000, **kind)
    accepted, _ = simulate(Throttle(max_concurrency=256), minutes=8, requests=requests, tokens=tokens)
    assert use(accepted, tokens, 2, 8, of="tokens") >= 0.95


def test_few_calls_are_refused_once_the_quota_is_found():
    quota = Quota(800)
    accepted, refused = simulate(Throttle(max_concurrency=256), minutes=10, requests=quota)
    assert sum(at >= 120 for at, _ in refused) < 0.05 * sum(at >= 120 for at, _ in accepted)


def test_a_quota_that_others_used_for_a_while_is_found_again():
    quota = Quota(600)

    def change(now):
        quota.per_minute = 60 if 180 <= now < 360 else 600

    accepted, _ = simulate(Throttle(max_concurrency=64), minutes=12, requests=quota, change=change)
    assert use(accepted, quota, 1, 3) >= 0.95
    assert use(accepted, Quota(60), 4, 6) >= 0.95
    assert use(accepted, quota, 8, 12) >= 0.95


def test_a_quota_that_is_known_is_kept_from_the_start():
    quota = Quota(600)
    accepted, refused = simulate(Throttle(requests_per_minute=600), minutes=3, requests=quota)
    assert refused == []
    assert use(accepted, quota, 0, 3) >= 0.95


def test_without_quotas_calls_in_flight_are_the_limit():
    throttle = Throttle(max_concurrency=32)
    accepted, _ = simulate(throttle, minutes=2, latency_s=1.0)
    assert throttle.limit == 32
    assert len(accepted) == pytest.approx(2 * 60 * 32, rel=0.1)


def test_overload_means_fewer_at_once_but_once_per_round_trip():
    throttle = Throttle(max_concurrency=64, start=40)
    calls = [throttle.sent(100, 0.0) for _ in range(40)]
    for call in calls:
        throttle.failed(call, CallError("", status=503), 1.0)
    assert throttle.in_flight == 0
    assert throttle.limit == pytest.approx(28)
    for at in range(100):
        for call in [throttle.sent(100, float(at)) for _ in range(int(throttle.limit))]:
            throttle.succeeded(call, at + 0.5)
    assert throttle.limit == 64


def test_a_server_that_queues_is_not_given_more_than_it_can_use():
    throttle = Throttle(max_concurrency=64, start=4, patience_s=30.0)
    for at in range(20):
        for call in [throttle.sent(100, 60.0 * at) for _ in range(int(throttle.limit))]:
            throttle.succeeded(call, 60.0 * at + 40.0)
    assert throttle.limit == 4


def test_bad_requests_change_nothing():
    throttle = Throttle(start=8)
    throttle.failed(throttle.sent(100, 0.0), CallError("", status=400), 1.0)
    assert (throttle.limit, throttle.delay(1.0)) == (8, 0.0)


def test_the_wait_that_the_provider_asks_for_is_kept_up_to_a_minute():
    pace = Pace()
    pace.refused(pace.sent(1.0, 0.0), 1.0, retry_after=5.0)
    assert pace.delay(1.0) == pytest.approx(5.0, abs=6.0)
    assert pace.delay(1.0) >= 5.0
    pace.refused(pace.sent(1.0, 10.0), 11.0, retry_after=86_400.0)
    assert pace.delay(11.0) == pytest.approx(60.0)


def test_refusals_of_one_moment_count_once():
    pace = Pace(per_minute=6000)
    bookings = [pace.sent(1.0, 0.001 * n) for n in range(50)]
    for booking in bookings:
        pace.refused(booking, 0.2)
    assert pace.rate == pytest.approx(95.0)
