"""The demo's way: the retriever without training and its verdict first, then queries, tuning and what tuning added."""

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
from embedfit.commands.demo.telling import first_verdict
from embedfit.config import Config
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import Group, Measured, measure, of_model
from embedfit.evaluation.summary import Resamples, comparisons, systems_table
from embedfit.files.atomic import atomic_folder
from embedfit.index.build import Source
from embedfit.index.retriever import BASE, BM25, default_for
from embedfit.models.local import base_model
from embedfit.numerics.machine import cores, memory_limit
from embedfit.path.artefacts import METRIC, Score
from embedfit.path.workspace import Workspace
from embedfit.reporting.wording import tuning
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime

#: A part's title, and its seconds on two cores with AVX2.
RETRIEVER: Final = "The retriever without training"
WRITING: Final = "Queries, written by a small language model on this machine"
TUNING: Final = "Tuning, and whether it ships"
MEASURING: Final = "Measuring everything, and the report"
PARTS: Final[Mapping[str, float]] = {RETRIEVER: 75.0, WRITING: 110.0, TUNING: 25.0, MEASURING: 40.0}
#: Free memory that the language model and tuning need, in bytes.
MEMORY: Final = 3 << 30

#: Training passages of which a query is written: on two cores and more, and on one.
MANY, FEW = 260, 100
_PACKED: Final = Path(__file__).with_name("feedbackqa_cdc.zip")


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
    def leaves_out(self) -> list[str]:
        """What the demo leaves out here, in sentences."""
        reasons = []
        if self.memory < MEMORY:
            reasons.append(
                f"Left out: queries and tuning, because the language model needs {MEMORY >> 30} GiB of free memory and "
                f"{self.memory / (1 << 30):.1f} GiB are free. The demo ends after the retriever without training."
            )
        elif self.cores == 1:
            reasons.append(f"This machine has one core: {FEW} passages get a query, not {MANY}.")
        return reasons


def demo(
    run_folder: str | Path,
    *,
    untrained: bool = False,
    assignments: Sequence[str] = (),
    packed: Path = _PACKED,
    machine: Machine | None = None,
    runtime: Runtime | None = None,
) -> DemoResult:
    """Go the whole path on the package's documents with the preset offline, and measure it on people's questions.

    untrained: end after the retriever without training. assignments: settings such as "train.map_steps=400". packed: a
    zip file of a BEIR folder. machine: default: this one. Raises EmbedfitError.
    """
    runtime, workspace = runtime or Runtime(), Workspace(run_folder)
    machine = machine or Machine.here()
    is_short = untrained or machine.memory < MEMORY
    parts = {RETRIEVER: PARTS[RETRIEVER]} if is_short else PARTS
    headings = Headings(report=runtime.report, parts=parts, pace=machine.pace)
    folder = unpack(packed, workspace.path("demo-data"))
    eval_set = read_eval_set(folder, "human")
    runtime.report.log(
        f"Documents: {len(eval_set.passage_ids):,} passages of the CDC's pages on COVID-19. {len(eval_set.queries):,} "
        "questions that people asked judge every step; nothing learns from them."
    )
    for reason in machine.leaves_out:
        runtime.report.log(reason)
    details = replace(runtime, report=Details(runtime.report, workspace.path("demo.log")))
    way = _Way(workspace, folder, settings_for(machine), tuple(assignments), details)
    headings.begin(RETRIEVER)
    config = way.config()
    first = _without_training(config, eval_set, details)
    resamples = Resamples(eval_set.clusters()[0], config.evaluate.bootstrap, np.random.default_rng(config.seed))
    table, gain = systems_table(first, resamples), comparisons(first, [("default_base", "base")], resamples)[0]
    runtime.report.log(first_verdict(table, gain))
    ranks, run = first["default_base"].ranks, None
    if not is_short:
        for title, last in ((WRITING, "generate"), (TUNING, "choose"), (MEASURING, "report")):
            headings.begin(title)
            run = way.go(until=last)
        assert run is not None
        runtime.report.log(tuning(run.results))
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


def settings_for(machine: Machine) -> dict[str, object]:
    """The settings over those of the preset offline.

    Few queries, because writing them takes most of the time. A map on query vectors, because passages then keep their
    vectors, so that nothing is encoded again. docs/recipe.md has the measurement.
    """
    return {
        "generate": {
            "domain": "public health advice on COVID-19",
            "dev_share": 0.04,
            "max_passages": FEW if machine.cores == 1 else MANY,
            "queries_per_passage": 1,
        },
        "train": {"loss": "corpus-distil", "corpus_teacher": [0.4, 0.4, 0.2], "label_share": 0.0},
        "merge": {"max_alpha": 0.5},
    }


@dataclass(frozen=True)
class _Way:
    """The run of the demo, in steps."""

    workspace: Workspace
    folder: Path
    settings: Mapping[str, object]
    assignments: tuple[str, ...]
    runtime: Runtime

    def config(self) -> Config:
        """The settings of the run."""
        return runs.resolved(
            self.workspace,
            self.folder / "corpus.jsonl",
            self.runtime,
            preset="offline",
            settings=self.settings,
            eval_beir=self.folder,
            assignments=self.assignments,
        )

    def go(self, *, until: str) -> runs.RunResult:
        """Do every stage up to one that is not up to date. The offline preset makes no paid call."""
        return runs.run_config(self.workspace, self.config(), runs.with_consent(self.runtime, True), until=until)


def unpack(packed: Path, target: Path) -> Path:
    """Unpack a zip file of a BEIR folder, and the notice on its licences, to the folder `target`."""
    with atomic_folder(target) as folder, packed.open("rb") as file, zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
        (folder / "NOTICE.txt").write_bytes(_PACKED.with_name("NOTICE.txt").read_bytes())
    return target


def _without_training(config: Config, eval_set: EvalSet, runtime: Runtime) -> dict[str, Measured]:
    """One vector, words, and the retriever that `embedfit index` builds, on people's questions."""
    base, words = base_model(config), Bm25(eval_set.contents)
    rows = {"base": BASE, "bm25": BM25, "default_base": default_for(len(eval_set.passage_ids))}
    source = Source(contents=eval_set.contents)
    group = Group(open=lambda: of_model(base, source, rows, eval_set, runtime, words=lambda: words), rows=rows)
    return measure([group], eval_set, runtime.report)


def _ranks(workspace: Workspace, system: str, eval_set: EvalSet) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rows = (row for row in workspace.read(Score) if row.system == system and row.metric == METRIC)
    return ranks_of({row.query_id: row.rank for row in rows}, eval_set)
