"""The stage `evaluate`: every retriever on the same queries, written to scores.jsonl, evaluation.json and summary.json.

A row is a retriever: parts over a model, built and scored as an index is, so that searching an index of it gives the
row. summary.json's "retrievers" holds each as data, with its model, bytes a passage and milliseconds a query;
"storage" what other ways to store one vector a passage would cost; docs/evaluation.md describes all files. Every system
is given the same text of each passage. A model reads it as far as its window goes, BM25 to its end; where that differs,
the system bm25_cut shows BM25 on what the base's window holds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedfit.config import Config
from embedfit.embedders.registry import PaidEmbedder, opened_embedders
from embedfit.errors import ArtifactMissing, UsageError
from embedfit.evaluation import rows
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import Measured
from embedfit.evaluation.outcomes import outcomes
from embedfit.evaluation.run_systems import RunFiles, RunSystems
from embedfit.evaluation.slices import slices
from embedfit.evaluation.storage import storage
from embedfit.evaluation.summary import COMPARED, comparisons, systems_table
from embedfit.llm.ledger import Ledger, Usage
from embedfit.llm.ledger.spent import calls_of_run
from embedfit.models.store.vectors import Embedder
from embedfit.path.artefacts import Document, Score
from embedfit.path.systems import check_systems
from embedfit.path.workspace import Workspace
from embedfit.retrieval.metrics import METRICS
from embedfit.runtime import Runtime

SCHEMA = 1
_STAGES = ("ingest", "generate", "mine", "train", "merge", "check", "choose")


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Evaluate the run's systems, and those of evaluate.systems."""
    started = time.monotonic()
    check_systems(config)
    _check_names(config.evaluate.systems)
    with opened_embedders() as opened:
        _evaluate(workspace, config, runtime, opened, started)


def _evaluate(
    workspace: Workspace, config: Config, runtime: Runtime, opened: dict[str, Embedder], started: float
) -> None:
    run_files = RunFiles.read(workspace)
    eval_set = _eval_set(workspace, config, run_files)
    runtime.report.log(
        f"evaluate: {len(eval_set.queries):,} {eval_set.kind} queries, {len(eval_set.passage_ids):,} passages"
    )
    for note in eval_set.notes:
        runtime.report.log(f"evaluate: {note}")
    systems = RunSystems(workspace, config, runtime, eval_set, run_files, opened)
    measured = systems.measured()

    clusters, cluster_by = eval_set.clusters()
    rng = np.random.default_rng(config.seed)
    draws = config.evaluate.bootstrap
    pairs = (*rows.PAIRS, *(("merged", name) for name in config.evaluate.systems))
    table = systems_table(measured, clusters, draws=draws, rng=rng)
    compared = comparisons(measured, pairs, clusters, draws=draws, rng=rng)
    metric = COMPARED[0]
    decision = {**_decision(run_files.merge), "retriever": run_files.chosen}
    tuned = _tuned(decision)
    evaluation = {
        "schema": SCHEMA,
        "metric": metric,
        "cluster_by": cluster_by,
        "tuned": tuned,
        **outcomes(eval_set, measured, metric=metric, tuned=tuned, beside=("bm25", "chosen")),
        "slices": slices(
            eval_set,
            measured["base"].column(metric),
            measured[tuned].column(metric),
            clusters,
            tuned=tuned,
            draws=draws,
            rng=rng,
        ),
    }
    passages, queries = systems.shipped_vectors()
    stored = storage(
        passages,
        queries,
        measured["merged"],
        eval_set,
        clusters,
        runtime.report,
        trained=config.train.matryoshka,
        draws=draws,
        rng=rng,
    )
    workspace.write(Score, _scores(measured, eval_set))
    workspace.write_json("evaluation.json", evaluation)
    workspace.write_json(
        "summary.json",
        {
            "schema": SCHEMA,
            "systems": table,
            "comparisons": compared,
            "retrievers": systems.described(measured),
            "storage": stored,
            "decision": decision,
            "data": _data(run_files, eval_set, systems),
            "cluster_by": cluster_by,
            "timings_s": _timings(workspace, time.monotonic() - started),
            "cost": _cost(runtime.ledger, workspace, opened.values()),
        },
    )
    for line in _verdict_lines(compared, tuned):
        runtime.report.log(line)


def _check_names(systems: Sequence[str]) -> None:
    """Fail before anything is computed on a name that is taken."""
    for name in systems:
        if name in rows.NAMES:
            raise UsageError(f"evaluate.systems: {name} is always measured.", remedy="Leave it out.")


def _eval_set(workspace: Workspace, config: Config, run_files: RunFiles) -> EvalSet:
    if config.eval_beir:
        folder = Path(config.eval_beir)
        if not folder.is_dir():
            raise ArtifactMissing(f"There is no evaluation folder {folder}.", remedy="Give another --eval-beir.")
    else:
        folder = workspace.existing("eval")
    return read_eval_set(
        folder,
        "human" if config.eval_beir else "synthetic",
        passages=run_files.passages,
        document_names=_document_names(run_files.documents),
        styles={query.query_id: query.style for query in run_files.queries} if not config.eval_beir else None,
    )


def _document_names(documents: Sequence[Document]) -> dict[str, str]:
    """File names, where they tell documents apart; a BEIR corpus is one file with many documents."""
    counts = Counter(Path(document.path).name for document in documents)
    return {
        document.document_id: name if counts[name := Path(document.path).name] == 1 else document.document_id
        for document in documents
    }


def _data(run_files: RunFiles, eval_set: EvalSet, systems: RunSystems) -> dict[str, Any]:
    """Counts. eval_passages_cut: passages that are longer than the base's window.

    without_written_queries: whether what ships holds written queries, but was measured without them.
    """
    return {
        "documents": sum(document.status in ("ok", "partial") for document in run_files.documents),
        "passages": len(run_files.passages),
        "queries_generated": len(run_files.queries),
        "queries_kept": sum(query.kept for query in run_files.queries),
        "train_rows": run_files.train_rows,
        "eval_queries": len(eval_set.queries),
        "eval_kind": eval_set.kind,
        "eval_passages": len(eval_set.passage_ids),
        "eval_passages_cut": systems.passages_cut,
        "eval_queries_skipped": eval_set.skipped,
        "without_written_queries": systems.without_queries,
    }


def _scores(measured: Mapping[str, Measured], eval_set: EvalSet) -> Iterator[Score]:
    for name, system in measured.items():
        for query_id, rank, values in zip(
            eval_set.query_ids, system.ranks.tolist(), system.values.tolist(), strict=True
        ):
            for metric, value in zip(METRICS, values, strict=True):
                yield Score(system=name, query_id=query_id, metric=metric, value=value, rank=rank)


def _decision(merge: Mapping[str, Any]) -> dict[str, Any]:
    """What the merge stage decided, on dev queries alone: the numbers of this stage may not change it."""
    decision = merge.get("decision") or {}
    return {
        "ship": decision.get("ship", "merged"),
        "alpha": decision.get("alpha"),
        "why": decision.get("why", "merge.json holds no decision"),
    }


def _tuned(decision: Mapping[str, Any]) -> str:
    """The system whose queries won and lost are told: at weight 0 the merged model is the base itself."""
    return "finetuned" if decision["alpha"] == 0 else "merged"


def _timings(workspace: Workspace, seconds: float) -> dict[str, float]:
    manifests = {stage: workspace.read_manifest(stage) for stage in _STAGES}
    timings = {stage: manifest.seconds for stage, manifest in manifests.items() if manifest is not None}
    return {**timings, "evaluate": round(seconds, 3)}


def _cost(ledger: Path, workspace: Workspace, embedders: Iterable[Embedder]) -> dict[str, Any]:
    """What the run's language-model calls and paid vectors have cost, whenever they were paid for."""
    total = Usage()
    call_ids = calls_of_run(workspace)
    if call_ids and ledger.exists():
        with Ledger(ledger) as calls:
            total = calls.usage_of(call_ids)
    for embedder in embedders:
        if isinstance(embedder, PaidEmbedder):
            used = embedder.usage
            total = Usage(
                calls=total.calls + used.calls,
                input_tokens=total.input_tokens + used.input_tokens,
                output_tokens=total.output_tokens + used.output_tokens,
                usd=total.usd + used.usd,
            )
    return {
        "calls": total.calls,
        "input_tokens": total.input_tokens,
        "output_tokens": total.output_tokens,
        "usd": round(total.usd, 6),
    }


def _verdict_lines(compared: Sequence[Mapping[str, Any]], tuned: str) -> Iterator[str]:
    for row in compared:
        if row["metric"] == COMPARED[0] and row["a"] in (tuned, "default", "chosen"):
            low, high = row["ci95"]
            yield (
                f"evaluate: {row['a']} - {row['b']}: {100 * row['delta']:+.1f} points of {row['metric']},"
                f" 95% CI [{100 * low:+.1f}, {100 * high:+.1f}], p = {row['p_value']:.4f}"
            )
