"""The stage `evaluate`: every system on the same queries, written to scores.jsonl, evaluation.json and summary.json.

summary.json is described in DESIGN.md. Beyond that it holds "cluster_by" ("document" or "passage"),
"minimum_detectable" in each comparison, and in "data" the number of passages that are longer than the
base's window ("eval_passages_cut"). evaluation.json is described in docs/evaluation.md.

Every system is given the same text of each passage, as in use. A model reads it as far as its window
goes, BM25 to its end; where that differs, the system bm25_cut shows BM25 on what the base's window holds.
Where passages are longer than evaluate.windows tokens, base_windowed, merged_windowed and
hybrid_merged_windowed have a vector for every window of them, and so read to the end and in detail.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedfit.config import Config
from embedfit.errors import ArtifactMissing, UsageError
from embedfit.evaluation.evalset import EvalSet, cut, read_eval_set
from embedfit.evaluation.measure import Measured, Plan, measure
from embedfit.evaluation.outcomes import outcomes
from embedfit.evaluation.ranking import Fuse, fusion_of
from embedfit.evaluation.slices import slices
from embedfit.evaluation.summary import COMPARED, comparisons, systems_table
from embedfit.evaluation.systems import open_embedder, opened_embedders, parse
from embedfit.evaluation.titan import Titan
from embedfit.interchange import read_flagembedding
from embedfit.llm.ledger import Ledger, Usage
from embedfit.llm.ledger.spent import calls_of_run
from embedfit.models.local import LocalModel, base_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.models.vectors import Embedder, vector_cache
from embedfit.records import Document, Passage, Query, Score, written
from embedfit.retrieval.metrics import METRICS
from embedfit.runtime import Runtime
from embedfit.workspace import Workspace

SCHEMA = 1
OWN = ("base", "finetuned", "merged", "bm25", "hybrid_base", "hybrid_merged")
CUT = "bm25_cut"
#: Rows of models that have several vectors a passage, and the model of each.
WINDOWED = {"base_windowed": "base", "merged_windowed": "merged"}
HYBRID_WINDOWED = "hybrid_merged_windowed"
_STAGES = ("ingest", "generate", "mine", "train", "merge", "check", "choose")
_PAIRS = (
    ("merged", "base"),
    ("finetuned", "base"),
    ("finetuned", "bm25"),
    ("merged", "finetuned"),
    ("merged", "bm25"),
    ("hybrid_merged", "hybrid_base"),
    ("hybrid_merged", "bm25"),
    ("hybrid_merged", "merged"),
    ("merged_windowed", "merged"),
    ("merged_windowed", "base"),
    ("merged_windowed", "base_windowed"),
    ("merged_windowed", "bm25"),
    (HYBRID_WINDOWED, "hybrid_merged"),
)


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Evaluate the run's systems, and those of evaluate.systems."""
    started = time.monotonic()
    _check_names(config.evaluate.systems)
    with opened_embedders() as opened:
        _evaluate(workspace, config, runtime, opened, started)


def _evaluate(
    workspace: Workspace, config: Config, runtime: Runtime, opened: dict[str, Embedder], started: float
) -> None:
    run_files = _RunFiles.read(workspace)
    base = base_model(config)
    eval_set = _eval_set(workspace, config, run_files)
    in_window, passages_cut = cut(eval_set.contents, load_tokenizer(base.folder), base.layout.max_tokens)
    runtime.report.log(
        f"evaluate: {len(eval_set.queries):,} {eval_set.kind} queries, {len(eval_set.passage_ids):,} passages"
    )
    for note in eval_set.notes:
        runtime.report.log(f"evaluate: {note}")
    plan = _plan(workspace, config, runtime, eval_set, base, run_files, in_window, opened)
    measured = measure(plan, eval_set, vector_cache(), runtime.report)

    clusters, cluster_by = eval_set.clusters()
    rng = np.random.default_rng(config.seed)
    draws = config.evaluate.bootstrap
    pairs = (*_PAIRS, *(("merged", name) for name in config.evaluate.systems))
    systems = systems_table(measured, clusters, draws=draws, rng=rng)
    compared = comparisons(measured, pairs, clusters, draws=draws, rng=rng)
    metric = COMPARED[0]
    decision = {**_decision(run_files.merge), "retriever": workspace.read_json("retriever.json")}
    tuned = _tuned(decision)
    evaluation = {
        "schema": SCHEMA,
        "metric": metric,
        "cluster_by": cluster_by,
        "tuned": tuned,
        **outcomes(eval_set, measured, metric=metric, tuned=tuned, beside=("bm25", "hybrid_merged")),
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
    workspace.write(Score, _scores(measured, eval_set))
    workspace.write_json("evaluation.json", evaluation)
    workspace.write_json(
        "summary.json",
        {
            "schema": SCHEMA,
            "systems": systems,
            "comparisons": compared,
            "decision": decision,
            "data": {
                "documents": sum(document.status in ("ok", "partial") for document in run_files.documents),
                "passages": len(run_files.passages),
                "queries_generated": len(run_files.queries),
                "queries_kept": sum(query.kept for query in run_files.queries),
                "train_rows": run_files.train_rows,
                "eval_queries": len(eval_set.queries),
                "eval_kind": eval_set.kind,
                "eval_passages": len(eval_set.passage_ids),
                "eval_passages_cut": passages_cut,
                "eval_queries_skipped": eval_set.skipped,
            },
            "cluster_by": cluster_by,
            "timings_s": _timings(workspace, time.monotonic() - started),
            "cost": _cost(runtime.ledger, workspace, opened.values()),
        },
    )
    for line in _verdict_lines(compared, tuned):
        runtime.report.log(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunFiles:
    """What evaluate reads of the run besides the models."""

    documents: Sequence[Document]
    passages: Sequence[Passage]
    queries: Sequence[Query]
    train_rows: int
    merge: Mapping[str, Any]

    @classmethod
    def read(cls, workspace: Workspace) -> _RunFiles:
        return cls(
            documents=workspace.read(Document),
            passages=workspace.read(Passage),
            queries=written(workspace.read(Query)),
            train_rows=len(read_flagembedding(workspace.existing("train.jsonl"))),
            merge=workspace.read_json("merge.json"),
        )


def _check_names(systems: Sequence[str]) -> None:
    """Fail before anything is computed on a name that is wrong or taken."""
    for name in systems:
        parse(name)
        if name in (*OWN, CUT, *WINDOWED, HYBRID_WINDOWED):
            raise UsageError(f"evaluate.systems: {name} is always measured.", remedy="Leave it out.")


def _eval_set(workspace: Workspace, config: Config, run_files: _RunFiles) -> EvalSet:
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


def _plan(
    workspace: Workspace,
    config: Config,
    runtime: Runtime,
    eval_set: EvalSet,
    base: LocalModel,
    run_files: _RunFiles,
    in_window: Sequence[str],
    opened: dict[str, Embedder],
) -> Plan:
    """All systems. opened: takes the embedders of evaluate.systems, for their cost."""
    finetuned, merged = workspace.existing("finetuned"), workspace.existing("merged")
    fusion = run_files.merge.get("fusion")
    fuse, plain = fusion_of(fusion), fusion_of(None)
    embedders: dict[str, Callable[[], Embedder]] = {
        "base": lambda: base,
        "finetuned": lambda: LocalModel("finetuned", finetuned),
        "merged": lambda: LocalModel("merged", merged),
    }
    lexical: dict[str, Sequence[str]] = {"bm25": eval_set.contents}
    if in_window != eval_set.contents:
        lexical[CUT] = in_window
    hybrids: dict[str, tuple[str, Fuse]] = {"hybrid_base": ("base", fuse), "hybrid_merged": ("merged", fuse)}
    tokens = config.evaluate.windows
    longer = tokens and cut(eval_set.contents, load_tokenizer(base.folder), tokens)[1]  # else the rows would be alike
    windowed = WINDOWED if longer else {}
    if windowed:
        hybrids[HYBRID_WINDOWED] = ("merged_windowed", fusion_of(fusion, windowed=True))
    in_windows = (*windowed, *(name for name in hybrids if name not in OWN))
    for name in config.evaluate.systems:
        spec = parse(name)
        dense = name.removeprefix("hybrid:")
        embedders.setdefault(dense, _opener(dense, workspace, runtime, config, opened))
        if spec.hybrid:
            hybrids[name] = (dense, plain)
    order = (*OWN, *(name for name in lexical if name not in OWN), *in_windows, *config.evaluate.systems)
    return Plan(
        embedders=embedders,
        windowed=windowed,
        lexical=lexical,
        hybrids=hybrids,
        order=order,
        window_tokens=tokens,
    )


def _opener(
    name: str, workspace: Workspace, runtime: Runtime, config: Config, opened: dict[str, Embedder]
) -> Callable[[], Embedder]:
    run_name = str(workspace.root.resolve())  # as the generate stage books its calls, so that --max-cost covers both

    def open_it() -> Embedder:
        opened[name] = open_embedder(name, runtime, max_cost=config.generate.max_cost, run=run_name)
        return opened[name]

    return open_it


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
        if isinstance(embedder, Titan):
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
        if row["metric"] == COMPARED[0] and row["a"] in (tuned, "merged_windowed"):
            low, high = row["ci95"]
            yield (
                f"evaluate: {row['a']} - {row['b']}: {100 * row['delta']:+.1f} points of {row['metric']},"
                f" 95% CI [{100 * low:+.1f}, {100 * high:+.1f}], p = {row['p_value']:.4f}"
            )
