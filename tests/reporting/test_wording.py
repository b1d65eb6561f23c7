from dataclasses import replace

import pytest

from embedfit.reporting import wording
from embedfit.reporting.evidence import gather
from tests.run_folder import build_run


@pytest.mark.parametrize(
    ("delta", "said"),
    [(0.0684, "+6.8"), (-0.004, "\N{MINUS SIGN}0.4"), (0.0002, "0.0"), (-0.0002, "0.0"), (0, "0.0"), (None, "–")],
)
def test_points_are_hundredths_with_a_sign(delta, said):
    assert wording.points(delta) == said


@pytest.mark.parametrize(("value", "said"), [(0.0005, "< 0.001"), (0.0312, "0.031"), (1.0, "1.000"), (None, "–")])
def test_p_values_are_never_zero(value, said):
    assert wording.p_value(value) == said


def test_small_words():
    assert wording.score(0.55663) == "0.557"
    assert wording.metric_name("ndcg@10") == "nDCG@10" and wording.metric_name("own") == "own"
    assert wording.system_name("hybrid_merged") == "Merged + BM25"
    assert wording.system_name("org/model") == "org/model"
    assert wording.plural(1, "query") == "1 query" and wording.plural(1200, "query") == "1,200 queries"
    assert wording.money(0) == "$0" and wording.money(0.004) == "under $0.01" and wording.money(1234.5) == "$1,234.50"
    assert wording.share(1, 3) == "33%" and wording.share(1, 0) == "–"


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def test_the_verdict_of_a_gain(evidence):
    said = wording.verdict(evidence)
    assert (said.tone, said.action) == ("better", "Ship the merged model")
    assert plain(said.sentence) == (
        "it is better than the base on your documents, by +6.8 points of nDCG@10 "
        "(0.489 → 0.557; 95% interval +5.3 to +8.3), on 240 questions that people asked"
    )


def test_the_verdict_of_a_base_that_stays(tmp_path):
    said = wording.verdict(gather(*build_run(tmp_path / "run", ship="base", human=False)))
    assert (said.tone, said.action) == ("kept", "Keep the base model")
    # At weight 0 the merged model is the base; the fine-tuned one says what tuning did.
    assert said.comparison.a == "finetuned"
    assert "no gain that this test can tell from chance" in said.sentence
    assert "written by a language model" in said.sentence


@pytest.mark.parametrize(
    ("ci95", "tone", "part"),
    [
        ((-0.01, 0.03), "unsure", "can’t tell"),
        ((-0.05, -0.01), "worse", "worse than the base"),
        (None, "unsure", "can’t tell"),
    ],
)
def test_a_model_that_ships_without_proof_is_not_called_better(evidence, ci95, tone, part):
    comparison = replace(evidence.comparisons[0], ci95=ci95)
    said = wording.verdict(replace(evidence, comparisons=(comparison,)))
    assert said.tone == tone and part in said.sentence
    assert not said.sentence.startswith("it is better")


def test_a_base_that_stays_although_the_test_favours_tuning(tmp_path):
    evidence = gather(*build_run(tmp_path / "run", ship="base"))
    better = replace(evidence.comparisons[1], delta=0.05, ci95=(0.01, 0.09))
    said = wording.verdict(replace(evidence, comparisons=(better,)))
    assert said.tone == "kept" and "did not pass the gate" in said.sentence


def test_without_comparisons_the_verdict_says_so(evidence):
    assert "no comparison" in wording.verdict(replace(evidence, comparisons=())).sentence
