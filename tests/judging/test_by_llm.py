"""A language model as judge: through the ledger, under the budget, with a reason for every missing score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embedfit.config import GenerateConfig
from embedfit.errors import GeneratorError, UsageError
from embedfit.judging.by_llm import LlmJudge, calls_for
from embedfit.judging.judge import Pair
from embedfit.judging.opening import opened_judge
from embedfit.judging.prompt import QUERIES_PER_CALL
from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import OVER_BUDGET, LedgeredModel
from embedfit.llm.prices import Price, Prices
from embedfit.llm.probing import FIRST, FIRST_OF_LIMIT, LIMITS
from embedfit.llm.protocol import Failure, Reply, Request
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel

PRICES = Prices((Price(provider="fake", model="*", input=1.0, output=1.0),))
YES = {"confirm": lambda question: True}


def asked_queries(request: Request) -> list[str]:
    return request.messages[-1].content.split("<queries>\n")[1].splitlines()[:-1]


def by_overlap(request: Request) -> str:
    """3 for a query whose last word is in the passage, else 0."""
    passage = request.messages[-1].content.split("</passage>")[0].split()
    return json.dumps([3 if query.split()[-1] in passage else 0 for query in asked_queries(request)])


def judge_of(tmp_path: Path, model: FakeModel, **settings: float) -> LlmJudge:
    metered = LedgeredModel(model, Ledger(tmp_path / "l.sqlite"), PRICES, **settings)  # type: ignore[arg-type]
    return LlmJudge(metered, Runtime(ledger=tmp_path / "l.sqlite", **YES))


def test_queries_of_a_passage_share_calls_and_everyone_gets_a_verdict(tmp_path: Path) -> None:
    pairs = [Pair(f"query {n} {'red' if n % 2 else 'blue'}", f"the {colour} one") for n in range(12)
             for colour in ("red", "blue")]  # fmt: skip
    model = FakeModel(by_overlap)
    judge = judge_of(tmp_path, model)
    verdicts = judge.judge([*pairs, pairs[0]])
    assert [verdict.score for verdict in verdicts[:-1]] == [float(pair.query.split()[-1] in pair.passage)
                                                           for pair in pairs]  # fmt: skip
    assert verdicts[-1] == verdicts[0]
    assert len(model.asked) == 4, "two passages with twelve queries each, at most eight a call"
    assert max(len(asked_queries(request)) for request in model.asked) == 6 <= QUERIES_PER_CALL
    assert all(verdict.call_id for verdict in verdicts)
    judge.judge(pairs)
    assert len(model.asked) == 4, "the second time the ledger answers"


def test_every_missing_score_has_its_reason(tmp_path: Path) -> None:
    replies: dict[str, str | Reply | Failure] = {
        "p1": "I would rather not say.",
        "p2": Reply(text="", input_tokens=1, output_tokens=0, finish="refusal"),
        "p3": Failure(error="overloaded", retryable=True),
        "p4": "[2]",
        "p5": "[5]",
    }
    model = FakeModel(lambda request: replies[request.messages[-1].content.split()[1]])
    verdicts = judge_of(tmp_path, model).judge([Pair("q", name) for name in replies])
    assert [verdict.score for verdict in verdicts] == [None, None, None, pytest.approx(2 / 3), None]
    unread = "no score in the judge's reply"
    reasons = [unread, "the judge refused", "call failed: overloaded", "", unread]
    assert [verdict.reason for verdict in verdicts] == reasons


def test_a_judge_that_always_fails_is_an_error(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, FakeModel(lambda request: Failure(error="gone", retryable=False)))
    with pytest.raises(GeneratorError, match=r"All 2 calls failed.*gone") as caught:
        judge.judge([Pair("q", "a"), Pair("q", "b")])
    assert "judge_min=0" in str(caught.value)


def test_the_judge_keeps_to_the_budget_and_says_what_it_did_not_read(tmp_path: Path) -> None:
    model = FakeModel(lambda request: Reply(text="[3]", input_tokens=400, output_tokens=3))
    judge = judge_of(tmp_path, model, max_cost=0.01)
    verdicts = judge.judge([Pair("q", f"passage {n}") for n in range(100)])
    reasons = {verdict.reason for verdict in verdicts}
    assert reasons == {"", OVER_BUDGET}
    assert 5 < len(model.asked) < 30 and len(model.asked) * 403e-6 <= 0.01
    assert sum(verdict.score == 1.0 for verdict in verdicts) == len(model.asked)


def test_the_judge_asks_before_it_spends(tmp_path: Path) -> None:
    model = FakeModel(by_overlap)
    runtime = Runtime(ledger=tmp_path / "l.sqlite")
    with opened_judge(GenerateConfig(judge="llm"), replace(runtime, language_model=model), run="r") as judge:
        assert judge.name == "fake-1"
        with pytest.raises(UsageError, match="Nothing was spent"):
            judge.judge([Pair("q", "p")])
    assert model.asked == []
    local = GenerateConfig(judge="llm", generator="local")
    with opened_judge(local, replace(runtime, language_model=model), run="r") as judge:
        assert judge.judge([Pair("p", "p")])[0].score == 1.0, "what runs here is free"


def test_no_judge_is_no_judge(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="No judge") as caught,
        opened_judge(GenerateConfig(), Runtime(ledger=tmp_path / "l.sqlite"), run="r"),
    ):
        pass
    assert "generate.judge=llm" in str(caught.value)


def test_no_pairs_no_calls() -> None:
    assert calls_for([]) == []


# --- replies of a judge that thinks, fences, or is of no use


def dressed(dress: str) -> FakeModel:
    return FakeModel(lambda request: dress.replace("{scores}", by_overlap(request)))


PAIRS = [Pair(f"query {n} {n}x", f"passage about {n}x") for n in range(60)]
DRESSES = {
    "thoughts": "<think>\n1. 0\nScore: 0\n[0]\n</think>\n\n{scores}",
    "thoughts that began in the template": "Okay, let me score: [0]\n</think>{scores}",
    "fence": "Here are the scores:\n```json\n{scores}\n```",
    "object": '{"scores": {scores}}',
    "citation": "As in [1, 2] above: {scores}",
    "thoughts without tags": "Okay, the user wants scores for the passage.\n1. 0 or not\n{scores}",
}


@pytest.mark.parametrize("kind", DRESSES)
def test_replies_of_a_judge_are_read_in_any_dress(tmp_path: Path, kind: str) -> None:
    verdicts = judge_of(tmp_path, dressed(DRESSES[kind])).judge(PAIRS)
    assert [verdict.score for verdict in verdicts] == [1.0] * len(PAIRS)


def test_replies_of_a_judge_that_are_of_no_use_stop_it_after_two_dozen(tmp_path: Path) -> None:
    model = FakeModel(lambda request: "It is hard to say.")
    for _ in range(2):
        with pytest.raises(GeneratorError, match=r"first 24 replies hold no score.*It is hard to say") as caught:
            judge_of(tmp_path, model).judge(PAIRS)
        assert len(model.asked) == FIRST, "the second time the ledger answers"
    assert "generate.llm=" in str(caught.value) and "judge_min=0" in str(caught.value)


def test_replies_of_a_judge_that_thinks_get_a_higher_limit(tmp_path: Path) -> None:
    def thinks(request: Request) -> str | Reply:
        if request.max_tokens < LIMITS[1]:
            return Reply(text="<think>1. Score: 3", input_tokens=1, output_tokens=request.max_tokens, finish="length")
        return by_overlap(request)

    model = FakeModel(thinks)
    verdicts = judge_of(tmp_path, model).judge(PAIRS)
    assert [verdict.score for verdict in verdicts] == [1.0] * len(PAIRS)
    assert len(model.asked) == FIRST_OF_LIMIT + len(PAIRS)
    model = FakeModel(thinks)
    metered = LedgeredModel(model, Ledger(tmp_path / "other.sqlite"), PRICES)
    LlmJudge(metered, Runtime(ledger=tmp_path / "l.sqlite", **YES), max_tokens=4096, extra='{"a":1}').judge(PAIRS)
    assert {(request.max_tokens, request.extra) for request in model.asked} == {(4096, '{"a":1}')}
