"""What each part of the recipe buys: ablations over corpora with people's queries, which nothing but the score sees.

    python benchmarks/recipe.py --quick                 # small corpora parts, few variants, a few minutes
    python benchmarks/recipe.py                         # writes benchmarks/results/recipe.json
    python benchmarks/recipe.py --only base,plain --corpora emanual,stackfaq --seeds 1,2,3

Every variant is the offline preset with some settings changed or with some of the written queries left out. What is
measured is nDCG@10 (hit@5 for 10k_published) of the fine-tuned and of the shipped model on people's queries, and
the difference to the default recipe's shipped model with a 95% interval (cluster bootstrap over passages, of the
mean over seeds; the seeds' own differences stand beside it); "windows" are the same models with a vector for every
64 tokens of a passage. Outcomes are kept in the user's cache: a broken off run goes on, and a variant costs its time
once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from train_throughput import default_data

from embedfit.config import WINDOW_TOKENS, Config, change, resolve
from embedfit.files.beir import read_beir, write_beir
from embedfit.files.llamaindex import read_llamaindex
from embedfit.files.retrieval import RetrievalData
from embedfit.models.encoder import Encoder, load_base
from embedfit.models.layout.prompts import open_model
from embedfit.models.windows import blended, max_pool, windows_of_model
from embedfit.numerics.machine import cores, gemm_rate
from embedfit.path import pipeline
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.queries.stage import ROUND_TRIP
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import weighted_sum
from embedfit.retrieval.metrics import hit, judge, ndcg, rank
from embedfit.retrieval.own import own_passages, without_own
from embedfit.retrieval.significance import clusters_of, compare
from embedfit.runtime import Runtime

HERE = Path(__file__).resolve().parent
DATA = default_data()
DEFAULT = "default"
#: The dense scores' part beside BM25's, of one vector a passage and of one for every window.
DENSE_WEIGHT, WINDOWED_WEIGHT = 0.5, 0.7


def as_they_are(queries: Sequence[Query]) -> list[Query]:
    """What the writer wrote and the filters kept."""
    return list(queries)


@dataclass(frozen=True)
class Variant:
    """A change to the default recipe. settings: nested as in embedfit.toml. choose: which queries train."""

    name: str
    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    choose: Callable[[Sequence[Query]], list[Query]] = as_they_are


def questions_alone(queries: Sequence[Query]) -> list[Query]:
    """Without keywords, claims and titles."""
    return [query for query in queries if query.split != "train" or query.style == "question"]


def half_of_them(queries: Sequence[Query]) -> list[Query]:
    """Every second training query."""
    return [query for row, query in enumerate(queries) if query.split != "train" or row % 2]


def without_round_trip(queries: Sequence[Query]) -> list[Query]:
    """With the training queries whose passage neither BM25 nor the base finds."""
    return [
        replace(query, kept=True, reason="") if query.split == "train" and query.reason == ROUND_TRIP else query
        for query in queries
    ]


def _train(**settings: object) -> dict[str, Any]:
    return {"train": settings}


def _hard(count: int) -> dict[str, Any]:
    return {"mine": {"negatives": count}, "train": {"hard_negatives": count}}


VARIANTS = (
    Variant(DEFAULT, "the offline preset"),
    Variant("alpha-1", "the gate may ship the fine-tuned model itself", {"merge": {"max_alpha": 1.0}}),
    Variant("infonce", "InfoNCE, false negatives masked by the base model", _train(loss="infonce", guide_margin=0.1)),
    Variant("plain", "InfoNCE alone", _train(loss="infonce")),
    Variant("alpha-.5", "at most half of the fine-tuned model", {"merge": {"max_alpha": 0.5, "steps": 2}}),
    Variant("words", "a teacher of windows and BM25, three to one", _train(teacher_weights=(3, 0, 1))),
    Variant("no-words", "a teacher of windows and tokens", _train(teacher_weights=(1, 1, 0))),
    Variant("windows", "a teacher of windows alone", _train(teacher_weights=(1, 0, 0))),
    Variant("soft-1", "a teacher's temperature of 1 deviation", _train(teacher_temperature=1.0)),
    Variant("soft-.25", "a teacher's temperature of a quarter of a deviation", _train(teacher_temperature=0.25)),
    Variant("lr-1e-4", "learning rate 1e-4", _train(learning_rate=1e-4)),
    Variant("tau-.02", "temperature .02, FlagEmbedding's default", _train(temperature=0.02)),
    Variant("tau-.1", "temperature .1", _train(temperature=0.1)),
    Variant("batch-128", "batches of 128", _train(batch_size=128)),
    Variant("hard-4", "four mined hard negatives a row", _hard(4)),
    Variant("epochs-3", "three epochs", _train(epochs=3)),
    Variant("no-dropout", "no dropout", _train(dropout=0.0)),
    Variant("questions", "questions alone, without keywords, claims and titles", choose=questions_alone),
    Variant("half", "half of the queries", choose=half_of_them),
    Variant("no-round-trip", "with queries that find their passage nowhere", choose=without_round_trip),
    Variant(
        "row-distil",
        "distillation from BM25 and the base model over a row's own passages alone",
        {
            "mine": {"teacher": "fused", "negatives": 7},
            "train": {"loss": "distil", "hard_negatives": 7, "teacher_temperature": 0.3},
        },
    ),
    Variant(
        "judge-distil",
        "distillation from the writer, a judge of a row's own passages",
        {
            "generate": {"judge": "llm"},
            "mine": {"teacher": "judge", "negatives": 3},
            "train": {"loss": "distil", "hard_negatives": 3, "teacher_temperature": 0.3},
        },
    ),
)


@dataclass(frozen=True)
class Corpus:
    """Where training passages and people's queries come from."""

    name: str
    metric: str = "ndcg@10"

    def prepare(self, home: Path, runtime: Runtime, *, quick: bool) -> tuple[Workspace, Config]:
        """A run folder with passages and queries, written once."""
        if self.name == "10k_published":
            return _published(home)
        overrides: dict[str, Any] = {
            "docs": [str(DATA / self.name / "corpus.jsonl")],
            "eval_beir": str(DATA / self.name),
        }
        if quick:
            overrides |= {"generate": {"max_passages": 60}}
        config = resolve(preset="offline", overrides=overrides)
        workspace = Workspace(home / self.name)
        pipeline.run_all(workspace, config, runtime, until="generate")
        return workspace, config

    def people(self) -> RetrievalData:
        """The evaluation set."""
        if self.name == "10k_published":
            return read_llamaindex(DATA / self.name / "val_dataset.json")
        return read_beir(DATA / self.name)


CORPORA = (Corpus("emanual"), Corpus("covid_qa"), Corpus("stackfaq"), Corpus("10k_published", "hit@5"))


def _published(home: Path) -> tuple[Workspace, Config]:
    """Lyft's published passages and queries; every seventh stretch of passages is the dev part."""
    data = read_llamaindex(DATA / "10k_published" / "train_dataset.json")
    folder = home / "lyft"
    if not folder.exists():
        write_beir(folder, data)
    config = resolve(preset="offline", overrides={"docs": [str(folder / "corpus.jsonl")], "eval_beir": str(folder)})
    workspace = Workspace(home / "10k_published")
    stretch = max(1, len(data.corpus) // 21)
    passages = [
        Passage(
            passage_id=key,
            document_id=f"part-{row // stretch}",
            title="",
            text=entry.text,
            split="dev" if row // stretch % 7 == 3 else "train",
        )
        for row, (key, entry) in enumerate(data.corpus.items())
    ]
    split = {passage.passage_id: passage.split for passage in passages}
    queries = []
    for key, text in data.queries.items():
        source, *others = sorted(data.relevant(key))
        queries.append(
            Query(
                query_id=key,
                passage_id=source,
                text=text,
                style="question",
                split=split[source],
                kept=True,
                also_relevant=tuple(others),
            )
        )
    workspace.write(Passage, passages)
    workspace.write(Query, queries)
    return workspace, config


class Judge:
    """People's queries of a corpus: encodes a model's passages and scores it."""

    def __init__(self, corpus: Corpus) -> None:
        data = corpus.people()
        self.metric = corpus.metric
        self.ids = sorted(data.corpus)
        number = {key: row for row, key in enumerate(self.ids)}
        self.contents = [data.corpus[key].content for key in self.ids]
        named = [key for key in sorted(data.queries) if data.relevant(key) & number.keys()]
        self.queries = [data.queries[key] for key in named]
        self.relevant = [{number[one] for one in data.relevant(key) if one in number} for key in named]
        answers = [self.ids[min(rows)] for rows in self.relevant]
        self.clusters, _ = clusters_of(answers, answers)
        self.own = own_passages(named, self.ids)
        index = Bm25(self.contents)
        self.lexical = np.stack([index.scores(query) for query in self.queries])

    def values(self, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The metric of each query. scores: (Q, N)."""
        judged = judge(rank(without_own(scores, self.own), self.ids, 10).tolist(), self.relevant)
        return hit(judged, 5) if self.metric == "hit@5" else ndcg(judged, 10)

    def scores(self, encoder: Encoder, *, windows: bool) -> dict[str, np.ndarray[Any, Any]]:
        """Scores (Q, N) of a model with one vector a passage and, if asked, with one for each of its windows."""
        queries, passages = encoder.encode(self.queries, is_query=True), encoder.encode(self.contents)
        found = {"dense": queries @ passages.T}
        if windows:
            parts = windows_of_model(self.contents, encoder.tokenizer, encoder.layout, max_tokens=WINDOW_TOKENS)
            vectors = blended(encoder.encode(parts.texts), passages, parts.starts)
            found["windowed"] = max_pool(queries @ vectors.T, parts.starts)
        return found

    def of(self, encoder: Encoder, *, windows: bool = False) -> dict[str, np.ndarray[Any, Any]]:
        """Per-query values of a model alone and with BM25, of windows too if asked."""
        return self.judged(self.scores(encoder, windows=windows))

    def judged(self, found: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Per-query values of scores by kind, and of each kind with BM25."""
        values = {}
        for kind, scores in found.items():
            fused, weight = ("hybrid", DENSE_WEIGHT) if kind == "dense" else (f"hybrid {kind}", WINDOWED_WEIGHT)
            values[kind] = self.values(scores)
            values[fused] = self.values(weighted_sum(scores, self.lexical, weight=weight))
        return values


def outcome(
    corpus: Corpus,
    variant: Variant,
    seed: int,
    home: Path,
    source: tuple[Workspace, Config],
    judge_: Judge,
    general: Judge,
    runtime: Runtime,
) -> dict[str, Any]:
    """Train, merge and score one variant, or what an earlier run found. general: people's queries of no corpus."""
    workspace, config = source
    changed = change(config, run=workspace.root, overrides={**variant.settings, "seed": seed or config.seed})
    settings = changed.model_dump(mode="json", exclude_none=True)
    queries = variant.choose(workspace.read(Query))
    recipe = {key: settings[key] for key in ("model", "seed", "mine", "train")}
    trained = _key(recipe, [asdict(query) for query in queries], _code("mining", "training"))
    key = _key(trained, settings["merge"], _code("merging"))
    kept = home / "outcomes" / f"{corpus.name}-{key}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return found
    run = Workspace(home / "runs" / f"{corpus.name}-{trained}")
    if not run.path("train.manifest.json").exists():
        shutil.rmtree(run.root, ignore_errors=True)
        run.root.mkdir(parents=True)
        shutil.copyfile(workspace.path("passages.jsonl"), run.path("passages.jsonl"))
        run.write(Query, queries)
        for name in ("mine", "train"):
            pipeline.run_stage(pipeline.stage_named(name), run, changed, runtime)
    pipeline.run_stage(pipeline.stage_named("merge"), run, changed, runtime)
    merge = run.read_json("merge.json")
    training = json.loads((run.path("finetuned") / "training.json").read_text("utf-8"))
    instruction = open_model(changed.model, changed.query_instruction)[1].query_instruction
    models = {"finetuned": run.path("finetuned"), "merged": run.path("merged")}
    values = {}
    for name, path in models.items():
        model = Encoder.load(path, query_instruction=instruction)
        for kind, array in judge_.of(model, windows=name == "merged").items():
            values[f"{name} {kind}"] = [round(float(value), 6) for value in array]
        if name == "merged":
            values["general"] = [round(float(value), 6) for value in general.of(model)["dense"]]
    result = {
        "values": values,
        "ship": merge["decision"]["ship"],
        "alpha": merge["decision"]["alpha"],
        "why": merge["decision"]["why"],
        "sweep": merge["alphas"],
        "dev": training["dev_ndcg10"],
        "steps": training["steps"],
        "best_step": training["best_step"],
        "tokens_per_second": training["tokens_per_second"],
        "seconds": training["seconds"],
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result), "utf-8")
    return result


def _key(*parts: Any) -> str:  # noqa: ANN401 - JSON
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _code(*packages: str) -> str:
    """A hash of the source of these packages: other code, other outcome."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((HERE.parent / "src" / "embedfit" / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def base_values(config: Config, judge_: Judge, cache: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The base model's and BM25's values, kept in the cache folder."""
    kept = cache / f"base-{_key(judge_.ids, judge_.queries, judge_.metric, _code('models', 'retrieval'))}.json"
    if not kept.exists():
        encoder = load_base(config.model, config.query_instruction)
        values = {name: array.tolist() for name, array in judge_.of(encoder, windows=True).items()}
        values["bm25"] = judge_.values(judge_.lexical).tolist()
        kept.write_text(json.dumps(values), "utf-8")
    return {name: np.array(values) for name, values in json.loads(kept.read_text("utf-8")).items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| corpus | variant | seeds | base | BM25 | tuned | ships | α | to base | by seed | to default | + BM25 "
        "| base, windows | ships, windows | + BM25 | general |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['corpus']} | {row['variant']} | {row['seeds']} | {row['base']:.3f} | {row['bm25']:.3f} "
            f"| {row['finetuned']:.3f} | {row['shipped']:.3f} | {', '.join(f'{a:g}' for a in row['alphas'])} "
            f"| {_points(row['over_base'])} | {', '.join(f'{100 * a:+.1f}' for a in row['over_base_by_seed'])} "
            f"| {_points(row['over_default'])} | {row['hybrid']:.3f} "
            f"| {row['base_windowed']:.3f} | {row['windowed']:.3f} | {row['hybrid_windowed']:.3f} "
            f"| {100 * row['general']['delta']:+.1f} |"
        )
    return "\n".join(lines)


def _points(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "–"
    low, high = difference["ci95"]
    return f"{100 * difference['delta']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], clusters: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Mean difference with its interval and p."""
    found = compare(a[:, None], b[:, None], clusters, rng=np.random.default_rng(0))[0]
    return {"delta": found.delta, "ci95": list(found.ci95), "p_value": found.p_value}


def main() -> int:
    """Run the ablations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two corpora, 60 training passages, three variants")
    parser.add_argument("--corpora", default="", help="names separated by commas")
    parser.add_argument("--only", default="", help="variants separated by commas; default is always among them")
    parser.add_argument("--seeds", default="0", help="seeds separated by commas; 0: the recipe's own")
    parser.add_argument(
        "--cache", type=Path, default=Path(platformdirs.user_cache_dir("embedfit")) / "recipe-benchmark"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/recipe[_quick].json")
    options = parser.parse_args()
    corpora = [name for name in options.corpora.split(",") if name] or (
        ["emanual", "stackfaq"] if options.quick else [corpus.name for corpus in CORPORA]
    )
    only = {name for name in options.only.split(",") if name} or (
        {"alpha-1", "infonce"} if options.quick else {variant.name for variant in VARIANTS}
    )
    seeds = [int(seed) for seed in options.seeds.split(",")]
    cache = options.cache / ("quick" if options.quick else "full")
    runtime = Runtime(report=LogLines(), confirm=lambda question: True)
    rows: list[dict[str, Any]] = []
    general = Judge(Corpus("xquad_en"))
    for corpus in CORPORA:
        if corpus.name not in corpora:
            continue
        source = corpus.prepare(cache / "sources", runtime, quick=options.quick)
        judge_ = Judge(corpus)
        base = base_values(source[1], judge_, cache)
        general_base = base_values(source[1], general, cache)["dense"]
        reference: np.ndarray[Any, Any] | None = None
        for variant in VARIANTS:
            if variant.name != DEFAULT and variant.name not in only:
                continue
            found = [outcome(corpus, variant, seed, cache, source, judge_, general, runtime) for seed in seeds]
            mean = {
                name: np.mean([one["values"][name] for one in found], axis=0)
                for name in (
                    "finetuned dense",
                    "merged dense",
                    "merged hybrid",
                    "merged windowed",
                    "merged hybrid windowed",
                    "general",
                )
            }
            if variant.name == DEFAULT:
                reference = mean["merged dense"]
            rows.append(
                {
                    "corpus": corpus.name,
                    "metric": corpus.metric,
                    "variant": variant.name,
                    "what": variant.what,
                    "seeds": len(seeds),
                    "base": float(base["dense"].mean()),
                    "bm25": float(base["bm25"].mean()),
                    "base_hybrid": float(base["hybrid"].mean()),
                    "finetuned": float(mean["finetuned dense"].mean()),
                    "shipped": float(mean["merged dense"].mean()),
                    "hybrid": float(mean["merged hybrid"].mean()),
                    "base_windowed": float(base["windowed"].mean()),
                    "windowed": float(mean["merged windowed"].mean()),
                    "hybrid_windowed": float(mean["merged hybrid windowed"].mean()),
                    "windowed_over_base": difference(mean["merged windowed"], base["dense"], judge_.clusters),
                    "windowed_over_base_windowed": difference(
                        mean["merged windowed"], base["windowed"], judge_.clusters
                    ),
                    "alphas": [one["alpha"] for one in found],
                    "over_base": difference(mean["merged dense"], base["dense"], judge_.clusters),
                    "over_base_by_seed": [
                        float(np.mean(one["values"]["merged dense"]) - base["dense"].mean()) for one in found
                    ],
                    "finetuned_over_base": difference(mean["finetuned dense"], base["dense"], judge_.clusters),
                    "over_default": None
                    if variant.name == DEFAULT or reference is None
                    else difference(mean["merged dense"], reference, judge_.clusters),
                    "general_base": float(general_base.mean()),
                    "general": difference(mean["general"], general_base, general.clusters),
                    "sweep": [one["sweep"] for one in found],
                    "seconds": [one["seconds"] for one in found],
                    "tokens_per_second": [one["tokens_per_second"] for one in found],
                }
            )
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print("\n" + table(rows))
    out = options.out or HERE / "results" / f"recipe{'_quick' if options.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "hardware": {"machine": platform.machine(), "cores": cores(), "gemm_tflops": gemm_rate("fp32")},
        "versions": {name: version(name) for name in ("embedfit", "torch", "transformers", "numpy")},
        "rows": rows,
    }
    out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
