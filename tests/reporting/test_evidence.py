import json

import pytest

from embedfit.errors import ArtifactMissing
from embedfit.path.artefacts import Query
from embedfit.path.stages import STAGES
from embedfit.reporting.evidence import gather, ranked
from embedfit.reporting.page import render

OPTIONAL = (
    "documents.jsonl",
    "passages.jsonl",
    "dropped_passages.jsonl",
    "queries.jsonl",
    "merge.json",
    "check.json",
    "evaluation.json",
    "finetuned/losses.jsonl",
    "finetuned/training.json",
)


def test_a_whole_run_misses_nothing(run_copy):
    evidence = gather(*run_copy())
    summary = evidence.summary
    assert evidence.missing == ()
    assert summary.human
    assert summary.comparison("merged").minimum_detectable > 0
    assert evidence.layout.width == 32
    assert [point.alpha for point in evidence.merge.alphas] == [0, 0.25, 0.5]
    assert all(point.retention is not None and "ndcg@10" in point.dev for point in evidence.merge.alphas)
    assert summary.retrievers["default"].model == "merged" and summary.retrievers["bm25"].model is None
    assert summary.lead == "default" and summary.same_as_default
    assert {"rrf", "default_base", "default", "chosen"} <= set(summary.retrievers) and summary.storage
    assert set(evidence.check.systems) == {"base", "merged"}
    assert set(evidence.evaluation.slices) == {"style", "length", "overlap", "document"}
    assert [m.stage for m in evidence.manifests] == [stage.name for stage in STAGES[:-1]]
    assert len(evidence.losses) == evidence.training.steps > 0
    assert evidence.dev_scores[0][0] == 0 and evidence.training.best_step in dict(evidence.dev_scores)


def test_the_funnel_counts_reasons(run_copy):
    workspace, config = run_copy()
    funnel = gather(workspace, config).funnel
    assert (funnel.documents_given, funnel.documents_read) == (13, 12)
    assert [(d.status, d.reason) for d in funnel.unread] == [("skipped", "the file is empty (zero bytes)")]
    assert funnel.passages_kept == 121 and funnel.passages_dropped == 1
    assert funnel.passage_reasons == (
        ("shorter than 60 characters", 1, "Printed on paper from the woods of the north."),
    )
    assert funnel.queries_written == len(workspace.read(Query))
    assert sum(number for _, number, _ in funnel.query_reasons) == funnel.queries_written - funnel.queries_kept > 0
    assert sum(written for _, written, _ in funnel.styles) == funnel.queries_written
    assert sum(kept for _, _, kept in funnel.styles) == funnel.queries_kept


def test_documents_of_one_file_go_by_their_ids(run_copy):
    names = gather(*run_copy()).document_names
    assert names["camera manual"] == "camera manual" and names["warranty.txt"] == "warranty.txt"


def test_reasons_that_differ_in_their_detail_alone_are_one():
    dropped = [("running header (7 pages)", "a"), ("running header (3 pages)", "b"), ("running header", "")]
    assert ranked(dropped) == (("running header", 3, "a"),)


def test_a_reason_shows_the_beginning_of_its_first_text():
    found = ranked([("too long", ""), ("too long", "a" * 500), ("too long", "b"), ("too short", "c")])
    assert found == (("too long", 3, "a" * 99 + "…"), ("too short", 1, "c"))


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_optional_file_may_be_missing_and_is_named(run_copy, name):
    workspace, config = run_copy()
    workspace.path(name).unlink()
    assert gather(workspace, config).missing == (name,)


def test_a_broken_model_folder_is_named(run_copy):
    workspace, config = run_copy()
    workspace.path("merged/config.json").unlink()
    evidence = gather(workspace, config)
    assert evidence.layout is None and evidence.missing == ("merged",)


def test_without_a_summary_the_command_that_makes_it_is_named(run_copy):
    workspace, config = run_copy()
    workspace.path("summary.json").unlink()
    with pytest.raises(ArtifactMissing) as caught:
        gather(workspace, config)
    assert "embedfit evaluate" in caught.value.remedy


def test_a_log_of_losses_cut_by_a_kill_is_read_as_far_as_it_goes(run_copy):
    workspace, config = run_copy()
    with workspace.path("finetuned/losses.jsonl").open("a") as file:
        file.write('not json\n[1, 2]\n{"step": 103}\n{"step": 104, "lo')
    evidence = gather(workspace, config)
    assert len(evidence.losses) == evidence.training.steps


def test_a_summary_with_only_what_it_must_have(run_copy):
    workspace, config = run_copy()
    workspace.write_text(
        "summary.json",
        json.dumps({"schema": 1, "systems": {"base": {"metrics": {"ndcg@10": 0.5}}}, "decision": {"ship": "base"}}),
    )
    evidence = gather(workspace, config)
    summary = evidence.summary
    assert summary.comparisons == () and summary.decision.alpha is None
    assert summary.retrievers == {} and summary.storage == () and summary.lead == "base"
    assert "Search with" in render(evidence)
