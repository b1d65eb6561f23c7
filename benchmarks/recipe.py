"""What tuning adds, on people's questions: corpora × sources of training queries × what is tuned.

    python benchmarks/recipe.py --quick                              # parts of two corpora; under ten minutes
    python benchmarks/recipe.py                                      # writes benchmarks/results/recipe.json
    python benchmarks/recipe.py --corpora emanual --queries log --tune map,both --model mpnet
    python benchmarks/recipe.py --later --queries strong --tune preset   # a quarter of the passages comes after tuning
    python benchmarks/recipe.py --corpora emanual --queries strong --tune preset --each train.map_steps=25,100,200

Four tables, all in nDCG@10 on questions that nothing but the score sees, with 95% intervals (paired bootstrap by
cluster): one vector a passage, tuned against untuned; the default retriever (one vector, windows, words, late
interaction), tuned against the same retriever untuned; where a strong writer's queries cover the corpus, the retriever
with these queries in its index, tuned against untuned; and what ships with a strong writer's queries, in training and,
if they cover the corpus, in the index, against the default retriever untuned. Sources of training queries:

* small: embedfit's writer on this machine (SmolLM2-135M), preset offline.
* strong: `strong_queries.jsonl` in the place of Llama 3 70B, by `--generator recorded:FILE`, preset default.
* log: half of people's questions, without labels, beside the queries of `strong_queries.jsonl` if they cover the
  corpus, else of the small writer. The other half judges. "apart" are questions that share no passage with the log.

10k_published trains on Lyft's passages with GPT-3.5's questions (strong), and Uber's judge.

With --later a run knows three quarters of the passages; all of them are searched, and "apart" are questions that only
passages of the last quarter answer.

What is tuned: map, query and both are `train.tune` with train.loss=corpus-distil; "preset" is whatever the preset says;
in-batch-distil and infonce are the first edition's losses; "rounds" is one model by in-batch distillation, and then the
preset with that model as its base, judged against the first base. A row is the model that the gate ships; `whole`
beside it is the tuned model before mixing. Outcomes are kept in the user's cache, so a run that broke off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from corpora import (
    DATA,
    Halves,
    Values,
    clusters,
    corpus,
    covering,
    difference,
    halves,
    halves_of,
    holm,
    judged,
    known,
    mean_difference,
    part,
    points,
    strong_file,
)
from train_throughput import machine

from embedfit.config import Config, resolve
from embedfit.errors import CheckFailed
from embedfit.evaluation.evalset import EvalSet
from embedfit.files.atomic import atomic_file
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.index.retriever import BASE, DEFAULT, DEFAULT_TUNED, EXPANDED, Retriever
from embedfit.models.local import LocalModel, base_model
from embedfit.path.artefacts import MergeSweep
from embedfit.path.pipeline import run_all
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime

HERE = Path(__file__).resolve().parent
CORPORA = ("emanual", "stackfaq", "annual_reports", "covid_qa", "feedbackqa_cdc")
SOURCES = ("small", "strong", "log")
#: In-batch distillation of one model, with the settings of the preset `offline`.
_ONE_MODEL = (
    "train.loss=in-batch-distil", "train.tune=both", "train.teacher_temperature=0.5", "train.infonce_weight=0",
    "train.learning_rate=3e-5", "train.dropout=0.1", "train.passage_max_tokens=64",
)  # fmt: skip
FIRST_ROUND = (*_ONE_MODEL, "merge.max_alpha=0.6", "merge.steps=1")
#: The settings of each way to tune, over the preset's.
TUNES: dict[str, tuple[str, ...]] = {
    "preset": (),
    "map": ("train.loss=corpus-distil", "train.tune=map"),
    "query": ("train.loss=corpus-distil", "train.tune=query"),
    "both": ("train.loss=corpus-distil", "train.tune=both"),
    "in-batch-distil": (*_ONE_MODEL, "merge.max_alpha=0.8"),
    "infonce": ("train.loss=infonce", "train.tune=both", "mine.negatives=4", "train.hard_negatives=4"),
    "rounds": (),
}  # fmt: skip
QUICK_PASSAGES = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training. passages: a part of the corpus; 0 for all of it. later: a quarter of it comes after tuning."""

    corpus: str
    source: str
    tune: str
    model: str = "minilm"
    seed: int = 13
    passages: int = 0
    settings: tuple[str, ...] = ()
    later: bool = False

    @property
    def key(self) -> str:
        """A name of all that the outcome depends on beside the code."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What judges a cell, what its run reads, and the log of its training."""

    judging: EvalSet
    read: EvalSet
    log: tuple[str, ...] = ()
    apart: np.ndarray[Any, np.dtype[np.bool_]] | None = None


def question_of(cell: Cell, folder: Path) -> Question:
    """The judging questions of a cell. folder: an empty one, where its documents and BEIR folder are written."""
    whole = part(cell.corpus, folder / "part", cell.passages) if cell.passages else corpus(cell.corpus)
    if cell.later:
        read = part(cell.corpus, folder / "known", len(whole.passage_ids) * 3 // 4)
        earlier = set(read.passage_ids)
        apart = np.array([earlier.isdisjoint(of) for of in whole.relevant])
        return Question(judging=whole, read=read, apart=apart)
    if cell.source != "log":
        return Question(judging=whole, read=known(cell.corpus, whole))
    found: Halves = halves_of(whole) if cell.passages else halves(cell.corpus)
    return Question(judging=found.judging, read=found.judging, log=found.log, apart=found.apart)


def beir_of(read: EvalSet, folder: Path) -> Path:
    """Write the corpus that a run reads and the questions that judge as a BEIR folder."""
    entries = {
        key: Entry(text=text, title=title)
        for key, title, text in zip(read.passage_ids, read.titles, read.texts, strict=True)
    }
    qrels = dict(zip(read.query_ids, ({k: float(v) for k, v in of.items()} for of in read.relevant), strict=True))
    texts = dict(zip(read.query_ids, read.queries, strict=True))
    write_beir(folder, RetrievalData(corpus=entries, queries=texts, qrels=qrels))
    return folder


def config_of(cell: Cell, question: Question, beir: Path, log: Path, tune: Sequence[str]) -> Config:
    """The settings of a cell's run. tune: those of the way to tune."""
    strong = cell.source == "strong" or (
        cell.source == "log" and covering(cell.corpus, corpus(cell.corpus).passage_ids) is not None
    )
    settings: dict[str, object] = {
        "docs": [str(beir / "corpus.jsonl")], "eval_beir": str(beir), "model": cell.model, "seed": cell.seed,
    }  # fmt: skip
    if strong:
        settings["generate"] = {"generator": f"recorded:{strong_file(cell.corpus)}"}
    if question.log:
        log.write_text("".join(one + "\n" for one in question.log), "utf-8")
        settings["queries"] = [str(log)]
    preset = "offline" if not strong else "default"
    return resolve(preset=preset, overrides=settings, assignments=[*tune, *cell.settings])


def outcome(cell: Cell, store: Path) -> dict[str, Any]:
    """Train, mix and judge a cell, unless its outcome is kept."""
    kept = store / f"{cell.key}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return found
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        question = question_of(cell, folder)
        beir = beir_of(question.read, folder / "beir")
        config = config_of(cell, question, beir, folder / "log.txt", TUNES[cell.tune])
        base, seconds = base_model(config), 0.0
        if cell.tune == "rounds":
            first = Workspace(folder / "first")
            seconds = trained(first, config_of(cell, question, beir, folder / "log.txt", FIRST_ROUND))
            config = config.model_copy(update={"model": str(first.existing("merged"))})
        workspace = Workspace(folder / "run")
        seconds += trained(workspace, config)
        sweep = workspace.load(MergeSweep)
        models = {
            "base": base,
            "ships": LocalModel("merged", workspace.existing("merged")),
            "whole": LocalModel("finetuned", workspace.existing("finetuned")),
        }
        tuned = DEFAULT_TUNED if config.training.tuned == "both" and sweep.decision.alpha else DEFAULT
        values = {
            name: judged_with(cell, question.judging, model, DEFAULT if name == "base" else tuned)
            for name, model in models.items()
        }
        rows = len(workspace.existing("train.jsonl").read_text("utf-8").splitlines())
    found = {
        **asdict(cell),
        "passages_searched": len(question.judging.passage_ids),
        "questions": len(question.judging.queries),
        "training_queries": rows + len(question.log),
        "log": len(question.log),
        "seconds_train_and_merge": round(seconds, 1),
        "alpha": sweep.decision.alpha,
        "clusters": clusters(question.judging).tolist(),
        "apart": None if question.apart is None else question.apart.tolist(),
        "values": {name: {r: v.tolist() for r, v in of.items()} for name, of in values.items()},
    }
    store.mkdir(parents=True, exist_ok=True)
    with atomic_file(kept) as file:
        file.write(json.dumps(found))
    return found


def trained(workspace: Workspace, config: Config) -> float:
    """Do a run's stages up to the merge. Returns the seconds of training and merging."""
    runtime = Runtime(report=LogLines(sys.stderr), confirm=lambda _: True)
    workspace.root.mkdir()
    run_all(workspace, config, runtime, until="mine")
    began = time.perf_counter()
    try:
        run_all(workspace, config, runtime, until="merge")
    except CheckFailed as error:
        print(error.message, file=sys.stderr)
    return time.perf_counter() - began


def judged_with(cell: Cell, judging: EvalSet, model: LocalModel, default: Retriever) -> dict[str, Values]:
    """nDCG@10 (Q,) by retriever; also over an index with a strong writer's queries, if they trained and cover it.

    default: the safe default over the model.
    """
    found = judged(judging, model, (BASE, default))
    written = covering(cell.corpus, judging.passage_ids) if cell.source == "strong" else None
    if written is not None:
        found |= judged(judging, model, (EXPANDED,), written=written)
    return found


def whole_product(found: Mapping[str, Any]) -> dict[str, Any]:
    """A cell with a retriever "shipped": tuned, with written queries in the index if they cover the corpus.

    Its base is the default retriever, untuned and without them.
    """
    values = found["values"]
    best = EXPANDED.name if EXPANDED.name in values["ships"] else DEFAULT.name
    again = {name: {**of, "shipped": of[DEFAULT.name if name == "base" else best]} for name, of in values.items()}
    return {**found, "values": again}


def compared(found: Mapping[str, Any], retriever: str, which: str = "ships") -> dict[str, Any]:
    """A cell's tuned model against its untuned one under a retriever. which: "ships" or "whole"."""
    tuned, base, of = values_of(found, retriever, which)
    row = {"base": float(base.mean()), "tuned": float(tuned.mean()), **difference(tuned, base, of)}
    if found["apart"] is not None and sum(found["apart"]) > 1:
        apart = np.array(found["apart"])
        for name, some in (("apart", apart), ("others", ~apart)):
            again = np.unique(of[some], return_inverse=True)[1]
            row[name] = {"questions": int(some.sum()), **difference(tuned[some], base[some], again)}
    return row


def values_of(found: Mapping[str, Any], retriever: str, which: str = "ships") -> tuple[Values, Values, Any]:
    """(tuned, base, clusters), each (Q,)."""
    values = found["values"]
    return np.array(values[which][retriever]), np.array(values["base"][retriever]), np.array(found["clusters"])


def table(outcomes: Sequence[Mapping[str, Any]], retriever: str, title: str) -> list[dict[str, Any]]:
    """Print a table and return its rows. The last rows are means over corpora, by source and tune."""
    rows = [
        {
            **{name: one[name] for name in ("corpus", "source", "model", "seed", "alpha", "training_queries")},
            "tune": tune_of(one),
            "seconds": one["seconds_train_and_merge"],
            "retriever": retriever,
            **compared(one, retriever),
            "whole": compared(one, retriever, "whole"),
        }
        for one in outcomes
    ]
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p
    print(f"\n{title}\n")
    print("| corpus | queries | tune | α | s | base | tuned | difference | apart | others | before mixing |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['corpus']} | {row['source']}, {row['training_queries']:,} | {row['tune']} | {row['alpha']:g} | "
            f"{row['seconds']:.0f} | {row['base']:.3f} | {row['tuned']:.3f} | {points(row)} | "
            f"{points(row.get('apart'))} | {points(row.get('others'))} | {points(row['whole'])} |"
        )
    for kind in dict.fromkeys((one["source"], tune_of(one)) for one in outcomes):
        own = [one for one in outcomes if (one["source"], tune_of(one)) == kind]
        if len(own) > 1:
            mean = mean_difference([values_of(one, retriever) for one in own])
            print(f"| mean of {len(own)} | {kind[0]} | {kind[1]} | | | | | {points(mean)} | | | |")
            rows.append({"mean_of": len(own), "source": kind[0], "tune": kind[1], "retriever": retriever, **mean})
    return rows


def tune_of(one: Mapping[str, Any]) -> str:
    """What an outcome tuned, and the settings over the preset's."""
    return " ".join([one["tune"], *one["settings"]])


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    """The trainings that the command asks for."""
    for name in arguments.corpora:
        for source in arguments.queries:
            if source == "strong" and not strong_file(name).exists():
                continue
            for tune, seed, more in itertools.product(arguments.tune, arguments.seeds, arguments.each):
                yield Cell(
                    corpus=name, source=source, tune=tune, model=arguments.model, seed=seed,
                    passages=QUICK_PASSAGES if arguments.quick else 0, settings=(*arguments.set, *more),
                    later=arguments.later,
                )  # fmt: skip


def _each(text: str) -> list[tuple[str, ...]]:
    """KEY=V1,V2 → the settings of each training."""
    key, _, values = text.partition("=")
    return [(f"{key}={value}",) for value in _words(values)]


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def main() -> None:
    """Train, judge, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--corpora", type=_words, default=None)
    parser.add_argument("--queries", type=_words, default=None)
    parser.add_argument("--tune", type=_words, default=None)
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in _words(text)], default=[13])
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--set", action="append", default=[], help="a setting over the preset's, KEY=VALUE")
    parser.add_argument("--each", type=_each, default=[()], help="a training for each value: KEY=V1,V2")
    parser.add_argument("--later", action="store_true", help="a quarter of the passages comes after tuning")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--again", action="store_true", help="compute kept outcomes again")
    arguments = parser.parse_args()
    arguments.corpora = arguments.corpora or list(CORPORA[:2] if arguments.quick else CORPORA)
    arguments.queries = arguments.queries or list(SOURCES[1:] if arguments.quick else SOURCES)
    arguments.tune = arguments.tune or (["preset", "map"] if arguments.quick else ["preset", "map", "both"])
    if arguments.later and (arguments.quick or "log" in arguments.queries):
        parser.error("--later goes with whole corpora and written queries: --queries strong")
    if not DATA.is_dir():
        sys.exit(f"There is no folder {DATA}: set EMBEDFIT_DATA.")
    store = Path(platformdirs.user_cache_dir("embedfit")) / "benchmarks" / "recipe"
    found = []
    for cell in cells(arguments):
        if arguments.again:
            (store / f"{cell.key}.json").unlink(missing_ok=True)
        print(f"{cell.corpus}, {cell.source}, {cell.tune}", file=sys.stderr)
        found.append(outcome(cell, store))
    result = {
        "machine": machine(),
        "one_vector": table(found, BASE.name, "One vector a passage: tuned against untuned"),
        "default_retriever": table(found, DEFAULT.name, "The default retriever: tuned against the same untuned"),
    }  # fmt: skip
    strong = [whole_product(one) for one in found if one["source"] == "strong"]
    covered = [one for one in strong if EXPANDED.name in one["values"]["ships"]]
    if covered:
        title = "With a strong writer's queries in the index: tuned against the same untuned"
        result["expanded_retriever"] = table(covered, EXPANDED.name, title)
    if strong:
        title = "What ships, with written queries in training and index: against the default retriever untuned"
        result["shipped"] = table(strong, "shipped", title)
    out = arguments.out or HERE / "results" / ("recipe_quick.json" if arguments.quick else "recipe.json")
    with atomic_file(out) as file:
        file.write(json.dumps(result, indent=1) + "\n")
    print(f"\n{out.name} written")


if __name__ == "__main__":
    main()
