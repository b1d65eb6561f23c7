"""`embedfit benchmark`: any systems side by side on any BEIR folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from embedfit.config import WINDOW_TOKENS
from embedfit.embedders.registry import LOCAL, PaidEmbedder, open_embedder, opened_embedders
from embedfit.errors import InputError, UsageError
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import Group, Measured, Opened, measure, of_model, of_vectors, of_words
from embedfit.evaluation.summary import Resamples, comparisons, systems_table
from embedfit.index.build import Source
from embedfit.index.retriever import BM25, RRF, Part, PartName, Retriever, single
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import Embedder
from embedfit.path.artefacts import Comparison, Schema, System, Whole
from embedfit.path.systems import SystemName, parse
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.metrics import Convention
from embedfit.runtime import Runtime


class BenchmarkedSystem(System):
    """A system of a benchmark. model: the facts that decide its vectors, and their cost if it is known."""

    model: Mapping[str, JsonValue] = {}


class BenchmarkResult(Whole):
    """The result that `embedfit benchmark --json` writes. beir: the folder's name. The rest is as in summary.json."""

    edition: Schema = 1
    beir: str
    convention: Convention
    queries: int
    passages: int
    cluster_by: str
    systems: Mapping[str, BenchmarkedSystem]
    comparisons: tuple[Comparison, ...]
    seconds: float


def benchmark(
    models: Sequence[str],
    beir: str | Path,
    runtime: Runtime,
    *,
    draws: int = 2000,
    seed: int = 13,
    windows: bool = False,
    window_tokens: int = WINDOW_TOKENS,
    convention: Convention = "sentence-transformers",
) -> BenchmarkResult:
    """Score systems (names as in embedfit.path.systems) on a BEIR folder's test queries.

    Every system gets whole passages and reads each as far as its own window goes. The first system is compared with all
    others. windows: also measure "windowed:NAME" for every model on this machine; it has a vector for every window of
    window_tokens, and the best one is a passage's score. convention: the way ties, grades and MAP are counted, see
    embedfit.retrieval.metrics. BEIR's own numbers follow trec_eval.
    """
    systems = _systems(models, windows)
    started = time.monotonic()
    eval_set = read_set(Path(beir), convention, runtime, said_by="benchmark")
    measured, described = measured_systems(
        systems, eval_set, runtime, window_tokens=window_tokens, convention=convention
    )
    clusters, cluster_by = eval_set.clusters()
    resamples = Resamples(clusters, draws, np.random.default_rng(seed))
    table = systems_table(measured, resamples)
    return BenchmarkResult(
        beir=Path(beir).name,
        convention=convention,
        queries=len(eval_set.queries),
        passages=len(eval_set.passage_ids),
        cluster_by=cluster_by,
        systems={
            one.name: BenchmarkedSystem(
                metrics=table[one.name].metrics, ci95=table[one.name].ci95, model=described[one.name]
            )
            for one in systems
        },
        comparisons=comparisons(measured, [(one.name, systems[0].name) for one in systems[1:]], resamples),
        seconds=round(time.monotonic() - started, 3),
    )


def measured_systems(
    systems: Sequence[SystemName],
    eval_set: EvalSet,
    runtime: Runtime,
    *,
    window_tokens: int = WINDOW_TOKENS,
    convention: Convention,
) -> tuple[dict[str, Measured], dict[str, Mapping[str, JsonValue]]]:
    """Each system measured, and the facts that decide its vectors, both by name in the order given."""
    with opened_embedders() as opened:
        room = _Benchmark(runtime=runtime, eval_set=eval_set, window_tokens=window_tokens, opened=opened)
        found = measure(list(room.groups(systems)), eval_set, runtime.report, convention=convention)
        facts = {name: _described(embedder) for name, embedder in opened.items()}
    return (
        {one.name: found[one.name] for one in systems},
        {one.name: facts.get(one.embedder, {}) for one in systems},
    )


def _systems(names: Sequence[str], windows: bool) -> list[SystemName]:
    """The systems to measure. Raises UsageError for a wrong name, a repeated name, and an empty list."""
    if not names:
        raise UsageError("There is no model to benchmark.", remedy="For example: embedfit benchmark minilm bm25 …")
    if len(set(names)) < len(names):
        raise UsageError("A model is named twice.", remedy="Name each model once.")
    found = []
    for one in map(parse, names):
        found.append(one)
        if windows and one.kind == LOCAL and one.with_windows().name not in names:
            found.append(one.with_windows())
    return found


def read_set(folder: Path, convention: Convention, runtime: Runtime, *, said_by: str) -> EvalSet:
    """The evaluation set of a BEIR folder. Its notes are logged as those of the command `said_by`."""
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}.", remedy="Give a folder with corpus.jsonl, queries.jsonl, qrels/."
        )
    eval_set = read_eval_set(folder, "human")
    for note in eval_set.notes:
        runtime.report.log(f"{said_by}: {note}")
    if convention != "trec_eval" and len({grade for of_query in eval_set.relevant for grade in of_query.values()}) > 1:
        runtime.report.log(
            f"{said_by}: The judgements have grades. nDCG counts each relevant passage alike, as sentence-transformers "
            "does. For numbers to set beside BEIR's: --convention trec_eval"
        )
    return eval_set


@dataclass(kw_only=True)
class _Benchmark:
    """Opens the systems of a benchmark, embedder by embedder. opened: the list that the embedders are appended to."""

    runtime: Runtime
    eval_set: EvalSet
    window_tokens: int
    opened: dict[str, Embedder] = field(default_factory=dict)

    @cached_property
    def words(self) -> Bm25:
        return Bm25(self.eval_set.contents)

    def groups(self, systems: Sequence[SystemName]) -> Iterator[Group]:
        """The systems grouped by embedder. Only windows are searched in float16."""
        words = {one.name: BM25 for one in systems if not one.embedder}
        if words:
            yield Group(open=lambda: of_words(self.words, self.eval_set), rows=words)
        for embedder in dict.fromkeys(one.embedder for one in systems if one.embedder):
            own = [one for one in systems if one.embedder == embedder]
            plain = {one.name: _retriever(one) for one in own if not one.windowed}
            windowed = {one.name: _retriever(one) for one in own if one.windowed}
            if plain:
                yield Group(open=partial(self._whole, embedder, plain), rows=plain)
            if windowed:
                yield Group(open=partial(self._windowed, embedder, windowed), rows=windowed)

    def _open(self, name: str) -> Embedder:
        if name not in self.opened:
            self.opened[name] = open_embedder(name, self.runtime)
        return self.opened[name]

    def _whole(self, name: str, rows: Mapping[str, Retriever]) -> Opened:
        words = (lambda: self.words) if any(row.has("words") for row in rows.values()) else None
        return of_vectors(self._open(name), self.eval_set, self.runtime, words=words)

    def _windowed(self, name: str, rows: Mapping[str, Retriever]) -> Opened:
        model = self._open(name)
        assert isinstance(model, LocalModel)  # parse() has refused the others
        source = Source(contents=self.eval_set.contents)
        return of_model(
            model, source, rows, self.eval_set, self.runtime, words=lambda: self.words,
            window_tokens=self.window_tokens,
        )  # fmt: skip


def _retriever(system: SystemName) -> Retriever:
    dense: PartName = "windows" if system.windowed else "one"
    if not system.hybrid:
        return single(system.name, dense)
    return replace(RRF, parts=(Part(name=dense, weight=0.5), Part(name="words", weight=0.5)))


def _described(embedder: Embedder) -> Mapping[str, JsonValue]:
    """The facts that decide a system's vectors, so that a result can be traced to its model."""
    if isinstance(embedder, LocalModel):
        return {
            "vectors": embedder.key[:16],
            "query_instruction": embedder.layout.query_instruction,
            "max_tokens": embedder.layout.max_tokens,
        }
    if isinstance(embedder, PaidEmbedder):
        used = embedder.usage
        return {"calls": used.calls, "input_tokens": used.input_tokens, "usd": round(used.usd, 6)}
    return {}
