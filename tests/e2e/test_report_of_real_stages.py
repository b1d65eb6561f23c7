"""Every file of the real stages reaches the report."""

from __future__ import annotations

from embedfit.reporting.evidence import gather


def test_no_file_of_the_real_stages_is_missed(run_copy):
    workspace, config = run_copy()
    evidence = gather(workspace, config)
    assert evidence.missing == ()
    assert evidence.decision.ship in ("merged", "finetuned") and evidence.decision.alpha in (0.25, 0.5)
    assert {"base", "finetuned", "merged", "bm25", "hybrid_base", "hybrid_merged"} <= set(evidence.systems)
    assert evidence.comparison("merged").minimum_detectable is not None
    assert [point.alpha for point in evidence.sweep] == [0, 0.25, 0.5, 1]
    assert all(point.retention is not None and "ndcg@10" in point.dev for point in evidence.sweep)
    assert {pairs.system for pairs in evidence.cosines} == {"base", "merged"}
    assert {"rrf", "default_base", "default", "chosen"} <= set(evidence.rows) and evidence.storage
    assert evidence.losses and evidence.dev_scores and evidence.training["best_step"] in dict(evidence.dev_scores)
    assert set(evidence.slices) == {"style", "length", "overlap", "document"}
    assert evidence.outcome_counts["won"] + evidence.outcome_counts["lost"] >= len(evidence.outcomes) > 0
    assert evidence.cluster_by in ("document", "passage") and evidence.human
    html = workspace.path("report.html").read_text("utf-8")
    for part in ("id=\"loss-title\"", "id=\"dev-title\"", "id=\"sweep-dev-title\"", "id=\"sweep-retention-title\"",
                 "id=\"cosines-title\"", "id=\"explorer\"", "camera manual"):  # fmt: skip
        assert part in html
    assert "<script>window.pwned" not in html
    assert "window.pwned" not in workspace.path("merged/README.md").read_text("utf-8")
