"""What an assessment advises, by figures that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.assessing.questions import chosen_asks, judging
from embedfit.assessing.verdict import FEWEST_PASSAGES, Values, model_of, outlook, retriever_of
from embedfit.config import GenerateConfig
from embedfit.path.artefacts import Passage, Query
from embedfit.queries.ask import calls_for
from embedfit.queries.plan import plan

#: (gap, spread, one vector's mean) by people's questions, as in docs/recipe.md, and the verdict.
MEASURED = {
    "emanual": (0.142, 0.40, 0.484, "likely"),
    "annual_reports": (0.114, 0.22, 0.410, "likely"),
    "feedbackqa_cdc": (0.064, 0.30, 0.728, "can't tell"),
    "stackfaq": (0.004, 0.08, 0.765, "not likely"),
}


def values(kind="labelled", questions=300, *, gap=0.1, spread=0.3, one=0.5, models=("a",), seed=0, **rows):
    """Rows whose differences to one vector have a known mean and spread. rows: name=(model, mean) of further ones."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, questions)
    noise = (noise - noise.mean()) / noise.std()
    keys, columns = [("bm25", "")], [np.full(questions, one)]
    for model in models:
        for name, mean in (("base", one), ("sum", one + gap), ("default", one + gap)):
            keys.append((name, model))
            columns.append(np.full(questions, mean) + (spread * noise if name != "base" else 0))
    for name, (model, mean) in rows.items():
        keys.append((name, model))
        columns.append(np.full(questions, mean) + 0.1 * spread * np.roll(noise, 1) + spread * noise)
    return Values(kind=kind, keys=keys, values=np.stack(columns, axis=1), clusters=np.arange(questions), seed=1)


@pytest.mark.parametrize("corpus", MEASURED)
def test_the_measured_corpora_get_the_verdict_that_tuning_showed(corpus):
    gap, spread, one, verdict = MEASURED[corpus]
    found = outlook(values(gap=gap, spread=spread, one=one), "a", passages=700, covered=0.3, draws=500)
    assert (found.verdict, round(found.gap, 3)) == (verdict, gap)
    assert f"{100 * gap:+.1f} points" in found.why


@given(st.floats(-0.3, 0.5), st.floats(0.05, 0.5), st.floats(0.05, 0.95), st.integers(2, 400), st.integers(1, 5_000))
def test_written_questions_never_promise_and_few_never_do(gap, spread, one, questions, passages):
    written = outlook(
        values("written", questions, gap=gap, spread=spread, one=one), "a", passages=passages, covered=0.3, draws=100
    )
    assert written.verdict == ("not likely" if passages < FEWEST_PASSAGES else "can't tell")
    labelled = outlook(
        values(questions=questions, gap=gap, spread=spread, one=one), "a", passages=passages, covered=0.3, draws=100
    )
    if labelled.verdict == "likely":
        assert questions >= 15 and passages >= FEWEST_PASSAGES and gap >= 0.07 and one < 0.93
    if passages >= FEWEST_PASSAGES and questions < 15:
        assert labelled.verdict == "can't tell"


def test_the_smallest_model_stays_unless_a_larger_one_is_surely_better():
    sizes = {"large": 400, "small": 90}
    level = values(models=("large", "small"))
    assert model_of(level, sizes)[0] == "small"
    better = values(models=("small",))
    keys = [*better.keys, ("default", "large"), ("base", "large"), ("sum", "large")]
    raised = np.clip(better.values[:, [better.default("small")]] + 0.05 + 0.01 * np.sin(np.arange(300))[:, None], -9, 9)
    both = Values(kind="written", keys=keys, values=np.hstack([better.values, raised, raised, raised]),
                  clusters=better.clusters, seed=1)  # fmt: skip
    model, why = model_of(both, sizes)
    assert model == "large" and "surely more than small" in why and "+5.0 points" in why
    few = Values(kind="written", keys=keys, values=both.values[:10], clusters=both.clusters[:10], seed=1)
    assert model_of(few, sizes)[0] == "small"
    assert model_of(better, {"small": 90}) == ("small", "it is the only one")


def test_only_peoples_questions_choose_another_retriever():
    sure = {"windows_words": ("a", 0.66)}
    labelled = values(**sure)
    number, why, gain = retriever_of(labelled, "a")
    assert labelled.keys[number] == ("windows_words", "a") and gain.verdict == "better" and "gains" in why
    for kind, questions in (("written", 300), ("labelled", 14)):
        found = values(kind, questions, **sure)
        assert found.keys[retriever_of(found, "a")[0]] == ("default", "a")
    fusion = values(rrf=("a", 0.9))  # for comparison only: an index does not rank so
    assert fusion.keys[retriever_of(fusion, "a")[0]] == ("default", "a")


# --- which questions are written


def passages(count):
    return [
        Passage(passage_id=f"p{n:03}", document_id=f"d{n // 5}", title="t", text=f"Passage {n} says a thing.",
                split=("train", "dev", "test", "train")[n % 4])
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("writer", ["local", "openai"])
@pytest.mark.parametrize("wanted", [15, 60, 10_000])
def test_written_questions_are_whole_calls_of_the_plan_all_over_the_corpus(writer, wanted):
    config = GenerateConfig(generator=writer)
    texts = passages(120)
    asks = plan(texts, config, seed=13)
    chosen = chosen_asks(texts, asks, config, wanted)
    whole = [request for request, _ in calls_for(texts, asks, config)]
    some = [request for request, _ in calls_for(texts, chosen, config)]
    assert all(request in whole for request in some)
    places = [ask.passage for ask in chosen]
    assert len(some) == len(set(places)) <= 120
    if wanted == 60:
        assert max(np.diff(sorted({0, *places, 119}))) <= 20 and {texts[place].split for place in places} >= {"train"}
    natural = {"question", "conversational", "problem", "cause", "keywords"}
    assert sum(ask.style.name in natural for ask in chosen) >= min(wanted, 100)
    if writer == "local":
        assert {ask.style.name for ask in chosen} <= {"question", "conversational", "problem", "cause"}


def test_questions_that_assess_are_kept_natural_and_bounded():
    rows = [
        Query(query_id=f"q{n}", passage_id=f"p{n}", text=f"t{n}", style=("question", "claim")[n % 2], split="train",
              kept=n % 3 > 0, also_relevant=("x",))
        for n in range(60)
    ]  # fmt: skip
    found = judging(rows, 10)
    assert len(found) == 10 and len({one.query_id for one in found}) == 10
    assert all(int(one.query_id[1:]) % 2 == 0 and int(one.query_id[1:]) % 3 for one in found)
    assert found[0].relevant == {"p2", "x"}
    assert len(judging(rows, 1_000)) == 20
