import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.errors import BudgetExceeded, UsageError
from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import LedgeredModel, ceiling_tokens
from embedfit.llm.prices import Price, Prices
from embedfit.llm.protocol import Failure, Message, Reply, Request
from embedfit.testing.fake_model import FakeModel
from tests.said import Said

PRICES = Prices((Price(provider="fake", model="*", input=1000.0, output=1000.0),))  # 0.001 USD a token


def ask(text, **changes):
    return Request(messages=(Message(role="user", content=text),), max_tokens=changes.pop("max_tokens", 8), **changes)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def shout(request):
    return request.messages[-1].content.upper()


def test_the_second_time_nothing_is_asked(ledger):
    requests = [ask(f"passage {n}") for n in range(700)]
    first, second = FakeModel(shout), FakeModel(shout)
    once = list(LedgeredModel(first, ledger, PRICES).complete(requests))
    again = list(LedgeredModel(second, ledger, PRICES).complete(requests))
    assert sorted(index for index, _, _ in once) == list(range(700))
    assert sorted(once, key=lambda item: item[0]) == sorted(again, key=lambda item: item[0])
    assert len(first.asked) == 700
    assert second.asked == []


def test_equal_requests_share_a_call_and_both_are_answered(ledger):
    model = FakeModel(shout)
    answers = list(LedgeredModel(model, ledger, PRICES).complete([ask("a"), ask("b"), ask("a")]))
    assert sorted((index, reply.text) for index, reply, _ in answers) == [(0, "A"), (1, "B"), (2, "A")]
    assert len(model.asked) == 2


@pytest.mark.parametrize(
    "other",
    [
        ask("b"),
        ask("a", max_tokens=9),
        ask("a", temperature=0.8),
        ask("a", top_p=0.9),
        ask("a", stop=("\n",)),
        ask("a", seed=1),
        ask("a", extra='{"a":1}'),
        Request(messages=(Message(role="system", content="a"),), max_tokens=8),
    ],
)
def test_everything_that_decides_the_reply_is_part_of_the_key(ledger, other):
    model = LedgeredModel(FakeModel(shout), ledger, PRICES)
    assert model.call_id(ask("a")) != model.call_id(other)
    renamed = LedgeredModel(FakeModel(shout, model="fake-2"), ledger, PRICES)
    assert model.call_id(ask("a")) != renamed.call_id(ask("a"))
    elsewhere = LedgeredModel(FakeModel(shout, provider="other"), ledger, PRICES)
    assert model.call_id(ask("a")) != elsewhere.call_id(ask("a"))


def test_a_reply_is_durable_before_it_is_seen(ledger, tmp_path):
    model = LedgeredModel(FakeModel(shout), ledger, PRICES)
    with Ledger(tmp_path / "ledger.sqlite") as other:
        for _, reply, key in model.complete([ask("a"), ask("b")]):
            assert other.find([key]) == {key: reply}


def test_a_failure_is_not_remembered(ledger):
    failing = FakeModel(lambda request: Failure(error="down", retryable=True))
    assert [outcome for _, outcome, _ in LedgeredModel(failing, ledger, PRICES).complete([ask("a")])] == [
        Failure(error="down", retryable=True)
    ]
    model = FakeModel(shout)
    assert [outcome.text for _, outcome, _ in LedgeredModel(model, ledger, PRICES).complete([ask("a")])] == ["A"]


def test_closing_keeps_what_arrived_and_sends_no_more(ledger):
    model = FakeModel(shout)
    answers = LedgeredModel(model, ledger, PRICES).complete([ask(str(n)) for n in range(10)])
    for _ in range(3):
        next(answers)
    answers.close()
    assert len(model.asked) == 3
    rest = FakeModel(shout)
    list(LedgeredModel(rest, ledger, PRICES).complete([ask(str(n)) for n in range(10)]))
    assert [request.messages[0].content for request in rest.asked] == [str(n) for n in range(3, 10)]


def test_max_cost_is_never_exceeded_and_almost_used_up(ledger):
    requests = [ask(f"passage {n:03}", max_tokens=50) for n in range(100)]
    dearest = max(ceiling_tokens(request) + request.max_tokens for request in requests) * 0.001
    model = FakeModel(lambda request: Reply(text="q", input_tokens=10, output_tokens=5))
    metered = LedgeredModel(model, ledger, PRICES, max_cost=1.0)
    answers = []
    with pytest.raises(BudgetExceeded, match="--max-cost"):
        for answer in metered.complete(requests):
            answers.append(answer)
            assert metered.usage.usd <= 1.0
    assert len(answers) == len(model.asked) == metered.usage.calls
    assert 1.0 - dearest < metered.usage.usd + 0.015 <= 1.015  # the next call might have been too dear
    assert metered.budget.spent == pytest.approx(metered.usage.usd)


def test_money_of_an_earlier_process_of_the_same_run_counts(ledger):
    model = FakeModel(lambda request: Reply(text="q", input_tokens=10, output_tokens=5))
    list(LedgeredModel(model, ledger, PRICES, run="runs/a").complete([ask(str(n)) for n in range(10)]))
    assert ledger.spent("runs/a") == pytest.approx(0.15)
    ledger.sending("x", 0.5, run="runs/a")
    ledger.lost("x")
    metered = LedgeredModel(model, ledger, PRICES, max_cost=0.66, run="runs/a")
    with pytest.raises(BudgetExceeded):
        list(metered.complete([ask("new")]))
    assert list(LedgeredModel(model, ledger, PRICES, max_cost=0.66, run="runs/b").complete([ask("new")]))


def test_max_cost_without_a_price_is_refused(ledger):
    with pytest.raises(UsageError, match="No price is known for fake-1"):
        LedgeredModel(FakeModel(shout), ledger, Prices(), max_cost=1.0)
    free = LedgeredModel(FakeModel(shout), ledger, Prices())
    estimate = free.estimate([ask("a b c")])
    assert (estimate.usd, estimate.calls) == (None, 1)
    assert "cost unknown" in str(estimate)


def test_estimate_counts_what_is_missing_and_learns(ledger):
    model = LedgeredModel(FakeModel(lambda request: "one two"), ledger, PRICES)
    requests = [ask(f"some passage number {n}", max_tokens=10) for n in range(30)]
    before = model.estimate(requests)
    assert (before.calls, before.cached, before.input_tokens, before.output_tokens) == (30, 0, 120, 300)
    assert before.usd == pytest.approx(0.42)
    assert before.ceiling_usd >= before.usd
    list(model.complete(requests[:25]))
    after = model.estimate(requests)
    assert (after.calls, after.cached) == (5, 25)
    assert after.output_tokens == 10  # two words a reply, not the ten that it might take
    assert abs(after.input_tokens - 20) <= 1
    assert "25 more from the ledger" in str(after)
    list(model.complete(requests))
    assert "no calls" in str(model.estimate(requests))


def test_a_model_that_forgets_a_request_is_found_out(ledger):
    model = LedgeredModel(FakeModel(shout, order=lambda n: range(n - 1)), ledger, PRICES)
    with pytest.raises(Exception, match="left 1 of 3 requests unanswered"):
        list(model.complete([ask("a"), ask("b"), ask("c")]))


def test_what_the_model_failed_at_is_asked_of_the_fallback_at_its_price(ledger):
    prices = Prices((*PRICES.entries, Price(provider="dear", model="*", input=2000.0, output=2000.0)))

    def half(request):
        even = int(request.messages[0].content) % 2 == 0
        return Reply(text="cheap", input_tokens=1, output_tokens=1) if even else Failure(error="x", retryable=True)

    asked = FakeModel(half)
    asked.fallback = FakeModel(lambda request: Reply(text="dear", input_tokens=1, output_tokens=1))
    asked.fallback.price_provider = "dear"
    model = LedgeredModel(asked, ledger, prices)
    answers = {index: reply.text for index, reply, _ in model.complete([ask(str(n)) for n in range(4)])}
    assert answers == {0: "cheap", 1: "dear", 2: "cheap", 3: "dear"}
    assert model.usage.usd == pytest.approx(2 * 0.002 + 2 * 0.004)
    assert len(list(FakeModel(shout).asked)) == 0


def test_what_another_run_pays_for_meanwhile_is_not_asked(ledger, tmp_path):
    report, model = Said(), FakeModel(shout)
    metered = LedgeredModel(model, ledger, PRICES, report=report)
    key = metered.call_id(ask("a"))
    answers = []
    with Ledger(tmp_path / "ledger.sqlite") as other, other.paying():
        thread = threading.Thread(target=lambda: answers.extend(metered.complete([ask("b"), ask("a")])))
        thread.start()
        while not report.lines:
            time.sleep(0.01)
        other.put(key, "fake", "fake-1", ask("a"), Reply(text="theirs", input_tokens=1, output_tokens=1), usd=0.1)
    thread.join()
    assert sorted((index, reply.text) for index, reply, _ in answers) == [(0, "B"), (1, "theirs")]
    assert [request.messages[0].content for request in model.asked] == ["b"]
    assert "Another run is paying" in report.lines[0]


def test_who_has_everything_in_the_ledger_waits_for_nobody(ledger, tmp_path):
    list(LedgeredModel(FakeModel(shout), ledger, PRICES).complete([ask("a")]))
    with Ledger(tmp_path / "ledger.sqlite") as other, other.paying():
        answers = LedgeredModel(FakeModel(shout), ledger, PRICES).complete([ask("a")])
        assert [reply.text for _, reply, _ in answers] == ["A"]


def test_a_free_model_of_this_process_waits_for_nobody(ledger, tmp_path):
    class Here(FakeModel):
        takes_turns = False

    free = Prices((Price(provider="fake", model="*", input=0.0, output=0.0),))
    with Ledger(tmp_path / "ledger.sqlite") as other, other.paying():
        answers = LedgeredModel(Here(shout), ledger, free).complete([ask("a")])
        assert [reply.text for _, reply, _ in answers] == ["A"]


@given(
    prices=st.floats(0.0, 2000.0),
    limit=st.floats(0.0, 0.5),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["reply", "failure", "dead"])), max_size=12),
)
@settings(max_examples=40, deadline=None)
def test_no_mixture_of_replies_failures_and_deaths_passes_the_limit(tmp_path_factory, prices, limit, sizes):
    """What the service may have billed, deaths included, stays within the limit, whichever process counts."""
    table = Prices((Price(provider="fake", model="*", input=prices, output=prices),))
    path = tmp_path_factory.mktemp("l") / "ledger.sqlite"
    billed = 0.0
    for number, (size, fate) in enumerate(sizes):

        def answer(request, size=size, fate=fate):
            nonlocal billed
            if fate == "dead":
                billed += (4 + size) * prices / 1e6
                raise MemoryError
            if fate == "failure":
                return Failure(error="down", retryable=False)
            billed += (1 + size) * prices / 1e6
            return Reply(text="x", input_tokens=1, output_tokens=size)

        with Ledger(path) as one:
            model = LedgeredModel(Dying(answer), one, table, max_cost=limit, run="r")
            with suppress(MemoryError, BudgetExceeded):
                list(model.complete([ask(f"{number}", max_tokens=size)]))
            assert billed <= one.spent("r") + 1e-9
            assert one.spent("r") <= limit + 1e-6


class Dying(FakeModel):
    """Sends one call after the other; one that raises leaves its call in flight, as a killed process does."""

    def complete_through(self, requests, gate):
        for index in range(len(requests)):
            if gate.admit(index):
                for _, outcome in self.complete([requests[index]]):
                    gate.received(index, outcome) if isinstance(outcome, Reply) else gate.returned(index)
                    yield index, outcome


def test_keys_of_calls_without_further_fields_are_those_of_old_ledgers(ledger):
    assert LedgeredModel(FakeModel(shout), ledger, PRICES).call_id(ask("a")) == "378041f40b695bf3677836654445b4c1"
