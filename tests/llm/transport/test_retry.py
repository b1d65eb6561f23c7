import random

import pytest

from embedfit.llm.transport.retry import CallError, RetryPolicy


@pytest.mark.parametrize("status", [408, 424, 429, 500, 502, 503, 504, 529, None])
def test_what_may_pass_is_tried_again(status):
    assert not RetryPolicy().gives_up(CallError("", status=status), 1, 0.0)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_what_will_not_pass_is_not(status):
    assert RetryPolicy().gives_up(CallError("", status=status), 1, 0.0)


@pytest.mark.parametrize(("status", "hopeless"), [(401, True), (403, True), (404, True), (400, False), (500, False)])
def test_some_failures_are_about_every_call(status, hopeless):
    assert CallError("", status=status).hopeless == hopeless


def test_a_call_is_given_up_after_so_many_faults_but_throttling_is_no_fault():
    policy = RetryPolicy(attempts=3, patience_s=100.0)
    fault, throttled = CallError("", status=503), CallError("", status=429, throttled=True)
    assert [policy.gives_up(fault, attempt, 0.0) for attempt in (1, 2, 3)] == [False, False, True]
    assert not policy.gives_up(throttled, 1000, 99.0)
    assert policy.gives_up(throttled, 1, 101.0)


def test_waits_grow_with_full_jitter_up_to_the_cap():
    policy, rng = RetryPolicy(base_s=0.5, cap_s=10.0), random.Random(1)
    for attempt, top in ((1, 0.5), (2, 1.0), (3, 2.0), (6, 10.0), (60, 10.0)):
        waits = [policy.delay(CallError("", status=500), attempt, rng) for _ in range(500)]
        assert max(waits) <= top
        assert min(waits) < 0.1 * top < 0.9 * top < max(waits)


def test_the_wait_that_the_provider_asks_for_is_kept_within_reason():
    policy, rng = RetryPolicy(cap_s=10.0), random.Random(1)
    assert policy.delay(CallError("", status=503, retry_after=7.0), 1, rng) >= 7.0
    assert policy.delay(CallError("", status=503, retry_after=1e9), 1, rng) == 40.0
