"""Every stage's real files reach the report: the whole path with a tiny model and a writer that quotes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from embedfit.config import resolve, save
from embedfit.path import pipeline
from embedfit.path.workspace import Workspace
from embedfit.queries import stage as generate
from embedfit.reporting.evidence import gather
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel

THINGS = ("router", "oven", "camera", "printer", "heater", "fridge", "drill", "scale", "radio", "lamp")
ACTS = ("clean", "reset", "mount", "charge", "store", "repair", "pair", "update")


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "corpus.jsonl"
    with path.open("w") as file:
        for number, (thing, act) in enumerate((thing, act) for thing in THINGS for act in ACTS):
            text = (
                f"To {act} the {thing}, press button {number} until the light is {'green' if number % 2 else 'red'}. "
                f"Then wait {number + 3} seconds for the {thing}. <script>window.pwned = {number}</script>"
            )
            file.write(json.dumps({"_id": f"p{number}", "title": f"{thing} manual", "text": text}) + "\n")
    (folder / "qrels").mkdir()
    rows = [(f"h{n}", f"how do i {ACTS[n % 8]} my {THINGS[n // 8]}", f"p{n}") for n in range(0, 80, 2)]
    queries = [json.dumps({"_id": key, "text": text}) for key, text, _ in rows]
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    qrels = [f"{key}\t{passage}\t1" for key, _, passage in rows]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(qrels) + "\n")
    return path


def quoting(request):
    """A query a requested one, of words of the passage."""
    found = re.findall(r"To (\w+) the (\w+), press button (\d+)", request.messages[-1].content)
    act, thing, number = found[-1]
    return f"how can I {act} a {thing} with button {number}"


@pytest.mark.slow
def test_no_file_of_the_real_stages_is_missed(tiny_bert: Path, tmp_path: Path):
    corpus = write_corpus(tmp_path / "data")
    settings = {
        "docs": [str(corpus)], "eval_beir": str(tmp_path / "data"), "model": str(tiny_bert),
        "generate": {"queries_per_passage": 1, "round_trip_k": 0, "generator": "local"},
        "mine": {"negatives": 2, "depth": 20}, "train": {"epochs": 2, "batch_size": 16, "hard_negatives": 1},
        "merge": {"steps": 2, "max_alpha": 1.0, "always_ship": True, "max_retention_loss": 1.0},
        "evaluate": {"bootstrap": 200},
    }  # fmt: skip
    config = resolve(overrides=settings)
    workspace = Workspace(tmp_path / "run")
    workspace.root.mkdir()
    save(config, workspace.path("embedfit.toml"))
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite")
    pipeline.run_stage(pipeline.stage_named("ingest"), workspace, config, runtime)
    generate.run(workspace, config, replace(runtime, language_model=FakeModel(quoting)))
    for name in ("mine", "train", "merge", "check", "choose", "evaluate", "report"):
        pipeline.run_stage(pipeline.stage_named(name), workspace, config, runtime)

    evidence = gather(workspace, config)
    assert evidence.missing == ()
    assert evidence.decision.ship in ("merged", "finetuned") and evidence.decision.alpha in (0.5, 1)
    assert {"base", "finetuned", "merged", "bm25", "hybrid_base", "hybrid_merged"} <= set(evidence.systems)
    assert evidence.comparison("merged").minimum_detectable is not None
    assert [point.alpha for point in evidence.sweep] == [0, 0.5, 1]
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
