"""Soft labels: on one scale, for all passages of a row or none, and unmarked answers are no negatives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import Config, resolve
from embedfit.errors import PaidInPart, UsageError
from embedfit.files.flagembedding import read_flagembedding
from embedfit.judging.judge import Pair, PairScore
from embedfit.llm.ledger.spent import calls_of_run
from embedfit.llm.prices import Price, Prices
from embedfit.llm.protocol import Reply, Request
from embedfit.mining.stage import run
from embedfit.mining.teachers import Choice, fused, fused_shares, judged
from embedfit.path.artefacts import Judgement, Passage, Query, TrainRow
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel
from tests.models.tiny_reranker import make_tiny_reranker

PASSAGES = [Passage(passage_id=f"p{n}", document_id=f"d{n}", title="", text=f"text {n}") for n in range(6)]


def query(number: int, text: str = "find") -> Query:
    return Query(query_id=f"q{number}", passage_id=f"p{number}", text=text, style="question", split="train", kept=True)


class Scripted:
    """A judge that gives each passage its score, or a reason."""

    name = "scripted"

    def __init__(self, *scores: float | str) -> None:
        self._verdicts = [
            PairScore(score=None, reason=score) if isinstance(score, str) else PairScore(score=score, call_id=f"c{n}")
            for n, score in enumerate(scores)
        ]

    def judge(self, pairs: Sequence[Pair]) -> list[PairScore]:
        return [self._verdicts[int(pair.passage.split()[1])] for pair in pairs]


def teach(judge: Scripted, choice: Choice, count: int = 3) -> tuple[Choice, list[Judgement]]:
    (taught,), said = judged([choice], [query(0)], PASSAGES, judge, count=count, max_relative_score=0.6)
    return taught, said


def test_unmarked_answers_are_dropped_and_spare_negatives_take_their_place() -> None:
    choice = Choice(positives=(0,), negatives=(1, 2, 3, 4, 5))
    taught, said = teach(Scripted(0.9, 0.8, 0.54, 0.55, 0.1, 0.0), choice, count=2)
    assert (taught.negatives, taught.positive_scores, taught.negative_scores) == ((2, 4), (0.9,), (0.54, 0.1))
    kept = {judgement.passage_id: judgement.kept for judgement in said}
    assert kept == {"p0": True, "p1": False, "p2": True, "p3": False, "p4": True, "p5": False}
    assert [judgement.role for judgement in said] == ["positive"] + ["negative"] * 5
    assert {judgement.query_id for judgement in said} == {"q0"} and said[2].call_id == "c2"


def test_a_negative_without_a_score_may_be_an_answer() -> None:
    taught, said = teach(Scripted(1.0, "no score in the judge's reply", 0.3), Choice(positives=(0,), negatives=(1, 2)))
    assert (taught.negatives, taught.negative_scores) == ((2,), (0.3,))
    assert said[1].reason == "no score in the judge's reply" and not said[1].kept


def test_a_positive_without_a_score_leaves_a_row_that_teaches_by_contrast() -> None:
    taught, _ = teach(Scripted("call failed: x", 0.9, 0.3), Choice(positives=(0,), negatives=(1, 2)))
    assert taught == Choice(positives=(0,), negatives=(1, 2))
    twin, _ = teach(Scripted(1.0, "refused", 0.3), Choice(positives=(0, 1), negatives=(2,)))
    assert twin == Choice(positives=(0, 1), negatives=(2,)), "scores for all passages or for none"


def test_the_fused_teacher_knows_words_and_meaning() -> None:
    texts = ["how to reset the router", "restart your network box", "bread needs yeast", "a lamp for the desk"]
    passages = [Passage(passage_id=f"p{n}", document_id="d", title="", text=text) for n, text in enumerate(texts)]
    vectors = np.array([[0.8, 0.6], [0.9, 0.436], [0.1, 0.995], [0.0, 1.0]], np.float32)
    (taught,) = fused([Choice(positives=(0,), negatives=(1, 2))], [query(0, "router reset")], passages,
                      np.array([[1.0, 0.0]], np.float32), vectors)  # fmt: skip
    assert taught.positive_scores == (1.0,), "the best of both is the measure"
    assert 0.0 <= taught.negative_scores[1] < taught.negative_scores[0] < 1.0


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.floats(0, 40, width=32)), min_size=1, max_size=30))
def test_fused_scores_are_shares_whose_best_is_the_best(scores: list[tuple[float, float]]) -> None:
    shares = fused_shares(*np.array(scores, np.float32).T)
    assert np.isfinite(shares).all() and (shares >= 0).all() and (shares <= 1).all()
    assert shares.max() in (0.0, 1.0)


# --- the stage

WORDS = "tv mute sound router wifi zebra quartz lamp bread yeast pump battery".split()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr("embedfit.mining.stage.SAME_COSINE", 2.0)  # a random model finds all texts alike
    made = Workspace(tmp_path / "run")
    made.write(
        Passage,
        [Passage(passage_id=f"p{n}", document_id=f"d{n}", title="", text=f"no{n} {WORDS[n]}") for n in range(12)],
    )
    made.write(Query, [query(n, f"{WORDS[n]} what") for n in range(12)])
    return made


def settings(tiny_bert: Path, judge: str | None = None, **mine: object) -> Config:
    overrides = {"model": str(tiny_bert), "mine": {"negatives": 4, "max_relative_score": 2.0, **mine}}
    if judge is not None:
        overrides["generate"] = {"generator": "local", "judge": judge}
    return resolve(preset="offline", overrides=overrides)


def own_passage_best(request: Request) -> str:
    """3 for the query of the passage's own word, 1 for others; the query of p7's word is found in p8 as well."""
    passage, queries = request.messages[-1].content.split("<queries>\n")
    word = passage.split()[2]
    also = {word, WORDS[7]} if word == WORDS[8] else {word}
    return json.dumps([3 if line.split()[1] in also else 1 for line in queries.splitlines()[:-1]])


def test_the_generators_model_labels_the_rows(workspace: Workspace, tiny_bert: Path) -> None:
    model = FakeModel(own_passage_best)
    config = settings(tiny_bert, judge="llm", teacher="judge", negatives=4)
    run(workspace, config, Runtime(ledger=workspace.root / "l", language_model=model))
    rows = workspace.read(TrainRow)
    assert all(row.pos_scores == (1.0,) and set(row.neg_scores) == {0.33333} for row in rows)
    assert all(0 < len(row.neg) <= 4 for row in rows)
    assert f"no8 {WORDS[8]}" not in rows[7].neg, "what the judge finds as good is no negative"
    assert read_flagembedding(workspace.path("train.jsonl")) == rows
    said = workspace.read(Judgement)
    assert len(said) == len({(one.query_id, one.passage_id) for one in said}) > 12 * 5
    assert [one.kept for one in said if (one.query_id, one.passage_id) == ("q7", "p8")] in ([], [False])
    assert len(model.asked) <= 24, "one or two calls for each passage"
    assert calls_of_run(workspace) == {one.call_id for one in said}
    run(workspace, settings(tiny_bert), Runtime())
    assert not workspace.path("judgements.jsonl").exists(), "those of other settings are not left behind"


def test_a_cross_encoder_labels_the_rows(workspace: Workspace, tiny_bert: Path, tmp_path: Path) -> None:
    reranker = make_tiny_reranker(tiny_bert, tmp_path / "reranker")
    run(workspace, settings(tiny_bert, judge=str(reranker), teacher="judge"), Runtime())
    for row in workspace.read(TrainRow):
        assert len(row.pos_scores) == 1 and len(row.neg_scores) == len(row.neg)
        assert all(score <= 0.6 * row.pos_scores[0] + 1e-5 for score in row.neg_scores)


def test_the_fused_teacher_needs_nobody(workspace: Workspace, tiny_bert: Path) -> None:
    run(workspace, settings(tiny_bert, teacher="fused"), Runtime())
    rows = workspace.read(TrainRow)
    assert all(0.0 <= score <= 1.0 for row in rows for score in (*row.pos_scores, *row.neg_scores))
    assert sum(row.pos_scores[0] > max(row.neg_scores) for row in rows) >= 8, "the query's word is in its passage"


def test_a_judge_must_be_named(workspace: Workspace, tiny_bert: Path) -> None:
    with pytest.raises(UsageError, match="needs a judge") as caught:
        run(workspace, settings(tiny_bert, teacher="judge"), Runtime())
    assert "--set generate.judge=llm" in str(caught.value)


def test_a_budget_that_ends_leaves_whole_rows(
    workspace: Workspace, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Prices((Price(provider="fake", model="*", input=1.0, output=1.0),))
    monkeypatch.setattr("embedfit.llm.opening.load_prices", lambda: table)
    model = FakeModel(lambda request: Reply(text=own_passage_best(request), input_tokens=900, output_tokens=100))
    config = settings(tiny_bert, judge="llm", teacher="judge")
    config = config.model_copy(update={"generate": config.generate.model_copy(update={"max_cost": 0.012})})
    with pytest.raises(PaidInPart, match="were not judged") as caught:
        run(workspace, config, Runtime(ledger=workspace.root / "l", language_model=model))
    assert "run the same command again" in str(caught.value)
    rows = read_flagembedding(workspace.path("train.jsonl"))
    assert len(rows) == 12 and any(row.pos_scores for row in rows) and not all(row.pos_scores for row in rows)
