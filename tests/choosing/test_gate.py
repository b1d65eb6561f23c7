"""The gate's statistics: it lets through what is better, seldom what is not, and a person corrects a judge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from embedfit.choosing import estimates
from embedfit.choosing.estimates import corrected, plain
from embedfit.choosing.gate import ERROR, against, best, compared


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(estimates, "DRAWS", 300)


def differences(rng, questions, means, *, spread=0.3, shared=0.7):
    """Differences (Q, M) of candidates that win and lose together."""
    common = rng.normal(0, spread, (questions, 1))
    own = rng.normal(0, spread, (questions, len(means)))
    return np.asarray(means) + np.sqrt(shared) * common + np.sqrt(1 - shared) * own


# --- the gate


def test_what_is_much_better_passes_and_the_greatest_gain_is_taken():
    rng = np.random.default_rng(1)
    values = differences(rng, 50, [0.2, 0.35, -0.3, 0.0])
    found = compared(plain(values, np.arange(50), rng=rng))
    assert [one.verdict for one in found] == ["better", "better", "worse", "no difference"]
    assert best(found) == int(values.mean(0).argmax())
    assert_allclose([one.delta for one in found], values.mean(0))


@pytest.mark.parametrize("questions", [15, 50])
def test_of_candidates_that_are_no_better_hardly_any_passes(few_draws, questions):
    rng = np.random.default_rng(2)
    passed = 0
    for _ in range(400):
        found = compared(plain(differences(rng, questions, np.zeros(6)), np.arange(questions), rng=rng))
        passed += best(found) is not None
    assert passed / 400 <= ERROR + 0.03  # three standard errors of the share


def test_more_candidates_ask_for_more():
    rng = np.random.default_rng(3)
    values = differences(rng, 40, [0.1, *np.zeros(9)], shared=0.0)
    alone = compared(plain(values[:, :1], np.arange(40), rng=np.random.default_rng(0)))[0]
    among = compared(plain(values, np.arange(40), rng=np.random.default_rng(0)))[0]
    assert among.ci[0] < alone.ci[0] and among.p > alone.p and among.delta == alone.delta


def test_the_interval_and_p_agree():
    rng = np.random.default_rng(4)
    for shift in np.linspace(0, 0.2, 21):
        one = compared(plain(differences(rng, 30, [shift]), np.arange(30), rng=rng))[0]
        assert (one.p < ERROR + 0.01) == (one.ci[0] > -0.01) or abs(one.ci[0]) < 0.02


def test_a_candidate_that_ranks_as_the_default_is_no_different():
    values = np.zeros((40, 2))
    values[:, 1] = np.random.default_rng(0).normal(0.4, 0.1, 40)
    found = compared(plain(values, np.arange(40), rng=np.random.default_rng(0)))
    assert (found[0].verdict, found[0].ci, found[0].p) == ("no difference", (0.0, 0.0), 1.0)
    assert best(found) == 1
    nothing = compared(plain(values[:, :1], np.arange(40), rng=np.random.default_rng(0)))
    assert best(nothing) is None


def test_one_cluster_can_show_nothing():
    one = compared(plain(np.full((40, 1), 0.9), np.zeros(40, np.int64), rng=np.random.default_rng(0)))[0]
    assert one.verdict == "no difference" and one.ci == (-1.0, 1.0)


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 10_000))
def test_intervals_hold_the_difference_and_stay_possible(questions, candidates, seed):
    rng = np.random.default_rng(seed)
    values = np.clip(differences(rng, questions, rng.normal(0, 0.2, candidates)), -1, 1)
    for one in compared(plain(values, np.arange(questions), rng=rng)):
        assert -1 <= one.ci[0] <= one.delta <= one.ci[1] <= 1 and 0 < one.p <= 1


def test_best_of_none_is_none():
    assert best([]) is None
    assert best([against(0.5, (-0.1, 1.0), 0.2)]) is None


# --- a judge that a person corrects (PPI++)


def both_of(rng, questions, graded, *, truth=0.1, bias=0.0, noise=0.05):
    """(judge, person, both) of a judge that is off by `bias` and `noise`."""
    person = rng.normal(truth, 0.3, (questions, 1))
    judge = person + bias + rng.normal(0, noise, (questions, 1))
    both = np.zeros(questions, bool)
    both[rng.permutation(questions)[:graded]] = True
    return judge, person, both


@pytest.mark.parametrize("bias", [-0.4, 0.0, 0.4])
@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_a_biased_judge_does_not_bias_the_estimate(monkeypatch, bias, noise):
    monkeypatch.setattr(estimates, "DRAWS", 2)  # the estimate itself needs none
    rng = np.random.default_rng(5)
    found, alone = [], []
    for _ in range(300):
        judge, person, both = both_of(rng, 200, 30, bias=bias, noise=noise)
        estimate = corrected(judge, person, both, np.arange(200), rng=rng)
        found.append(estimate.delta[0])
        alone.append(judge.mean())
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 0.1) < 4 * error + 0.005
    assert abs(np.mean(alone) - 0.1 - bias) < 0.01, "the judge alone is off by its bias"


def test_a_good_judge_makes_the_interval_narrower_and_a_bad_one_no_wider(few_draws):
    rng = np.random.default_rng(6)
    widths: dict[float, list[float]] = {0.02: [], 5.0: []}
    for noise, ratios in widths.items():
        for _ in range(60):
            judge, person, both = both_of(rng, 300, 30, bias=0.3, noise=noise)
            ours = corrected(judge, person, both, np.arange(300), rng=rng)
            alone = plain(person[both], np.arange(30), rng=rng)
            ratios.append(ours.draws.std() / alone.draws.std())
    assert np.mean(widths[0.02]) < 0.5 and np.mean(widths[5.0]) < 1.05


def test_the_corrected_interval_covers_the_truth(few_draws):
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(300):
        judge, person, both = both_of(rng, 150, 30, bias=0.3, noise=0.2)
        one = compared(corrected(judge, person, both, np.arange(150), rng=rng))[0]
        inside += one.ci[0] <= 0.1 <= one.ci[1]
    assert 0.84 <= inside / 300 <= 0.97, "the interval is one of 90%"


def test_how_much_a_judge_is_trusted_depends_on_how_good_it_is(few_draws):
    rng = np.random.default_rng(8)
    judge, person, both = both_of(rng, 400, 40, noise=0.01)
    good = corrected(judge, person, both, np.arange(400), rng=rng).trust[0]
    judge = rng.normal(0, 0.3, judge.shape)
    bad = corrected(judge, person, both, np.arange(400), rng=rng).trust[0]
    assert 0.8 < good <= 1 and 0 <= bad < 0.3


def test_where_a_person_graded_everything_the_judge_is_not_needed(few_draws):
    rng = np.random.default_rng(9)
    judge, person, _ = both_of(rng, 30, 30)
    estimate = corrected(judge, person, np.ones(30, bool), np.arange(30), rng=rng)
    assert_allclose(estimate.delta, person.mean(0))


def test_a_judge_that_says_the_same_of_everything_is_left_out(few_draws):
    rng = np.random.default_rng(10)
    _, person, both = both_of(rng, 60, 20)
    estimate = corrected(np.full((60, 1), 0.5), person, both, np.arange(60), rng=rng)
    assert estimate.trust[0] == 0
    assert_allclose(estimate.delta, person[both].mean(0))
