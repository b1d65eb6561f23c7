"""embedfit's default recipe beside what its peers do with the same written queries, judged by people's queries.

    python benchmarks/recipe_vs_peers.py --quick      # parts of two corpora, one epoch for the peers
    python benchmarks/recipe_vs_peers.py              # writes benchmarks/results/recipe_vs_peers.json
    python benchmarks/recipe_vs_peers.py --corpora emanual --systems aws-blog,sentence-transformers

All systems start from MiniLM and train on the same queries of the train part: those that embedfit's writer wrote and
its filters kept. So the peers are given what they don't have themselves. The systems:

* embedfit: mine, train, merge and gate of the preset offline, the shipped model.
* aws-blog: mine, train and merge settings of that preset in embedfit (7 of the 14 hardest, .75 merge).
* FlagEmbedding: negatives by the rule of its hn_mine (15 from ranks 3-200 of all train passages), then its own
  trainer with its README's settings (7 of them a row, temperature .02, rate 1e-5, 2 epochs, gradient checkpointing)
  and the published recipe's batch of 32. Texts are cut where embedfit cuts them. "FlagEmbedding, merged" is .75 of
  it and .25 of the base, as the published recipe merges with LM-Cocktail.
* sentence-transformers: pairs alone, MultipleNegativesRankingLoss, scale 20, its training overview's settings
  (batch 16, rate 2e-5, one epoch, no duplicates in a batch).

Every model is encoded by embedfit's encoder. Differences are embedfit minus the other system, of the same queries,
with a 95% interval (cluster bootstrap); that of the mean over corpora takes the corpora as given. Peers run in
environments of their own, made on first use; outcomes are kept in the user's cache, so a broken off run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from recipe import CORPORA, DEFAULT, VARIANTS, Corpus, Judge, Variant, base_values, difference, outcome
from train_throughput import FLAG, SBERT, SEED, Environment, machine, python_of

from embedfit.config import PRESETS, Config
from embedfit.merging.stage import read_weights
from embedfit.merging.weights import combine
from embedfit.models.encoder import Encoder, load_base
from embedfit.models.folder import read_tensors, save_model
from embedfit.numerics.machine import best_precision
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.retrieval.significance import bootstrap_means, interval
from embedfit.runtime import Runtime

HERE = Path(__file__).resolve().parent
#: What the mean over corpora is taken of.
COMMON = "ndcg@10"
#: General text, which recipe.py scores beside.
GENERAL = Corpus("xquad_en")
#: The fine-tuned model's share in the published recipe's merge.
MERGED_SHARE = 0.75
Values = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Effort:
    """How much is trained. rows: at most, for every system (0: all). epochs, group: the peers'."""

    rows: int = 0
    epochs: int = 2
    group: int = 8
    batch: int = 32
    learning_rate: float = 1e-5
    temperature: float = 0.02
    negatives: int = 15
    ranks: tuple[int, int] = (3, 200)


FULL = Effort()
QUICK = Effort(rows=128, epochs=1, group=4)


class Scorer(Judge):
    """A corpus' judge that adds nDCG@10 where the corpus is told by another metric."""

    def of(self, encoder: Encoder, *, windows: bool = False) -> Values:
        """Per-query values by kind, as Judge's, and, where it isn't the corpus' own, metric."""
        scores = self.scores(encoder, windows=windows)
        found = self.judged(scores)
        if self.metric != COMMON:
            own, self.metric = self.metric, COMMON
            found |= {f"{kind} {COMMON}": values for kind, values in self.judged(scores).items()}
            self.metric = own
        return found


@dataclass(frozen=True)
class Job:
    """What a peer trains on. rows: JSON lines of query and pos; pool: a JSON list of all train passages."""

    base: Encoder
    rows: Path
    pool: Path
    count: int
    out: Path
    work: Path
    effort: Effort

    @property
    def max_tokens(self) -> int:
        """Where every system cuts a text."""
        return min(self.base.layout.max_tokens, 512)


@dataclass(frozen=True)
class Peer:
    """Another trainer. train(job, interpreter) leaves model.safetensors in job.out."""

    name: str
    environment: Environment
    scripts: tuple[str, ...]
    train: Callable[[Job, str], None]


def run(command: Sequence[str | Path], work: Path) -> None:
    """Run a peer. Raises CalledProcessError after printing the last lines of what it said."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    log = work / "log.txt"
    with log.open("a") as file:
        try:
            subprocess.run(
                list(map(str, command)), check=True, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=work
            )
        except subprocess.CalledProcessError:
            print("\n".join(log.read_text("utf-8", "replace").splitlines()[-15:]), flush=True)
            raise


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def train_flagembedding(job: Job, python: str) -> None:
    """Mine as hn_mine does, then run FlagEmbedding's trainer as its README does, less DeepSpeed."""
    effort = job.effort
    mined = job.work / "mined.jsonl"
    spec = {
        "model": str(job.base.folder),
        "rows": str(job.rows),
        "pool": str(job.pool),
        "mined": str(mined),
        "pooling": job.base.layout.pooling.name,
        "max_tokens": job.max_tokens,
        "range": effort.ranks,
        "negatives": effort.negatives,
        "seed": SEED,
        "device": device(),
    }
    (job.work / "mine.json").write_text(json.dumps(spec), "utf-8")
    run([python, HERE / "peers" / "mine_flagembedding.py", job.work / "mine.json"], job.work)
    # Half precision stands where the README has --fp16, which FlagEmbedding can't use on a CPU. Sub-batches change
    # no loss; with gradient checkpointing they keep a batch of 256 passages within a few GB.
    half = ["--fp16", "True"] if device() != "cpu" else ["--use_cpu", "True"]
    if device() == "cpu" and best_precision() == "bf16":
        half += ["--bf16", "True"]
    options: dict[str, object] = {
        "model_name_or_path": job.base.folder,
        "train_data": mined,
        "cache_path": job.work / "datasets",
        "output_dir": job.out,
        "overwrite_output_dir": True,
        "train_group_size": effort.group,
        "query_max_len": job.max_tokens,
        "passage_max_len": job.max_tokens,
        "pad_to_multiple_of": 8,
        "knowledge_distillation": False,
        "learning_rate": effort.learning_rate,
        "num_train_epochs": effort.epochs,
        "per_device_train_batch_size": effort.batch,
        "sub_batch_size": effort.batch,
        "gradient_checkpointing": True,
        "dataloader_drop_last": True,
        "warmup_ratio": 0.1,
        "temperature": effort.temperature,
        "sentence_pooling_method": job.base.layout.pooling.name,
        "normalize_embeddings": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
    }
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    run([python, "-m", "FlagEmbedding.finetune.embedder.encoder_only.base", *arguments, *half], job.work)


def train_sentence_transformers(job: Job, python: str) -> None:
    """Pairs alone, as its training overview has it."""
    batch = 16
    spec = {
        "model": str(job.base.folder),
        "rows": str(job.rows),
        "out": str(job.out),
        "steps": -(-job.count // batch),
        "batch": batch,
        "group": 1,
        "passage_tokens": job.max_tokens,
        "temperature": 0.05,
        "learning_rate": 2e-5,
        "seed": SEED,
        "best": True,  # no duplicates in a batch
        "cached": False,
        "bf16": best_precision() == "bf16",
        "device": device(),
    }
    (job.work / "spec.json").write_text(json.dumps(spec), "utf-8")
    script = HERE / "peers" / "train_sentence_transformers.py"
    run([python, script, job.work / "spec.json", job.work / "result.json"], job.work)


PEERS = (
    Peer("FlagEmbedding", FLAG, ("mine_flagembedding.py",), train_flagembedding),
    Peer("sentence-transformers", SBERT, ("train_sentence_transformers.py",), train_sentence_transformers),
)


def aws_blog(effort: Effort) -> Variant:
    """The published recipe's settings in embedfit, without its query instruction, which is BGE's."""
    preset = PRESETS["aws-blog"]
    defaults = Config().model_dump(exclude_none=True)  # so that nothing of the preset offline is left
    settings = {section: defaults[section] | preset[section] for section in ("mine", "train", "merge")}
    settings["train"] |= {"epochs": effort.epochs, "hard_negatives": effort.group - 1}
    what = "the settings of the published AWS recipe in embedfit"
    return Variant("aws-blog", what, settings)


def capped(source: tuple[Workspace, Config], folder: Path, rows: int) -> tuple[Workspace, Config]:
    """The source with at most `rows` training queries, drawn at random."""
    workspace, config = source
    queries = workspace.read(Query)
    train = [place for place, query in enumerate(queries) if query.kept and query.split == "train"]
    if not rows or len(train) <= rows:
        return source
    left = {train[place] for place in np.random.default_rng(SEED).permutation(len(train))[rows:]}
    fewer = Workspace(folder)
    fewer.write(Passage, workspace.read(Passage))
    fewer.write(
        Query,
        [
            replace(query, kept=False, reason="left out by the benchmark") if place in left else query
            for place, query in enumerate(queries)
        ],
    )
    return fewer, config


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


def peer_outcome(
    peer: Peer,
    corpus: Corpus,
    source: tuple[Workspace, Config],
    effort: Effort,
    judge: Judge,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Values of a peer's model and of its merge with the base, or what an earlier run found."""
    workspace, config = source
    rows, pool = training_data(workspace)
    identity = hashlib.sha256(json.dumps([rows, pool, config.model, effort.__dict__], sort_keys=True).encode())
    for script in peer.scripts:
        identity.update((HERE / "peers" / script).read_bytes())
    identity.update("\n".join(peer.environment.requirements).encode())
    cache = options.cache / "peers"
    kept = cache / f"{corpus.name}-{peer.name}-{identity.hexdigest()[:20]}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return found
    work = cache / "work" / f"{corpus.name}-{peer.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    base = load_base(config.model, config.query_instruction)
    job = Job(base, work / "rows.jsonl", work / "pool.json", len(rows), work / "trained", work, effort)
    job.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    job.pool.write_text(json.dumps(pool), "utf-8")
    print(f"{corpus.name}: {peer.name} trains on {len(rows):,} queries", flush=True)
    started = time.monotonic()
    peer.train(job, python_of(peer.environment, options.peers))
    seconds = time.monotonic() - started
    own = read_weights(base)
    trained = {key.removeprefix("bert."): tensor.float() for key, tensor in read_tensors(job.out).items()}
    tuned = {key: trained[key] for key in own}
    values = {}
    for name, share in (("finetuned", 1.0), ("merged", MERGED_SHARE)):
        save_model(work / name, combine([own, tuned], [1 - share, share]), base=base.folder, layout=base.layout)
        encoder = Encoder.load(work / name, query_instruction=base.layout.query_instruction)
        for kind, array in judge.of(encoder).items():
            values[f"{name} {kind}"] = [round(float(value), 6) for value in array]
    result = {"values": values, "seconds": round(seconds, 1), "rows": len(rows)}
    kept.write_text(json.dumps(result), "utf-8")
    shutil.rmtree(work)
    return result


@dataclass(frozen=True)
class Measured:
    """A corpus' values by system, seconds by system, and the clusters of its queries."""

    corpus: Corpus
    systems: dict[str, Values]
    seconds: dict[str, float]
    notes: dict[str, str]
    rows: int
    clusters: np.ndarray[Any, Any]

    def metrics(self) -> list[str]:
        """The corpus' own metric and the one that all corpora share."""
        return list(dict.fromkeys((self.corpus.metric, COMMON)))

    def values(self, system: str, metric: str, kind: str = "dense") -> np.ndarray[Any, Any]:
        """Per-query values of a system."""
        return self.systems[system][kind if metric == self.corpus.metric else f"{kind} {metric}"]


def _part(values: Mapping[str, Iterable[float]], prefix: str) -> Values:
    """The kinds of one model of an outcome."""
    return {
        name.removeprefix(prefix + " "): np.array(list(one))
        for name, one in values.items()
        if name.startswith(prefix + " ")
    }


def measure(
    corpus: Corpus, effort: Effort, wanted: set[str], options: argparse.Namespace, runtime: Runtime
) -> Measured:
    """All systems on one corpus."""
    # A corpus with two metrics has outcomes of another form than recipe.py's, so these can't be shared.
    home = options.cache / ("quick" if options.quick else "full")
    home = home if corpus.metric == COMMON else home / "two-metrics"
    source = corpus.prepare(home / "sources", runtime, quick=options.quick)
    if effort.rows:
        source = capped(source, home / "sources" / f"{corpus.name}-{effort.rows}", effort.rows)
    judge, general = Scorer(corpus), Judge(GENERAL)
    home.mkdir(parents=True, exist_ok=True)
    base = base_values(source[1], judge, home)
    systems: dict[str, Values] = {"base": {name: base[name] for name in base if name != "bm25"}}
    seconds: dict[str, float] = {}
    notes: dict[str, str] = {}
    default = next(variant for variant in VARIANTS if variant.name == DEFAULT)
    for name, variant in (("embedfit", default), ("aws-blog", aws_blog(effort))):
        if name in wanted:
            found = outcome(corpus, variant, 0, home, source, judge, general, runtime)
            systems[name], seconds[name] = _part(found["values"], "merged"), found["seconds"]
            notes[name] = f"α {found['alpha']:g}"
    for peer in PEERS:
        if peer.name in wanted:
            found = peer_outcome(peer, corpus, source, effort, judge, options)
            systems[peer.name], seconds[peer.name] = _part(found["values"], "finetuned"), found["seconds"]
            if peer.name == "FlagEmbedding":
                systems["FlagEmbedding, merged"] = _part(found["values"], "merged")
    rows = sum(query.kept and query.split == "train" for query in source[0].read(Query))
    return Measured(corpus, systems, seconds, notes, rows, judge.clusters)


def rows_of(one: Measured) -> list[dict[str, Any]]:
    """A row for each metric and system of a corpus."""
    found = []
    for metric in one.metrics():
        ours, base = one.values("embedfit", metric), one.values("base", metric)
        for system in one.systems:
            values = one.values(system, metric)
            found.append(
                {
                    "corpus": one.corpus.name,
                    "metric": metric,
                    "system": system,
                    "training_queries": one.rows,
                    "score": float(values.mean()),
                    "hybrid": float(one.values(system, metric, "hybrid").mean()),
                    "over_base": None if system == "base" else difference(values, base, one.clusters),
                    "embedfit_over": None if system == "embedfit" else difference(ours, values, one.clusters),
                    "seconds": one.seconds.get(system),
                    "note": one.notes.get(system, ""),
                }
            )
    return found


def mean_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row for each system that all corpora have: means over corpora, each weighing the same."""
    shared = [name for name in measured[0].systems if all(name in one.systems for one in measured)]
    return [
        {
            "corpus": f"mean of {len(measured)}",
            "metric": COMMON,
            "system": system,
            "score": float(np.mean([one.values(system, COMMON).mean() for one in measured])),
            "hybrid": float(np.mean([one.values(system, COMMON, "hybrid").mean() for one in measured])),
            "over_base": None if system == "base" else mean_difference(measured, system, "base"),
            "embedfit_over": None if system == "embedfit" else mean_difference(measured, "embedfit", system),
            "seconds": None,
            "note": "",
        }
        for system in shared
    ]


def mean_difference(measured: Sequence[Measured], a: str, b: str) -> dict[str, Any]:
    """Mean over corpora of a - b; the interval from resamples within each corpus."""
    rng = np.random.default_rng(0)
    deltas = [one.values(a, COMMON) - one.values(b, COMMON) for one in measured]
    draws = [
        bootstrap_means(delta[:, None], one.clusters, draws=2000, rng=rng)
        for delta, one in zip(deltas, measured, strict=True)
    ]
    fewest = min(len(np.unique(one.clusters)) for one in measured)
    low, high = interval(np.mean(draws, axis=0), fewest, bounds=(-1.0, 1.0))[0]
    return {"delta": float(np.mean([delta.mean() for delta in deltas])), "ci95": [float(low), float(high)]}


def points(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    low, high = found["ci95"]
    return f"{100 * found['delta']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| corpus | metric | system | score | + BM25 | against base | embedfit against it | seconds | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = "–" if row["seconds"] is None else f"{row['seconds']:,.0f}"
        lines.append(
            f"| {row['corpus']} | {row['metric']} | {row['system']} | {row['score']:.3f} | {row['hybrid']:.3f} "
            f"| {points(row['over_base'])} | {points(row['embedfit_over'])} | {seconds} | {row['note']} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="parts of two corpora, one epoch for the peers")
    parser.add_argument("--corpora", default="", help="names separated by commas")
    parser.add_argument("--systems", default="", help="systems beside base and embedfit, separated by commas")
    parser.add_argument("--peer-epochs", type=int, default=0, help="default: 2, with --quick 1")
    user = Path(platformdirs.user_cache_dir("embedfit"))
    parser.add_argument("--cache", type=Path, default=user / "recipe-benchmark")
    parser.add_argument("--peers", type=Path, default=user / "peers")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/recipe_vs_peers[_quick].json")
    return parser.parse_args()


def main() -> int:
    """Compare and print the table."""
    options = arguments()
    effort = QUICK if options.quick else FULL
    if options.peer_epochs:
        effort = replace(effort, epochs=options.peer_epochs)
    known = {"aws-blog", *(peer.name for peer in PEERS)}
    wanted = {name for name in options.systems.split(",") if name} or known
    names = [name for name in options.corpora.split(",") if name] or (
        ["emanual", "stackfaq"] if options.quick else [corpus.name for corpus in CORPORA]
    )
    if unknown := (wanted - known) | (set(names) - {corpus.name for corpus in CORPORA}):
        sys.exit(f"There is no {', '.join(sorted(unknown))}.")
    for peer in PEERS:
        if peer.name in wanted:
            python_of(peer.environment, options.peers)
    out = options.out or HERE / "results" / f"recipe_vs_peers{'_quick' if options.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "machine": {**machine(), "platform": platform.platform()},
        "versions": {"numpy": version("numpy")},
        "peers": {
            peer.name: [requirement for requirement in peer.environment.requirements if "==" in requirement]
            for peer in PEERS
        },
        "effort": effort.__dict__,
        "date": time.strftime("%Y-%m-%d"),
    }
    runtime = Runtime(report=LogLines(), confirm=lambda question: True)
    measured: list[Measured] = []
    rows: list[dict[str, Any]] = []
    for corpus in CORPORA:
        if corpus.name not in names:
            continue
        measured.append(measure(corpus, effort, {"embedfit", *wanted}, options, runtime))
        rows += rows_of(measured[-1])
        print(table(rows_of(measured[-1])), flush=True)
        document["rows"] = rows + (mean_rows(measured) if len(measured) > 1 else [])
        out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print("\n" + table(document["rows"]))
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
