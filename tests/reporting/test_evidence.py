import json

import pytest

from embedfit.errors import ArtifactMissing
from embedfit.reporting.evidence import _ranked, gather
from embedfit.reporting.page import render
from tests.run_folder import HOSTILE, build_run

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


def test_a_whole_run_misses_nothing(evidence):
    assert evidence.missing == ()
    assert evidence.human
    assert evidence.comparison("merged").minimum_detectable == 0.021
    assert evidence.layout.hidden_size == 384
    assert len(evidence.sweep) == 11 and evidence.sweep[6].retention == pytest.approx(0.9824)
    assert evidence.rows["default"].model == "merged" and evidence.rows["bm25"].model is None
    assert evidence.lead == "default" and evidence.same_as_default
    assert evidence.storage[3].on_disk == 384 and evidence.storage[-1].trained is False
    assert [m.stage for m in evidence.manifests] == [
        "ingest",
        "generate",
        "mine",
        "train",
        "merge",
        "check",
        "choose",
        "evaluate",
    ]
    assert len(evidence.losses) == 102 and evidence.dev_scores[0] == (0.0, pytest.approx(0.61))


def test_the_funnel_counts_reasons(evidence):
    funnel = evidence.funnel
    assert (funnel.documents_given, funnel.documents_read) == (8, 6)
    assert {d.document_id for d in funnel.unread} == {"doc-6", "doc-7"}
    assert [(reason, number) for reason, number, _ in funnel.passage_reasons] == [
        ("running header", 14),
        ("shorter than 60 characters", 9),
        ("table of contents", 5),
    ]
    assert all(example == HOSTILE for *_, example in funnel.passage_reasons)
    assert funnel.queries_written == 480
    assert sum(number for _, number, _ in funnel.query_reasons) == 480 - funnel.queries_kept
    assert sum(written for _, written, _ in funnel.styles) == 480


def test_documents_of_one_file_go_by_their_ids(tmp_path):
    workspace, config = build_run(tmp_path / "run")
    path = workspace.path("documents.jsonl")
    path.write_text(path.read_text().replace("manuals/tv-1.pdf", "c.jsonl").replace("manuals/tv-2.pdf", "c.jsonl"))
    names = gather(workspace, config).document_names
    assert (names["doc-1"], names["doc-2"], names["doc-3"]) == ("doc-1", "doc-2", "tv-3.pdf")


def test_reasons_that_differ_in_their_detail_alone_are_one(tmp_path):
    workspace, config = build_run(tmp_path / "run")
    path = workspace.path("dropped_passages.jsonl")
    path.write_text(path.read_text().replace("running header", "running header (7 pages)", 3))
    assert ("running header", 14, HOSTILE) in gather(workspace, config).funnel.passage_reasons


def test_a_reason_shows_the_beginning_of_its_first_text():
    found = _ranked([("too long", ""), ("too long", "a" * 500), ("too long", "b"), ("too short", "c")])
    assert found == (("too long", 3, "a" * 99 + "…"), ("too short", 1, "c"))


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_optional_file_may_be_missing_and_is_named(tmp_path, name):
    workspace, config = build_run(tmp_path / "run")
    workspace.path(name).unlink()
    assert gather(workspace, config).missing == (name,)


def test_a_broken_model_folder_is_named(tmp_path):
    workspace, config = build_run(tmp_path / "run")
    workspace.path("merged/config.json").unlink()
    evidence = gather(workspace, config)
    assert evidence.layout is None and evidence.missing == ("merged",)


def test_without_a_summary_the_command_that_makes_it_is_named(tmp_path):
    workspace, config = build_run(tmp_path / "run")
    workspace.path("summary.json").unlink()
    with pytest.raises(ArtifactMissing) as caught:
        gather(workspace, config)
    assert "embedfit evaluate" in caught.value.remedy


def test_a_log_of_losses_cut_by_a_kill_is_read_as_far_as_it_goes(tmp_path):
    workspace, config = build_run(tmp_path / "run")
    with workspace.path("finetuned/losses.jsonl").open("a") as file:
        file.write('not json\n[1, 2]\n{"step": 103}\n{"step": 104, "lo')
    assert len(gather(workspace, config).losses) == 102


def test_a_summary_with_only_what_it_must_have(tmp_path):
    workspace, config = build_run(tmp_path / "run")
    workspace.write_text(
        "summary.json",
        json.dumps({"schema": 1, "systems": {"base": {"metrics": {"ndcg@10": 0.5}}}, "decision": {"ship": "base"}}),
    )
    evidence = gather(workspace, config)
    assert evidence.comparisons == () and evidence.decision.alpha is None
    assert evidence.rows == {} and evidence.storage == () and evidence.lead == "base"
    assert "Search with" in render(evidence)
