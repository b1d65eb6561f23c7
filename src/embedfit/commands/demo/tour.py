"""The demo's way: the retriever without training and its verdict first, then tuning and what it added."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from embedfit.commands import runs
from embedfit.commands.demo.pace import Details, Headings, machine_pace
from embedfit.commands.demo.result import DemoResult, ranks_of, side_by_side
from embedfit.commands.demo.telling import first_verdict, gains
from embedfit.config import Config
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import Group, Measured, measure, of_model
from embedfit.evaluation.summary import Resamples, comparisons, systems_table
from embedfit.files.atomic import atomic_folder
from embedfit.files.beir import read_beir, write_beir
from embedfit.files.retrieval import RetrievalData
from embedfit.index.build import Source
from embedfit.index.retriever import BASE, BM25, default_for
from embedfit.models.local import base_model
from embedfit.numerics.arrays import Ints
from embedfit.numerics.machine import cores, memory_limit
from embedfit.path.artefacts import METRIC, Score
from embedfit.path.workspace import Workspace
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime

#: A part's title, and its seconds on two cores with AVX2.
RETRIEVER: Final = "The retriever without training"
TUNING: Final = "Tuning on written queries"
MEASURING: Final = "Measuring everything, and the report"
PARTS: Final[Mapping[str, float]] = {RETRIEVER: 55.0, TUNING: 30.0, MEASURING: 40.0}
#: A machine with less free memory, in bytes, or with one core takes half of the documents.
MEMORY: Final = 3 << 30
_PACKED: Final = Path(__file__).with_name("annual_reports.zip")
_WRITTEN: Final = "written.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """memory: free bytes. pace: seconds here for a second of the machine on which PARTS were timed; a first guess."""

    cores: int
    memory: int
    pace: float

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        return cls(cores=cores(), memory=memory_limit(), pace=machine_pace())

    @property
    def leaves_out(self) -> str:
        """Why the demo takes half of the documents here; empty if it takes all."""
        if self.cores == 1:
            return "this machine has one core"
        if self.memory < MEMORY:
            return f"{self.memory / (1 << 30):.1f} GiB of memory are free, less than {MEMORY >> 30}"
        return ""


def demo(
    run_folder: str | Path,
    *,
    untrained: bool = False,
    assignments: Sequence[str] = (),
    packed: Path = _PACKED,
    machine: Machine | None = None,
    runtime: Runtime | None = None,
) -> DemoResult:
    """Go the whole path on the package's documents and measure it on people's questions.

    untrained: end after the retriever without training. assignments: settings such as "train.map_steps=400". packed: a
    zip file of a BEIR folder. machine: default: this one. Raises EmbedfitError.
    """
    runtime, workspace = runtime or Runtime(), Workspace(run_folder)
    machine = machine or Machine.here()
    parts = {RETRIEVER: PARTS[RETRIEVER]} if untrained else PARTS
    headings = Headings(report=runtime.report, parts=parts, pace=machine.pace)
    folder = unpack(packed, workspace.path("demo-data"), whole=not machine.leaves_out)
    eval_set = read_eval_set(folder, "human")
    runtime.report.log(
        f"Documents: {len(eval_set.passage_ids):,} passages of companies' annual reports. {len(eval_set.queries):,} "
        "questions that people asked judge every step; nothing learns from them."
    )
    if machine.leaves_out:
        runtime.report.log(f"Half of the documents are left out, because {machine.leaves_out}.")
    details = replace(runtime, report=Details(runtime.report, workspace.path("demo.log")))
    way = _Way(workspace, folder, tuple(assignments), details)
    headings.begin(RETRIEVER)
    config = way.config()
    first = _without_training(config, eval_set, details)
    resamples = Resamples(eval_set.clusters()[0], config.evaluate.bootstrap, np.random.default_rng(config.seed))
    table, gain = systems_table(first, resamples), comparisons(first, [("default_base", "base")], resamples)[0]
    runtime.report.log(first_verdict(table, gain))
    ranks, run = first["default_base"].ranks, None
    if not untrained:
        headings.begin(TUNING)
        runtime.report.log(
            "A strong language model wrote the queries before, of the passages alone; the package holds them, so no "
            "model is asked now."
        )
        way.go(until="choose")
        headings.begin(MEASURING)
        run = way.go(until="report")
        for sentence in gains(run.results):
            runtime.report.log(sentence)
        ranks = _ranks(workspace, run.results.lead, eval_set)
    headings.end()
    return DemoResult(
        folder=workspace.root,
        questions=len(eval_set.queries),
        systems=table,
        untrained=gain,
        compared=side_by_side(eval_set, first["base"], ranks),
        seconds=headings.took,
        run=run,
    )


@dataclass(frozen=True)
class _Way:
    """The run of the demo, in steps."""

    workspace: Workspace
    folder: Path
    assignments: tuple[str, ...]
    runtime: Runtime

    def config(self) -> Config:
        """The settings of the run."""
        return runs.resolved(
            self.workspace,
            self.folder / "corpus.jsonl",
            self.runtime,
            preset="default",
            settings={"model": "minilm", "generate": {"generator": f"recorded:{self.folder / _WRITTEN}"}},
            eval_beir=self.folder,
            assignments=self.assignments,
        )

    def go(self, *, until: str) -> runs.RunResult:
        """Do every stage up to one that is not up to date. A recorded writer costs nothing."""
        return runs.run_config(self.workspace, self.config(), runs.with_consent(self.runtime, True), until=until)


def unpack(packed: Path, target: Path, *, whole: bool = True) -> Path:
    """Unpack a zip file of a BEIR folder with written queries, and the notice on its licences, to the folder `target`.

    whole: False leaves out the second half of the passages, and the questions that need them.
    """
    with atomic_folder(target) as folder:
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        if not whole:
            data = read_beir(folder)
            corpus = dict(list(data.corpus.items())[: len(data.corpus) // 2])
            qrels = {query: found for query, found in data.qrels.items() if found.keys() <= corpus.keys()}
            queries = {query: data.queries[query] for query in qrels}
            write_beir(folder, RetrievalData(corpus=corpus, queries=queries, qrels=qrels))
        (folder / "NOTICE.txt").write_bytes(_PACKED.with_name("NOTICE.txt").read_bytes())
    return target


def _without_training(config: Config, eval_set: EvalSet, runtime: Runtime) -> dict[str, Measured]:
    """One vector, words, and the retriever that `embedfit index` builds, on people's questions."""
    base, words = base_model(config), Bm25(eval_set.contents)
    rows = {"base": BASE, "bm25": BM25, "default_base": default_for(len(eval_set.passage_ids))}
    source = Source(contents=eval_set.contents)
    group = Group(open=lambda: of_model(base, source, rows, eval_set, runtime, words=lambda: words), rows=rows)
    return measure([group], eval_set, runtime.report)


def _ranks(workspace: Workspace, system: str, eval_set: EvalSet) -> Ints:
    rows = (row for row in workspace.read(Score) if row.system == system and row.metric == METRIC)
    return ranks_of({row.query_id: row.rank for row in rows}, eval_set)
