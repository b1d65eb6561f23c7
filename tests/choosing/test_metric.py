"""NDCG by grades, lists with passages that nobody graded, and agreement of a judge with itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.choosing.metric import can_tell, ndcg, ungraded, weighted_kappa
from embedfit.retrieval.metrics import judge
from embedfit.retrieval.metrics import ndcg as ndcg_of_metrics

GRADES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), max_size=8)
RANKINGS = st.permutations("abcdefgh")


def test_gains_are_those_of_the_recipe():
    grades = {"a": 3, "b": 2, "c": 1, "d": 0}
    assert ndcg("abcd", grades, 5) == 1
    best = 3 + 1 / np.log2(3)
    assert ndcg("bacd", grades, 5) == pytest.approx((1 + 3 / np.log2(3)) / best)
    assert ndcg("cd", grades, 5) == 0
    assert ndcg("dcba", grades, 2) == 0


@given(RANKINGS, GRADES, st.integers(1, 8))
def test_it_is_the_graded_ndcg_of_the_metrics(ranking, grades, k):
    whole = {name: grades.get(name, 0) for name in ranking}
    gains = {name: (0, 0, 1, 3)[grade] for name, grade in whole.items()}
    expected = ndcg_of_metrics(judge([ranking], [gains]), k, "trec_eval")[0]
    assert ndcg(ranking, whole, k) == pytest.approx(expected)


@given(RANKINGS, GRADES, st.integers(1, 8))
def test_a_passage_without_a_grade_is_not_wrong(ranking, grades, k):
    known = [name for name in ranking if name in grades]
    assert ndcg(ranking, grades, k) == ndcg(known, grades, k)
    assert 0 <= ndcg(ranking, grades, k) <= 1 + 1e-12
    assert ungraded(ranking, grades, k) == sum(name not in grades for name in ranking[:k])


@given(RANKINGS, GRADES)
def test_questions_without_an_answer_tell_nothing(ranking, grades):
    assert can_tell(grades) == any(grade >= 2 for grade in grades.values())
    if not can_tell(grades):
        assert ndcg(ranking, grades, 5) == 0


def test_kappa_by_hand():
    # Of four pairs one is off by one step: seen 1/9 × 1/4; by chance the mean of (i - j)² / 9 over all 16 pairs.
    first, second = [0, 1, 2, 3], [0, 1, 2, 2]
    chance = np.mean([(i - j) ** 2 for i in first for j in second])
    assert weighted_kappa(first, second) == pytest.approx(1 - 0.25 / chance)
    assert weighted_kappa([0, 3, 1], [0, 3, 1]) == 1
    assert weighted_kappa([2, 2], [2, 2]) == 1
    assert weighted_kappa([0, 3], [3, 0]) == -1
    with pytest.raises(ValueError, match="1 grades and 2"):
        weighted_kappa([1], [1, 2])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_kappa_is_at_most_one_and_the_same_from_both_sides(pairs):
    first, second = zip(*pairs, strict=True)
    found = weighted_kappa(first, second)
    assert found <= 1 + 1e-12 and found == pytest.approx(weighted_kappa(second, first))
