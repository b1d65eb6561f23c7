"""Compares systems pair by pair on the judged queries of a BEIR folder."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from embedfit.comparing.saved import SavedRun, read_saved, saved_file
from embedfit.display.terminal import console
from embedfit.errors import InputError, UsageError
from embedfit.evaluation.benchmark import BenchmarkedSystem, BenchmarkResult, measured_systems, read_set
from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import Measured
from embedfit.evaluation.summary import COMPARED, Resamples, comparisons, systems_table
from embedfit.evaluation.tables import differences_view, systems_view
from embedfit.files.atomic import atomic_file
from embedfit.path.artefacts import METRIC, Comparison
from embedfit.path.systems import parse
from embedfit.path.workspace import encode_whole
from embedfit.retrieval.metrics import Convention
from embedfit.retrieval.significance import holm
from embedfit.runtime import Runtime

#: What becomes of a query that a saved run lacks: an error, a score of 0 for that run, or left out for all systems.
Missing = Literal["error", "zero", "skip"]
_WIDTH = 110


class ComparedSystem(BenchmarkedSystem):
    """A compared system. lacking: how many queries its saved run lacks."""

    lacking: int = 0


class ComparedPair(Comparison):
    """The difference of two systems. p_holm: the p-value, corrected for all pairs on the same metric."""

    p_holm: float | None = None


class ComparedRecord(BenchmarkResult):
    """The result that `embedfit compare --json` prints. comparisons: every pair on each metric of COMPARED."""

    systems: Mapping[str, ComparedSystem]
    comparisons: tuple[ComparedPair, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Compared:
    """The result of a comparison. It prints as tables.

    record: means, intervals and differences. eval_set: the queries. measured: every system's ranks, metrics and, except
    for one that was read from scores.jsonl, rankings.
    """

    record: ComparedRecord
    eval_set: EvalSet
    measured: Mapping[str, Measured]

    @property
    def systems(self) -> Mapping[str, ComparedSystem]:
        """Every system's means and intervals, by name."""
        return self.record.systems

    @property
    def comparisons(self) -> tuple[ComparedPair, ...]:
        """Every pair on each metric."""
        return self.record.comparisons

    def pair(self, a: str, b: str, metric: str = METRIC) -> ComparedPair:
        """The difference a - b on a metric. Raises KeyError for a pair that was not compared in this order."""
        for one in self.comparisons:
            if (one.a, one.b, one.metric) == (a, b, metric):
                return one
        raise KeyError(f"{a} - {b} on {metric}")

    def as_json(self) -> str:
        """The record as a JSON text."""
        return encode_whole(self.record)

    def per_query(self, target: str | Path) -> None:
        """Write a line a query: id, text, cluster, and each system's nDCG@10 and rank of the first relevant passage."""
        clusters, _ = self.eval_set.clusters()
        with atomic_file(Path(target)) as file:
            rows = csv.writer(file, dialect="excel-tab", lineterminator="\n")
            heads = [f"{name} {what}" for name in self.measured for what in (METRIC, "rank")]
            rows.writerow(["query_id", "query", "cluster", *heads])
            columns = [(one.column(METRIC), one.ranks) for one in self.measured.values()]
            for row, (key, text) in enumerate(zip(self.eval_set.query_ids, self.eval_set.queries, strict=True)):
                values = [cell for of, ranks in columns for cell in (f"{of[row]:.6f}", int(ranks[row]))]
                rows.writerow([key, " ".join(text.split()), int(clusters[row]), *values])

    def print_to(self, console: Console) -> None:
        """Print the tables."""
        console.print(systems_view(self.systems))
        pairs = [one for one in self.comparisons if one.metric == METRIC]
        console.print()
        console.print(differences_view(pairs, [one.p_holm for one in pairs]))
        console.print(f"\n{_reading(self.record, pairs)}", highlight=False)
        for note in self.record.notes:
            console.print(f"Note: {note}", highlight=False, markup=False)

    def __str__(self) -> str:
        """The tables as text."""
        text = io.StringIO()
        self.print_to(console(text, width=_WIDTH))
        return text.getvalue()

    __repr__ = __str__


def _reading(record: ComparedRecord, pairs: Sequence[ComparedPair]) -> str:
    clusters = pairs[0].clusters if pairs else 0
    tests = f" p is of a paired randomisation test, and Holm's p corrects it for {len(pairs)} pairs." if pairs else ""
    return (
        f"{record.queries:,} queries over {record.passages:,} passages; intervals and tests draw {clusters:,} whole "
        f"{record.cluster_by}s.{tests} A true difference of the size under “detectable” would be found in four of five "
        "such comparisons."
    )


def compare(
    systems: Sequence[str],
    beir: str | Path,
    *,
    runtime: Runtime | None = None,
    convention: Convention = "sentence-transformers",
    missing: Missing = "error",
    draws: int = 2000,
    seed: int = 13,
) -> Compared:
    """Compare systems on the test queries of a BEIR folder, every pair with its interval and its corrected p-value.

    systems: names as `embedfit benchmark` takes them (models, bm25, hybrid:MODEL, tei:URL, …), TREC runs, and
    scores.jsonl#SYSTEM of a run folder. missing: what becomes of a query that a saved run lacks. Raises EmbedfitError.
    """
    runtime = runtime or Runtime()
    _check_names(systems)
    started = time.monotonic()
    saved = [name for name in systems if saved_file(name) is not None]
    named = [parse(name) for name in systems if name not in saved]
    eval_set = read_set(Path(beir), convention, runtime, said_by="compare")
    runs = {name: read_saved(name, eval_set, convention) for name in saved}
    lacking, notes = _lacking(runs, eval_set, missing)
    found, facts = measured_systems(named, eval_set, runtime, convention=convention)
    found |= {name: run.measured for name, run in runs.items()}
    measured = {name: found[name] for name in systems}
    if lacking:
        eval_set, measured = _without(lacking, eval_set, measured)
    clusters, cluster_by = eval_set.clusters()
    resamples = Resamples(clusters, draws, np.random.default_rng(seed))
    table = systems_table(measured, resamples)
    pairs = comparisons(measured, [(b, a) for a, b in combinations(systems, 2)], resamples)
    record = ComparedRecord(
        beir=Path(beir).name,
        convention=convention,
        queries=len(eval_set.queries),
        passages=len(eval_set.passage_ids),
        cluster_by=cluster_by,
        systems={
            name: ComparedSystem(
                metrics=table[name].metrics,
                ci95=table[name].ci95,
                model=facts.get(name, {}),
                lacking=len(runs[name].lacking) if name in runs else 0,
            )
            for name in systems
        },
        comparisons=_corrected(pairs),
        notes=tuple(notes),
        seconds=round(time.monotonic() - started, 3),
    )
    return Compared(record=record, eval_set=eval_set, measured=measured)


def _check_names(systems: Sequence[str]) -> None:
    if len(systems) < 2:
        raise UsageError(
            "A comparison needs two systems.", remedy="For example: embedfit compare minilm bm25 --beir DIR"
        )
    if len(set(systems)) < len(systems):
        raise UsageError("A system is named twice.", remedy="Name each system once.")
    for name in systems:
        if (Path(name) / "scores.jsonl").is_file():
            raise UsageError(
                f"{name} is a run folder, which holds several systems.",
                remedy=f"Name its model, {Path(name) / 'merged'}, or what ships: {Path(name) / 'scores.jsonl'}#chosen",
            )


def _lacking(runs: Mapping[str, SavedRun], eval_set: EvalSet, missing: Missing) -> tuple[list[int], list[str]]:
    """(the numbers of queries to leave out, notes for people). Raises InputError if none may be missing."""
    notes = [note for run in runs.values() for note in run.notes]
    for name, run in runs.items():
        if not run.lacking:
            continue
        few = f"{name} lacks {len(run.lacking):,} of the {len(eval_set.query_ids):,} judged queries, such as "
        few += repr(eval_set.query_ids[run.lacking[0]])
        if missing == "error":
            raise InputError(
                f"{few}.",
                remedy="Count them as 0 for that run, if it found nothing: --missing zero. Leave them out for all "
                "systems: --missing skip",
            )
        notes.append(f"{few}: {'they count as 0' if missing == 'zero' else 'left out for all systems'}")
    lacking = sorted({row for run in runs.values() for row in run.lacking}) if missing == "skip" else []
    if lacking and len(lacking) == len(eval_set.query_ids):
        raise InputError("No judged query is in all saved runs.", remedy="Compare runs of the same queries.")
    return lacking, notes


def _without(
    rows: Sequence[int], eval_set: EvalSet, measured: Mapping[str, Measured]
) -> tuple[EvalSet, dict[str, Measured]]:
    """The evaluation set and the systems without the queries of these numbers."""
    left_out = set(rows)
    kept = [row for row in range(len(eval_set.query_ids)) if row not in left_out]
    smaller = replace(
        eval_set,
        query_ids=tuple(eval_set.query_ids[row] for row in kept),
        queries=tuple(eval_set.queries[row] for row in kept),
        styles=tuple(eval_set.styles[row] for row in kept),
        relevant=tuple(eval_set.relevant[row] for row in kept),
    )
    return smaller, {
        name: replace(
            one,
            found=[one.found[row] for row in kept] if one.found else (),
            ranks=one.ranks[kept],
            values=one.values[kept],
        )
        for name, one in measured.items()
    }


def _corrected(pairs: Sequence[Comparison]) -> tuple[ComparedPair, ...]:
    """The pairs with their p-values corrected, metric by metric, those of the deciding metric first."""
    found = []
    for metric in COMPARED:
        of_metric = [one for one in pairs if one.metric == metric]
        p_values = holm([1.0 if one.p_value is None else one.p_value for one in of_metric])
        found += [ComparedPair(**dict(one), p_holm=p) for one, p in zip(of_metric, p_values, strict=True)]
    return tuple(found)
