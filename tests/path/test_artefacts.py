"""Every file of a run folder is a record, and its keys stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from embedfit.errors import InputError
from embedfit.index.retriever import DEFAULT
from embedfit.path.artefacts import (
    ChoiceEvidence,
    ChosenRetriever,
    Comparison,
    Decision,
    Evaluation,
    MeasuredRetriever,
    MergeSweep,
    Outcome,
    Ranked,
    Slice,
    Summary,
    System,
    Whole,
)
from embedfit.path.stages import EVERY, WRITERS, writer_of
from embedfit.path.workspace import FILES, Workspace, encode_whole

from .keys import keys_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "summary_keys.json").read_text("utf-8"))
unit = st.floats(-1, 1)


def comparison(delta: float, low: float, high: float, a: str = "merged", b: str = "base") -> Comparison:
    return Comparison(a=a, b=b, metric="ndcg@10", delta=delta, ci95=(low, high), p_value=0.25)


def summary(*comparisons: Comparison, ship: str = "merged", systems: tuple[str, ...] = ("base", "merged")) -> Summary:
    return Summary(
        systems={name: System(metrics={"ndcg@10": 0.5}) for name in systems},
        comparisons=comparisons,
        decision=Decision.model_validate({"ship": ship}),
    )


def test_every_file_has_a_record_and_a_stage_that_writes_it() -> None:
    assert all(writer_of(name) for name in FILES.values())
    assert len(WRITERS) == sum(len(stage.writes) + len(stage.may_write) for stage in EVERY)
    assert all(issubclass(one, Whole) == (FILES[one].endswith(".json")) for one in FILES if isinstance(one, type))


def test_a_record_of_another_edition_is_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_json("summary.json", {"systems": {}, "decision": {"ship": "base"}, "fusion": {"weight": 1}})
    found = workspace.load(Summary)
    assert found.decision.over == "base" and found.cost.calls == 0 and not found.better
    workspace.write_json("merge.json", {"decision": {"ship": "merged", "alpha": 0.5, "why": ""}, "fusion": None})
    assert workspace.load(MergeSweep).decision.alpha == 0.5


@pytest.mark.parametrize(
    ("text", "where"),
    [("{", "Invalid JSON"), ("[]", "should be an object"), ('{"systems": {}}', "decision"),
     ('{"systems": {"a": {"metrics": {"x": "y"}}}, "decision": {"ship": "base"}}', "systems.a.metrics.x")],
)  # fmt: skip
def test_a_damaged_file_is_named_with_the_command_that_mends_it(tmp_path: Path, text: str, where: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_text("summary.json", text)
    with pytest.raises(InputError, match="summary") as caught:
        workspace.load(Summary)
    assert where in caught.value.message and f"embedfit evaluate --run {tmp_path} --force" in str(caught.value.remedy)


@given(delta=unit, low=unit, high=unit)
def test_the_interval_alone_decides_what_is_better(delta: float, low: float, high: float) -> None:
    low, high = sorted((low, high))
    one = comparison(delta, low, high)
    assert one.better == (low > 0)
    assert (one.verdict == "worse") == (high < 0)
    assert one.verdict == "unsure" if low <= 0 <= high else one.verdict != "unsure"


def test_a_comparison_without_an_interval_says_nothing() -> None:
    one = Comparison(a="merged", b="base", metric="ndcg@10", delta=0.3)
    assert one.verdict == "unsure" and not one.better
    assert str(one) == "merged - base: +30.0 points of ndcg@10"


def test_a_comparison_prints() -> None:
    assert str(comparison(0.0239, -0.0146, 0.0617)) == (
        "merged - base: +2.4 points of ndcg@10, 95% CI [-1.5, +6.2], p = 0.2500"
    )


@pytest.mark.parametrize(
    ("ship", "low", "better"),
    [("merged", 0.01, True), ("merged", -0.01, False), ("finetuned", 0.01, True), ("base", 0.01, False)],
)
def test_a_run_is_better_where_what_ships_is_surely_better_than_the_base(ship: str, low: float, better: bool) -> None:
    row = comparison(0.02, low, 0.05, a=ship)
    assert summary(row, ship=ship, systems=("base", "merged", "finetuned")).better is better


def test_a_run_without_a_comparison_is_not_better() -> None:
    assert not summary().better


def test_the_retriever_that_ships_is_what_is_compared() -> None:
    """A gain of one vector alone says nothing of the retriever that people will search with."""
    one, whole = comparison(0.1, 0.05, 0.15), comparison(0.0, -0.1, 0.1, a="default")
    chosen = ChosenRetriever(model="merged", retriever=DEFAULT, default=DEFAULT)
    found = summary(one, whole, systems=("base", "merged", "default"))
    found = found.model_copy(update={"decision": Decision(ship="merged", retriever=chosen)})
    assert found.lead == "default" and not found.better


def test_keys_of_systems_stand_beside_the_others() -> None:
    """evaluation.json names systems as keys: the tuned one's is another where the base ships."""
    evaluation = Evaluation.model_validate(
        {
            "tuned": "finetuned",
            "wins": [
                {"query_id": "q", "query": "x", "style": "", "relevant": ["p"], "delta": 0.5,
                 "base": {"rank": 2, "top": ["a", "p"]}, "finetuned": {"rank": 1, "top": ["p"]}}
            ],
            "slices": {"style": [{"value": "v", "queries": 1, "base": 0.1, "finetuned": 0.4, "delta": 0.3}]},
        }
    )  # fmt: skip
    assert evaluation.wins[0].systems["finetuned"] == Ranked(rank=1, top=("p",))
    assert evaluation.slices["style"][0].tuned == 0.4
    again = Evaluation.model_validate_json(encode_whole(evaluation))
    assert again == evaluation
    written = json.loads(encode_whole(evaluation))
    assert written["wins"][0]["base"]["rank"] == 2 and written["slices"]["style"][0]["finetuned"] == 0.4
    assert isinstance(again.wins[0], Outcome) and isinstance(again.slices["style"][0], Slice)


def test_what_is_not_known_of_evidence_is_not_written() -> None:
    assert json.loads(encode_whole(ChoiceEvidence(kind="none"))) == {"kind": "none", "questions": 0}


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_whole(System(metrics={"ndcg@10": float("nan")}))


def records() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [Whole]
    for one in found:
        found += one.__subclasses__()
    return [one for one in found if one.__module__.startswith("embedfit.path.artefacts.")]


def test_every_record_says_what_it_is() -> None:
    assert len(records()) > 20 and all((one.__doc__ or "").strip() for one in records())


def test_the_keys_of_summary_json_stay() -> None:
    """The golden file has the keys of a whole run's summary; the records know every one of them."""
    row = MeasuredRetriever(model="merged", retriever=DEFAULT)
    chosen = {
        "model": "merged",
        "retriever": DEFAULT.as_json(),
        "default": DEFAULT.as_json(),
        "evidence": {
            "kind": "written",
            "metric": "nDCG@10",
            "tuning": {"retriever": "default", "delta": 0, "ci": [0, 0], "p": 1, "verdict": "no difference"},
        },
    }
    found = Summary.model_validate(
        {
            "systems": {"base": {"metrics": {"ndcg@10": 0.5}, "ci95": {"ndcg@10": [0, 1]}}},
            "comparisons": [{"a": "merged", "b": "base", "metric": "ndcg@10", "delta": 0.0}],
            "retrievers": {"default": row},
            "storage": [
                {"name": "int8", "dimensions": 4, "bytes_a_passage": 4, "ndcg@10": 0.5, "ci95": [0, 1], "delta": 0,
                 "delta_ci95": [0, 0]}
            ],
            "decision": {"ship": "merged", "alpha": 0.5, "why": "", "retriever": chosen},
            "timings_s": {"ingest": 1.0},
        }
    )  # fmt: skip
    assert set(GOLDEN) - keys_of(json.loads(encode_whole(found))) == set()
