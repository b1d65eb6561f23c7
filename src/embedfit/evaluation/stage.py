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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from embedfit.config import WINDOW_TOKENS, Config
from embedfit.embedders.registry import PaidEmbedder, open_embedder, opened_embedders
from embedfit.errors import ArtifactMissing, UsageError
from embedfit.evaluation import rows
from embedfit.evaluation.evalset import EvalSet, cut, read_eval_set
from embedfit.evaluation.measure import Group, Measured, Opened, measure, of_model, of_vectors, of_words
from embedfit.evaluation.outcomes import outcomes
from embedfit.evaluation.slices import slices
from embedfit.evaluation.storage import storage
from embedfit.evaluation.summary import COMPARED, comparisons, systems_table
from embedfit.evaluation.systems import check_systems
from embedfit.index.build import Source
from embedfit.index.retriever import BASE, BM25, RRF
from embedfit.interchange import read_flagembedding
from embedfit.llm.ledger import Ledger, Usage
from embedfit.llm.ledger.spent import calls_of_run
from embedfit.models.local import LocalModel, base_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.models.vectors import Embedder, vector_cache
from embedfit.records import Document, Passage, Query, Score, written
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.metrics import METRICS
from embedfit.runtime import Runtime
from embedfit.workspace import Workspace

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
    run_files = _RunFiles.read(workspace)
    eval_set = _eval_set(workspace, config, run_files)
    runtime.report.log(
        f"evaluate: {len(eval_set.queries):,} {eval_set.kind} queries, {len(eval_set.passage_ids):,} passages"
    )
    for note in eval_set.notes:
        runtime.report.log(f"evaluate: {note}")
    systems = _Systems(workspace, config, runtime, eval_set, run_files, opened)
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
            "data": _data(run_files, eval_set, systems.passages_cut),
            "cluster_by": cluster_by,
            "timings_s": _timings(workspace, time.monotonic() - started),
            "cost": _cost(runtime.ledger, workspace, opened.values()),
        },
    )
    for line in _verdict_lines(compared, tuned):
        runtime.report.log(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunFiles:
    """What evaluate reads of the run besides the models.

    queries: the written ones. asked: questions that people asked and that may set an index' constants.
    """

    documents: Sequence[Document]
    passages: Sequence[Passage]
    queries: Sequence[Query]
    train_rows: int
    merge: Mapping[str, Any]
    chosen: Mapping[str, Any]
    asked: Sequence[str]

    @classmethod
    def read(cls, workspace: Workspace) -> _RunFiles:
        queries = workspace.read(Query)
        return cls(
            documents=workspace.read(Document),
            passages=workspace.read(Passage),
            queries=written(queries),
            train_rows=len(read_flagembedding(workspace.existing("train.jsonl"))),
            merge=workspace.read_json("merge.json"),
            chosen=workspace.read_json("retriever.json"),
            asked=[query.text for query in queries if query.split == "log"],
        )


def _check_names(systems: Sequence[str]) -> None:
    """Fail before anything is computed on a name that is taken."""
    for name in systems:
        if name in rows.NAMES:
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


class _Systems:
    """The run's retrievers and those of evaluate.systems, group by group so that one model is in memory at a time."""

    def __init__(
        self,
        workspace: Workspace,
        config: Config,
        runtime: Runtime,
        eval_set: EvalSet,
        run_files: _RunFiles,
        opened: dict[str, Embedder],
    ) -> None:
        """opened: takes the embedders of evaluate.systems, for their cost."""
        self._workspace, self._config, self._runtime = workspace, config, runtime
        self._eval_set, self._opened, self._asked = eval_set, opened, run_files.asked
        self._words = cache(lambda: Bm25(eval_set.contents))
        self._base = base_model(config)
        tokenizer, contents = load_tokenizer(self._base.folder), eval_set.contents
        self._in_window, self.passages_cut = cut(contents, tokenizer, self._base.layout.max_tokens)
        # Where every passage is one window, rows of windows would repeat those of one vector.
        windowed = bool(config.evaluate.windows and cut(contents, tokenizer, WINDOW_TOKENS)[1])
        default, self._chosen = rows.default_of(run_files.chosen), rows.chosen_of(run_files.chosen)
        self._of = {
            "base": rows.rows_of_base(default, windowed=windowed),
            "finetuned": {"finetuned": BASE},
            "merged": rows.rows_of_merged(default, windowed=windowed),
        }
        ships = "base" if run_files.chosen["model"] == "base" else "merged"
        if ships == "base":
            for name in ("rrf", "default"):
                self._of["base"][name] = self._of["merged"].pop(name)
        self._alike = "default" if rows.alike(self._chosen, default) else None
        if self._alike is None:
            self._of[ships]["chosen"] = self._chosen
            if ships == "merged":
                self._of["base"]["chosen_base"] = self._chosen

    def measured(self) -> dict[str, Measured]:
        """Every system, in the order of the report."""
        groups = [
            self._group(self._base, "base"),
            *(self._group(LocalModel(name, self._workspace.existing(name)), name) for name in ("finetuned", "merged")),
        ]
        if self._in_window != self._eval_set.contents:
            groups.append(Group(open=lambda: of_words(Bm25(self._in_window), self._eval_set), rows={rows.CUT: BM25}))
        found = measure([*groups, *self._further()], self._eval_set, self._runtime.report, timed=True)
        if self._alike is not None:
            found["chosen"] = found[self._alike]
        return {name: found[name] for name in (*rows.NAMES, *self._config.evaluate.systems) if name in found}

    def _group(self, model: LocalModel, name: str) -> Group:
        of_name = self._of[name]

        def open_it() -> Opened:
            source = Source(contents=self._eval_set.contents, asked=self._asked)
            report = self._runtime.report
            return of_model(model, source, of_name, self._eval_set, vector_cache(), report, words=self._words)

        return Group(open=open_it, rows=of_name)

    def _further(self) -> Iterator[Group]:
        """A group of each embedder of evaluate.systems, opened when its turn comes."""
        names = self._config.evaluate.systems
        for dense in dict.fromkeys(name.removeprefix("hybrid:") for name in names):
            own = {name: RRF if name != dense else BASE for name in names if name.removeprefix("hybrid:") == dense}
            opener = _opener(dense, self._workspace, self._runtime, self._config, self._opened)
            words = self._words if RRF in own.values() else None

            def open_it(opener: Callable[[], Embedder] = opener, words: Callable[[], Bm25] | None = words) -> Opened:
                return of_vectors(opener(), self._eval_set, vector_cache(), self._runtime.report, words=words)

            yield Group(open=open_it, rows=own)

    def shipped_vectors(self) -> tuple[Any, Any]:
        """The merged model's one vector of each passage (N, H) and query (Q, H), float32."""
        model = LocalModel("merged", self._workspace.existing("merged"))
        eval_set, report = self._eval_set, self._runtime.report
        return vector_cache().embed_both(model, eval_set.contents, eval_set.queries, report=report)

    def described(self, measured: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
        """Name → {"model", "retriever", "bytes_a_passage", "ms_a_query"} of the run's own rows."""
        model_of = {name: model for model, own in self._of.items() for name in own}
        if self._alike is not None:
            model_of["chosen"] = model_of[self._alike]
        return {
            name: {
                "model": None if name == "bm25" else model_of[name],
                "retriever": system.retriever.as_json(),
                "bytes_a_passage": system.bytes_a_passage,
                "ms_a_query": system.ms_a_query,
            }
            for name, system in measured.items()
            if name in model_of and system.retriever is not None
        }


def _opener(
    name: str, workspace: Workspace, runtime: Runtime, config: Config, opened: dict[str, Embedder]
) -> Callable[[], Embedder]:
    run_name = str(workspace.root.resolve())  # as the generate stage books its calls, so that --max-cost covers both

    def open_it() -> Embedder:
        opened[name] = open_embedder(name, runtime, max_cost=config.generate.max_cost, run=run_name)
        return opened[name]

    return open_it


def _data(run_files: _RunFiles, eval_set: EvalSet, passages_cut: int) -> dict[str, Any]:
    """Counts. eval_passages_cut: passages that are longer than the base's window."""
    return {
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
