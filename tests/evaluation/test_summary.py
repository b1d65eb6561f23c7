import numpy as np
import pytest

from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import judged
from embedfit.evaluation.outcomes import MAX_CHARACTERS, outcomes
from embedfit.evaluation.slices import length_of, overlaps, slices, style_of
from embedfit.evaluation.summary import COMPARED, Resamples, comparisons, systems_table
from embedfit.retrieval.metrics import METRICS


def eval_set(queries=40, styles=None, texts=None):
    ids = [f"p{n:02d}" for n in range(20)]
    contents = texts or [f"passage number {n} about topic {n}" for n in range(20)]
    return EvalSet(
        kind="synthetic",
        passage_ids=tuple(ids),
        titles=("",) * 20,
        texts=tuple(contents),
        contents=tuple(contents),
        documents=tuple(f"d{n // 2}" for n in range(20)),
        pages=(1,) * 20,
        document_names={f"d{n}": f"file{n}.pdf" for n in range(10)},
        query_ids=tuple(f"q{n}" for n in range(queries)),
        queries=tuple(f"query {n} on topic {n % 20}" for n in range(queries)),
        styles=styles or ("question",) * queries,
        relevant=tuple({ids[n % 20]: 1} for n in range(queries)),
        numbers={passage: number for number, passage in enumerate(ids)},
    )


def found_at(given, rank):
    """Rankings with the answer at a rank (0: nowhere)."""
    rankings = []
    for relevant in given.relevant:
        (answer,) = relevant
        others = [passage for passage in given.passage_ids if passage != answer]
        rankings.append(others[:10] if rank == 0 else [*others[: rank - 1], answer, *others[rank - 1 : 9]])
    return judged(rankings, given)


def test_the_table_holds_every_metric_with_an_interval_around_the_mean():
    given = eval_set()
    clusters, by = given.clusters()
    measured = {"base": found_at(given, 3), "merged": found_at(given, 1)}
    table = systems_table(measured, Resamples(clusters, 200, np.random.default_rng(0)))
    assert by == "document"
    assert list(table) == ["base", "merged"]
    for system in table.values():
        assert list(system.metrics) == list(METRICS) == list(system.ci95)
        for metric in METRICS:
            low, high = system.ci95[metric]
            assert low - 1e-9 <= system.metrics[metric] <= high + 1e-9
    assert table["merged"].metrics["hit@1"] == 1.0
    assert table["base"].metrics["mrr@10"] == pytest.approx(1 / 3)


def test_comparisons_have_the_fields_of_the_contract_and_skip_what_was_not_measured():
    given = eval_set()
    clusters, _ = given.clusters()
    measured = {"base": found_at(given, 3), "merged": found_at(given, 1)}
    rows = comparisons(
        measured, [("merged", "base"), ("merged", "titan-v2")], Resamples(clusters, 200, np.random.default_rng(0))
    )
    assert [(row.a, row.b, row.metric) for row in rows] == [("merged", "base", metric) for metric in COMPARED]
    row = rows[0]
    assert row.delta == pytest.approx(0.5)
    assert row.ci95 == pytest.approx((0.5, 0.5))
    assert 0 < row.p_value < 0.01
    assert (row.queries, row.clusters) == (40, 10)
    assert comparisons(measured, [("a", "b")], Resamples(clusters, 200, np.random.default_rng(0))) == ()


def test_slices_split_the_queries_and_keep_their_means():
    given = eval_set(styles=("question",) * 30 + ("keywords",) * 10)
    clusters, _ = given.clusters()
    base, merged = np.zeros(40), np.r_[np.ones(30), np.zeros(10)]
    result = slices(given, base, merged, Resamples(clusters, 100, np.random.default_rng(0)))
    assert set(result) == {"style", "length", "overlap", "document"}
    assert [(row.value, row.queries, row.delta) for row in result["style"]] == [
        ("question", 30, 1.0),
        ("keywords", 10, 0.0),
    ]
    for rows in result.values():
        assert sum(row.queries for row in rows) == 40
    assert result["document"][0].value.startswith("file")
    assert all(row.ci95 is None for row in result["document"])  # four queries each


def test_a_query_of_people_is_a_question_or_not():
    texts = {
        "how do I mute it": "question",
        "Wie schalte ich das ab?": "question",
        "mute tv": "not a question",
        "?": "question",
        "": "not a question",
    }
    for text, style in texts.items():
        given = eval_set(1, styles=("",))
        object.__setattr__(given, "queries", (text,))
        assert style_of(given, 0) == style


@pytest.mark.parametrize(
    ("words", "group"),
    [(1, "1–3 words"), (3, "1–3 words"), (4, "4–6 words"), (15, "11–15 words"), (99, "16 words and more")],
)
def test_length_groups(words, group):
    assert length_of("word " * words) == group


def test_overlap_counts_stems_without_stop_words():
    given = eval_set(4, texts=["The sounds were muted on remotes"] * 20)
    queries = ("muting the sound of the remote", "sound picture", "sound picture colour contrast zoom", "the of")
    object.__setattr__(given, "queries", queries)
    assert overlaps(given) == ["75–100%", "50–75%", "0–25%", "0–25%"]


def test_outcomes_are_won_and_lost_with_what_was_found():
    given = eval_set(6, texts=["x" * (MAX_CHARACTERS + 50)] * 20)
    base, merged = found_at(given, 2), found_at(given, 1)
    base.values[0, METRICS.index("ndcg@10")] = 1.0
    merged.values[0, METRICS.index("ndcg@10")] = 0.3
    merged.values[1] = base.values[1]
    result = outcomes(given, {"base": base, "merged": merged, "bm25": found_at(given, 0)}, metric="ndcg@10")
    assert result.counts == {"won": 4, "lost": 1, "tied": 1}
    assert [loss.query_id for loss in result.losses] == ["q0"]
    assert result.losses[0].delta == pytest.approx(-0.7)
    win = result.wins[0]
    assert (win.systems["base"].rank, win.systems["merged"].rank, win.systems["bm25"].rank) == (2, 1, 0)
    assert win.systems["merged"].top[0] == win.relevant[0]
    assert len(win.systems["merged"].top) == 5
    named = {
        passage
        for one in (*result.wins, *result.losses)
        for passage in (*one.relevant, *one.systems["base"].top, *one.systems["merged"].top, *one.systems["bm25"].top)
    }
    assert set(result.passages) == named
    passage = next(iter(result.passages.values()))
    assert len(passage.text) == MAX_CHARACTERS + 1
    assert (passage.document_id, passage.page) == ("d0", 1)


def test_outcomes_are_bounded(monkeypatch):
    monkeypatch.setattr("embedfit.evaluation.outcomes.MAX_OUTCOMES", 3)
    given = eval_set(10)
    merged = found_at(given, 1)
    merged.values[:, METRICS.index("ndcg@10")] = np.linspace(0.9, 1.0, 10)
    result = outcomes(given, {"base": found_at(given, 3), "merged": merged}, metric="ndcg@10")
    assert [win.query_id for win in result.wins] == ["q9", "q8", "q7"]
    assert result.counts["won"] == 10
