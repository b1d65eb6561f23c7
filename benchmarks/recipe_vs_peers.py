"""embedfit's default recipe beside its peers' own trainers: the same strong writer's queries, judged by people's.

    python benchmarks/recipe_vs_peers.py --quick      # parts of two corpora, four steps of everybody; under 10 minutes
    python benchmarks/recipe_vs_peers.py              # about an hour; writes benchmarks/results/recipe_vs_peers.json
    python benchmarks/recipe_vs_peers.py --corpora emanual --systems default,sentence-transformers --rows 0

The writer is `strong_queries.jsonl` beside a corpus, read by `--generator recorded:FILE`, in the place of Llama 3 70B.
What embedfit's filters kept, and at most --rows of it, trains every system. All start from MiniLM:

* default: mine, train and merge of embedfit's preset of that name; the model that its gate ships.
* infonce: the default of embedfit's first edition: InfoNCE with four hard negatives, mixed by the gate.
* aws-blog: embedfit's preset of that name: InfoNCE at temperature .02, seven of the hardest negatives, .75 of the
  tuned model, shipped whatever the gate says.
* FlagEmbedding 1.4.2: negatives by the rule of its hn_mine (15 from ranks 3-200 of all train passages), then its own
  trainer with its README's rate 1e-5, temperature .02 and warm-up. A row has three of the negatives, a batch 16 rows
  and the training one epoch; --peer-group and --peer-epochs make it more (its README has 8 and 2: four times as long).
* sentence-transformers 6.2: pairs, MultipleNegativesRankingLoss, its training overview's settings (batch 16, rate 2e-5,
  one epoch, no duplicates in a batch).

Texts are cut where embedfit cuts them. Each model is judged twice, by people's questions: with one vector a passage,
and in embedfit's default retriever (one vector, windows, words, late interaction), against the same retriever over the
untuned model. Differences have 95% intervals (paired bootstrap by cluster); those of means take the corpora as given.
Seconds are those of the whole tuning (mining, training, merging, start of the processes), memory is its peak. Peers run
in environments of their own, made on first use. Outcomes are kept in the user's cache: a broken off run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from corpora import (
    DATA,
    Numbers,
    Values,
    clusters,
    corpus,
    difference,
    judged,
    mean_difference,
    part,
    points,
    strong_file,
)
from train_throughput import SEED, machine, python_of
from tuners import HERE, QUICK, SYSTEMS, Effort, Job, System, code

from embedfit.config import resolve
from embedfit.evaluation.evalset import EvalSet
from embedfit.files.atomic import atomic_file
from embedfit.index.retriever import BASE, default_for
from embedfit.models.local import LocalModel, local_model
from embedfit.models.store.vectors import VectorStore
from embedfit.path import pipeline
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime

CORPORA = ("emanual", "stackfaq")
#: Rooms of the source whose code decides how a model is judged.
JUDGING = ("models", "index", "retrieval", "numerics")
#: The two ways in which a model is judged, by the names of the retrievers.
KINDS = {"one vector": "base", "retriever": "default"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A system on a corpus. values: nDCG@10 (Q,) by retriever. seconds, peak_mb: None for the base."""

    values: dict[str, Values]
    seconds: float | None = None
    peak_mb: int | None = None
    note: str = ""


# --- the material


def prepared(name: str, effort: Effort, home: Path) -> tuple[Job, EvalSet]:
    """A corpus' training material and its questions. Passages, queries and filters are those of a run of embedfit."""
    folder = DATA / name
    questions = corpus(name)
    if effort.passages:
        folder = home / f"{name}-{effort.passages}"
        questions = part(name, folder, effort.passages)
    overrides = {
        "docs": [str(folder / "corpus.jsonl")],
        "eval_beir": str(folder),
        "model": "minilm",
        "generate": {"generator": f"recorded:{strong_file(name)}"},
    }
    config = resolve(preset="default", overrides=overrides)
    workspace = Workspace(home / f"{name}-{effort.passages or 'all'}-run")
    runtime = Runtime(report=LogLines(), confirm=lambda question: True)
    pipeline.run_all(workspace, config, runtime, until="generate")
    source = capped(workspace, home / f"{name}-{effort.passages or 'all'}-{effort.rows or 'all'}", effort.rows)
    rows, pool = training_data(source)
    return Job(name=name, source=source.root, config=config, rows=rows, pool=pool, effort=effort), questions


def capped(source: Workspace, folder: Path, rows: int) -> Workspace:
    """The source with at most `rows` training queries, drawn at random; 0 for all."""
    queries = source.read(Query)
    train = [place for place, query in enumerate(queries) if query.kept and query.split == "train"]
    left = {train[place] for place in np.random.default_rng(SEED).permutation(len(train))[rows or len(train) :]}
    fewer = Workspace(folder)
    fewer.root.mkdir(parents=True, exist_ok=True)
    fewer.write(Passage, source.read(Passage))
    fewer.write(
        Query,
        [
            replace(query, kept=False, reason="left out by the benchmark") if place in left else query
            for place, query in enumerate(queries)
        ],
    )
    return fewer


def training_data(workspace: Workspace) -> tuple[list[dict[str, Any]], list[str]]:
    """The train queries with their passages, and all train passages."""
    passages = {passage.passage_id: passage.content for passage in workspace.read(Passage) if passage.split == "train"}
    rows = [
        {
            "query": query.text,
            "pos": [passages[key] for key in (query.passage_id, *query.also_relevant) if key in passages],
        }
        for query in workspace.read(Query)
        if query.kept and query.split == "train"
    ]
    return rows, list(dict.fromkeys(passages.values()))


# --- outcomes, each kept as soon as it is there


def tuned(system: System, job: Job, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The folder of a tuned model and what its tuning took, or those of an earlier run."""
    scripts = [hashlib.sha256((HERE / "peers" / name).read_bytes()).hexdigest() for name in system.scripts]
    material = [job.name, job.rows, job.pool, Path(job.source).joinpath("queries.jsonl").read_text("utf-8")]
    identity = json.dumps([material, system.decides(job.effort), job.effort.steps, scripts], sort_keys=True)
    home: Path = options.cache / f"{job.name}-{system.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    told = home / "tuned.json"
    if not told.exists():
        shutil.rmtree(home, ignore_errors=True)
        work = home / "work"
        work.mkdir(parents=True)
        python = python_of(system.environment, options.peers)
        print(f"{job.name}: {system.name} trains on {len(job.rows):,} queries", flush=True)
        load, started = os.getloadavg()[0], time.monotonic()
        found = system.tune(job, work, python)
        found |= {"seconds": round(time.monotonic() - started, 1), "load_before": load}
        (work / "model").rename(home / "model")
        shutil.rmtree(work)
        with atomic_file(told) as file:
            json.dump(found, file)
    result: dict[str, Any] = json.loads(told.read_text("utf-8"))
    return home / "model", result


def scores(model: LocalModel, questions: EvalSet, cache: Path) -> dict[str, Values]:
    """nDCG@10 by retriever, or what an earlier run found."""
    asked = [model.key, questions.passage_ids, questions.contents, questions.query_ids, questions.queries]
    key = hashlib.sha256(json.dumps([asked, code(JUDGING)]).encode()).hexdigest()[:20]
    kept = cache / "scores" / f"{key}.json"
    if not kept.exists():
        retrievers = (BASE, default_for(len(questions.passage_ids)))
        store = VectorStore(cache / "vectors")
        found = judged(questions, model, retrievers, store=store, report=LogLines())
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as file:
            json.dump({name: values.tolist() for name, values in found.items()}, file)
        shutil.rmtree(store.folder, ignore_errors=True)
    return {name: np.array(values) for name, values in json.loads(kept.read_text("utf-8")).items()}


def outcome(system: System, job: Job, questions: EvalSet, options: argparse.Namespace) -> Outcome:
    """Tune and judge."""
    folder, told = tuned(system, job, options)
    note = ", ".join(filter(None, (told["note"], f"load {told['load_before']:.1f} before")))
    values = scores(LocalModel(system.name, folder), questions, options.cache)
    return Outcome(values=values, seconds=told["seconds"], peak_mb=told["peak_mb"], note=note)


# --- the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All systems on a corpus, the base among them."""

    name: str
    rows: int
    clusters: Numbers
    systems: dict[str, Outcome] = field(default_factory=dict)

    def pair(self, system: str, other: str, kind: str) -> tuple[Values, Values, Numbers]:
        """The values of two systems with the clusters of the questions."""
        retriever = KINDS[kind]
        return self.systems[system].values[retriever], self.systems[other].values[retriever], self.clusters


def rows_of(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row for each system that all corpora have: of one corpus, or the means of several."""
    shared = [name for name in measured[0].systems if all(name in one.systems for one in measured)]

    def against(system: str, other: str, kind: str) -> dict[str, Any] | None:
        if system == other or not {system, other} <= set(shared):
            return None
        pairs = [one.pair(system, other, kind) for one in measured]
        return difference(*pairs[0]) if len(pairs) == 1 else mean_difference(pairs)

    rows = []
    for system in shared:
        row: dict[str, Any] = {
            "corpus": measured[0].name if len(measured) == 1 else f"mean of {len(measured)}",
            "system": system,
            "training_queries": [one.rows for one in measured],
        }
        for kind, retriever in KINDS.items():
            row[kind] = {
                "ndcg@10": float(np.mean([one.systems[system].values[retriever].mean() for one in measured])),
                "over_untuned": against(system, "base", kind),
                "default_over": against("default", system, kind) if system != "base" else None,
            }
        if len(measured) == 1:
            found = measured[0].systems[system]
            row |= {"seconds": found.seconds, "peak_mb": found.peak_mb, "note": found.note}
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| corpus | system | one vector | tuned - untuned | default over it | retriever | tuned - untuned "
        "| default over it | seconds | peak | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = [f"{row['corpus']} | {row['system']}"]
        for kind in KINDS:
            one = row[kind]
            shown.append(f"{one['ndcg@10']:.3f} | {points(one['over_untuned'])} | {points(one['default_over'])}")
        took, peak = row.get("seconds"), row.get("peak_mb")
        shown.append("– | –" if took is None else f"{took:,.0f} | {(peak or 0) / 1000:.1f} GB")
        lines.append(f"| {' | '.join(shown)} | {row.get('note', '')} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="parts of two corpora, four steps of each system")
    parser.add_argument("--corpora", default=",".join(CORPORA), help="names separated by commas")
    parser.add_argument("--systems", default="", help="names separated by commas; default: all")
    parser.add_argument("--rows", type=int, help=f"training queries at most, 0 for all; default {Effort().rows}")
    parser.add_argument("--peer-epochs", type=int, help="default 1")
    parser.add_argument("--peer-group", type=int, help="FlagEmbedding's passages of a row; default 4")
    user = Path(platformdirs.user_cache_dir("embedfit"))
    parser.add_argument("--cache", type=Path, default=user / "recipe-vs-peers")
    parser.add_argument("--peers", type=Path, default=user / "peers")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/recipe_vs_peers[_quick].json")
    return parser.parse_args()


def main() -> int:
    """Compare and print the table."""
    options = arguments()
    changed = {"rows": options.rows, "epochs": options.peer_epochs, "group": options.peer_group}
    effort = replace(QUICK if options.quick else Effort(), **{k: v for k, v in changed.items() if v is not None})
    wanted = [name for name in options.systems.split(",") if name] or [system.name for system in SYSTEMS]
    names = [name for name in options.corpora.split(",") if name]
    if unknown := set(wanted) - {system.name for system in SYSTEMS}:
        sys.exit(f"There is no system {', '.join(sorted(unknown))}.")
    if unknown := {name for name in names if not strong_file(name).exists()}:
        sys.exit(f"No strong writer's queries lie beside {', '.join(sorted(unknown))} in {DATA}.")
    systems = [system for system in SYSTEMS if system.name in wanted]
    for system in systems:
        python_of(system.environment, options.peers)
    out = options.out or HERE / "results" / f"recipe_vs_peers{'_quick' if options.quick else ''}.json"
    document: dict[str, Any] = {
        "machine": {**machine(), "platform": platform.platform()},
        "versions": {name: version(name) for name in ("embedfit", "torch", "transformers", "numpy", "bm25s")},
        "peers": {one.name: one.environment.requirements for one in systems if one.environment},
        "effort": asdict(effort),
    }
    measured: list[Measured] = []
    rows: list[dict[str, Any]] = []
    for name in names:
        job, questions = prepared(name, effort, options.cache / "sources")
        one = Measured(name=name, rows=len(job.rows), clusters=clusters(questions))
        one.systems["base"] = Outcome(values=scores(local_model("minilm", "minilm"), questions, options.cache))
        measured.append(one)
        for system in systems:
            one.systems[system.name] = outcome(system, job, questions, options)
            print(table(rows_of([one])[-1:]).splitlines()[-1], flush=True)
        rows += rows_of([one])
        document["rows"] = rows + (rows_of(measured) if len(measured) > 1 else [])
        document["machine"]["load_after"] = os.getloadavg()[0]
        with atomic_file(out) as file:
            file.write(json.dumps(document, indent=1) + "\n")
    print(f"\n{table(document['rows'])}\nwritten to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
