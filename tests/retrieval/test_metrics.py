import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from embedfit.retrieval.metrics import METRICS, first_ranks, judge, parse, rank, score


def one(ranking, relevant, metric, convention="sentence-transformers"):
    return score(judge([ranking], [relevant]), (metric,), convention)[metric][0]


RANKING = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("hit@1", 0.0),
        ("hit@2", 1.0),
        ("recall@2", 1 / 3),
        ("recall@5", 2 / 3),
        ("precision@5", 2 / 5),
        ("precision@10", 2 / 10),
        ("mrr@10", 1 / 2),
        ("mrr@1", 0.0),
        ("map@5", (1 / 2 + 2 / 4) / 3),
        ("map@2", (1 / 2) / 2),
        ("ndcg@5", (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / 2)),
    ],
)
def test_values_worked_by_hand(metric, expected):
    assert one(RANKING, {"b", "d", "z"}, metric) == pytest.approx(expected, abs=1e-12)


def test_trec_eval_divides_map_by_every_relevant_passage():
    assert one(RANKING, {"b", "d", "z"}, "map@2", "trec_eval") == pytest.approx((1 / 2) / 3)


def test_trec_eval_gains_are_grades():
    value = one(["a", "b"], {"a": 1, "b": 3}, "ndcg@2", "trec_eval")
    assert value == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert one(["a", "b"], {"a": 1, "b": 3}, "ndcg@2") == pytest.approx(1.0)


def test_grade_zero_is_not_relevant():
    judged = judge([["a", "b"]], [{"a": 0, "b": 1}])
    assert judged.relevant.tolist() == [1]
    assert score(judged, ("hit@1", "recall@2")) == {"hit@1": [0.0], "recall@2": [1.0]}


def test_a_query_without_relevant_passages_scores_zero_and_never_divides_by_zero():
    values = score(judge([["a"], []], [{}, {"a": 1}]))
    assert all(value.tolist() == [0.0, 0.0] for value in values.values())


def test_no_queries_give_empty_values():
    assert all(value.shape == (0,) for value in score(judge([], [])).values())


def test_first_ranks_are_one_based_and_zero_where_nothing_was_found():
    assert first_ranks(judge([["a", "b"], ["b", "a"], ["c"]], [{"a"}, {"a"}, {"a"}])).tolist() == [1, 2, 0]


def test_judge_takes_row_numbers_as_ids():
    assert one(np.array([4, 2]), {2: 1}, "mrr@10") == 0.5


def test_judge_refuses_other_lengths():
    with pytest.raises(ValueError, match="1 rankings for 2 queries"):
        judge([["a"]], [{"a"}, {"b"}])


@pytest.mark.parametrize("metric", ["ndcg", "ndcg@", "ndcg@0", "f1@3", "ndcg@-1"])
def test_a_name_that_is_no_metric_is_refused_with_what_is_allowed(metric):
    with pytest.raises(ValueError, match=r"hit, recall, precision, mrr, ndcg, map"):
        parse(metric)


def ranked(run, convention="sentence-transformers"):
    """Passage ids of one query's scores, best first."""
    ids = list(run)
    return [ids[column] for column in rank(np.array([list(run.values())]), ids, len(ids), convention)[0]]


def test_equal_scores_rank_by_ascending_id_here_and_by_descending_id_in_trec_eval():
    run = {"p10": 1.0, "p2": 1.0, "p1": 2.0, "p3": 0.5}
    assert ranked(run) == ["p1", "p10", "p2", "p3"]
    assert ranked(run, "trec_eval") == ["p1", "p2", "p10", "p3"]


def test_scores_closer_than_float32_tie_in_trec_eval_only():
    run = {"a": 0.5, "b": 0.5 + 1e-12, "c": 0.5 + 2e-12}
    assert ranked(run) == ["c", "b", "a"]
    run = {"c": 0.5, "b": 0.5 + 1e-12, "a": 0.5 + 2e-12}
    assert ranked(run, "trec_eval") == ["c", "b", "a"]


@given(
    scores=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    k=st.integers(0, 25),
    convention=st.sampled_from(["sentence-transformers", "trec_eval"]),
)
def test_the_k_best_are_a_prefix_of_the_whole_ranking(scores, k, convention):
    ids = [f"p{i}" for i in range(len(scores))]
    matrix = np.array([scores], dtype=np.float32)
    whole = rank(matrix, ids, len(ids), convention)[0]
    expected = sorted(range(len(ids)), key=lambda i: ids[i], reverse=convention == "trec_eval")
    expected.sort(key=lambda i: -scores[i])
    assert whole.tolist() == expected
    assert rank(matrix, ids, k, convention)[0].tolist() == expected[:k]


@st.composite
def judgements(draw):
    ids = list(range(draw(st.integers(1, 15))))
    ranking = draw(st.permutations(ids))
    relevant = draw(st.dictionaries(st.integers(0, 20), st.integers(0, 3), max_size=8))
    return ranking, relevant


@given(case=judgements(), convention=st.sampled_from(["sentence-transformers", "trec_eval"]))
def test_values_lie_between_zero_and_one_and_agree_with_each_other(case, convention):
    ranking, relevant = case
    values = {name: value[0] for name, value in score(judge([ranking], [relevant]), METRICS, convention).items()}
    assert all(0 <= value <= 1 + 1e-12 for value in values.values())
    assert values["hit@1"] <= values["hit@3"] <= values["hit@5"] <= values["hit@10"]
    assert values["recall@10"] <= values["recall@100"]
    assert (values["mrr@10"] > 0) == (values["hit@10"] == 1)
    assert (values["ndcg@10"] > 0) == (values["hit@10"] == 1)


@given(relevant=st.dictionaries(st.integers(0, 20), st.integers(1, 3), min_size=1, max_size=8))
def test_the_best_ranking_scores_one(relevant):
    ranking = sorted(relevant, key=lambda passage: -relevant[passage])
    for convention in ("sentence-transformers", "trec_eval"):
        values = score(judge([ranking], [relevant]), ("hit@1", "mrr@1", "ndcg@10", "map@100", "recall@10"), convention)
        assert_allclose(np.stack(list(values.values())), 1.0)


@given(case=judgements(), where=st.integers(0, 14))
def test_moving_a_relevant_passage_up_never_lowers_a_score(case, where):
    ranking, relevant = case
    where = where % len(ranking)
    if where == 0 or relevant.get(ranking[where], 0) <= 0 or relevant.get(ranking[where - 1], 0) > 0:
        return
    better = list(ranking)
    better[where - 1], better[where] = better[where], better[where - 1]
    before = score(judge([ranking], [relevant]))
    after = score(judge([better], [relevant]))
    assert all(after[metric][0] >= before[metric][0] - 1e-12 for metric in METRICS)
