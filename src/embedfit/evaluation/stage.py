"""The stage `evaluate`: every retriever on the same queries, written to scores.jsonl, evaluation.json and summary.json.

A row is a retriever: parts over a model, built and scored as in an index, so a search of such an index gives the same
numbers. In summary.json, "retrievers" holds each retriever as data, with its model, bytes a passage and milliseconds a
query, and "storage" holds the loss by other ways to store one vector a passage. docs/evaluation.md describes all files.
Every system gets the same text of each passage. A model reads it as far as its window goes, BM25 to its end. If a
passage is longer than the base's window, the system bm25_cut shows BM25 on the part in the window.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import numpy as np

from embedfit.config import Config
from embedfit.embedders.registry import PaidEmbedder, opened_embedders
from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import Measured
from embedfit.evaluation.outcomes import outcomes
from embedfit.evaluation.run_systems import RunFiles, RunSystems
from embedfit.evaluation.slices import slices
from embedfit.evaluation.storage import storage
from embedfit.evaluation.summary import Resamples, comparisons, systems_table
from embedfit.llm.ledger.spent import cost_of
from embedfit.models.store.vectors import Embedder
from embedfit.path.artefacts import METRIC, Counts, Decision, Score, Summary
from embedfit.path.stages import BEFORE_EVALUATE
from embedfit.path.systems import check_systems, pairs
from embedfit.path.workspace import Workspace
from embedfit.retrieval.metrics import METRICS
from embedfit.runtime import Runtime


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Evaluate the run's systems, and those of evaluate.systems."""
    started = time.monotonic()
    check_systems(config)
    with opened_embedders() as opened:
        _evaluate(workspace, config, runtime, opened, started)


def _evaluate(
    workspace: Workspace, config: Config, runtime: Runtime, opened: dict[str, Embedder], started: float
) -> None:
    files = RunFiles.read(workspace, config)
    eval_set = files.eval_set
    runtime.report.log(
        f"evaluate: {len(eval_set.queries):,} {eval_set.kind} queries, {len(eval_set.passage_ids):,} passages"
    )
    for note in eval_set.notes:
        runtime.report.log(f"evaluate: {note}")
    systems = RunSystems(workspace, config, runtime, files, opened)
    measured = systems.measured()

    clusters, cluster_by = eval_set.clusters()
    resamples = Resamples(clusters, config.evaluate.bootstrap, np.random.default_rng(config.seed))
    table = systems_table(measured, resamples)
    compared = comparisons(measured, pairs(config.evaluate.systems), resamples)
    merged = files.merge.decision
    # At weight 0 the merged model is the base itself, so it would win and lose no query.
    tuned = "finetuned" if merged.alpha == 0 else "merged"
    base, best = (measured[name].column(METRIC) for name in ("base", tuned))
    won = outcomes(eval_set, measured, metric=METRIC, tuned=tuned, beside=("bm25", "chosen"))
    evaluation = won.model_copy(
        update={"cluster_by": cluster_by, "slices": slices(eval_set, base, best, resamples, tuned=tuned)}
    )
    vectors, trained = systems.shipped_vectors(), config.train.matryoshka
    stored = storage(*vectors, measured["merged"], eval_set, resamples, runtime.report, trained=trained)
    workspace.write(Score, _scores(measured, eval_set))
    workspace.store(evaluation)
    workspace.store(
        Summary(
            systems=table,
            comparisons=compared,
            retrievers=systems.described(measured),
            storage=stored,
            decision=Decision(ship=merged.ship, alpha=merged.alpha, why=merged.why, retriever=files.chosen),
            data=_counts(files, systems),
            cluster_by=cluster_by,
            timings_s=_timings(workspace, time.monotonic() - started),
            cost=cost_of(
                runtime.ledger, workspace, [one.usage for one in opened.values() if isinstance(one, PaidEmbedder)]
            ),
        )
    )
    for one in compared:
        if one.metric == METRIC and one.a in (tuned, "default", "chosen"):
            runtime.report.log(f"evaluate: {one}")


def _counts(files: RunFiles, systems: RunSystems) -> Counts:
    eval_set = files.eval_set
    return Counts(
        documents=sum(document.status in ("ok", "partial") for document in files.documents),
        passages=len(files.passages),
        queries_generated=len(files.queries),
        queries_kept=sum(query.kept for query in files.queries),
        train_rows=files.train_rows,
        eval_queries=len(eval_set.queries),
        eval_kind=eval_set.kind,
        eval_passages=len(eval_set.passage_ids),
        eval_passages_cut=systems.passages_cut,
        eval_queries_skipped=eval_set.skipped,
        without_written_queries=systems.without_queries,
    )


def _scores(measured: Mapping[str, Measured], eval_set: EvalSet) -> Iterator[Score]:
    for name, system in measured.items():
        rows = zip(eval_set.query_ids, system.ranks.tolist(), system.values.tolist(), strict=True)
        for query_id, rank, values in rows:
            for metric, value in zip(METRICS, values, strict=True):
                yield Score(system=name, query_id=query_id, metric=metric, value=value, rank=rank)


def _timings(workspace: Workspace, seconds: float) -> dict[str, float]:
    manifests = {stage: workspace.read_manifest(stage) for stage in BEFORE_EVALUATE}
    timings = {stage: manifest.seconds for stage, manifest in manifests.items() if manifest is not None}
    return {**timings, "evaluate": round(seconds, 3)}
