"""A plausible run folder without running anything: records as every stage would have left them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from embedfit import __version__
from embedfit.config import Config, resolve, save
from embedfit.index.retriever import BASE, BM25, DEFAULT, RRF
from embedfit.path.artefacts import Document, DroppedPassage, Manifest, Passage, Query, Score
from embedfit.path.systems import pairs
from embedfit.path.workspace import SCHEMA, Workspace

HOSTILE = "<script>window.pwned = 1</script>"
ISLAND_BREAKER = "</script><script>window.pwned = 2</script><!-- <script>"
ATTRIBUTE_BREAKER = '" onmouseover="window.pwned=3" x="'
IMAGE = "<img src=x onerror='window.pwned=4'>"

STYLES = ("question", "keywords", "conversational", "claim", "title")
TOPICS = ("the remote control", "screen mirroring", "the sound bar", "parental locks", "energy saving", "the tuner")
VERBS = ("mute", "reset", "pair", "disable", "update", "find")


def build_run(
    root: Path, *, ship: str = "merged", hostile: bool = False, human: bool = True, seed: int = 7, **overrides: Any
) -> tuple[Workspace, Config]:
    """A finished run in root. ship: the decision; hostile: script tags in every text that others wrote."""
    rng = random.Random(seed)
    workspace = Workspace(root)
    config = resolve(
        preset="offline", overrides={"docs": ["manuals/"], **({"eval_beir": "eval-data"} if human else {}), **overrides}
    )
    root.mkdir(parents=True, exist_ok=True)
    save(config, workspace.path("embedfit.toml"))
    passages = _ingest(workspace, rng, hostile)
    kept = _generate(workspace, rng, passages, hostile)
    _train(workspace, rng)
    _model(workspace)
    gain = {"merged": 0.068, "finetuned": 0.071, "base": -0.004}[ship]
    _merge(workspace, ship, gain)
    _check(workspace, rng)
    _choose(workspace, ship)
    queries = _evaluate(workspace, rng, passages, ship, gain, human, hostile)
    _summary(workspace, ship, gain, human, len(passages), kept, len(queries))
    seconds = {
        "ingest": 3.1,
        "generate": 412.0,
        "mine": 22.4,
        "train": 148.9,
        "merge": 71.2,
        "check": 4.0,
        "choose": 2.5,
        "evaluate": 55.3,
    }
    for stage, spent in seconds.items():
        workspace.write_manifest(
            Manifest(
                stage=stage,
                schema=SCHEMA,
                code=__version__,
                seed=config.seed,
                config="ab" * 32,
                seconds=spent,
                finished="2026-01-31T12:00:00+00:00",
                versions={"python": "3.11.4", "torch": "2.13.0"},
            )
        )
    return workspace, config


def _ingest(workspace: Workspace, rng: random.Random, hostile: bool) -> list[Passage]:
    documents = [
        Document(
            document_id=f"doc-{n}",
            path=f"manuals/{'x' + ATTRIBUTE_BREAKER if hostile and n == 0 else 'tv-' + str(n)}.pdf",
            sha256="0" * 64,
            pages=40 + n,
            characters=90_000,
        )
        for n in range(6)
    ]
    documents.append(
        Document(
            document_id="doc-6",
            path="manuals/scan.pdf",
            sha256="1" * 64,
            pages=12,
            status="skipped",
            reason=HOSTILE if hostile else "no text: every page is an image",
        )
    )
    documents.append(
        Document(
            document_id="doc-7",
            path="manuals/copy.pdf",
            sha256="0" * 64,
            status="duplicate",
            reason="same text as tv-0.pdf",
        )
    )
    passages = []
    for number in range(120):
        topic, verb = rng.choice(TOPICS), rng.choice(VERBS)
        text = (
            f"To {verb} {topic}, press and hold the button on the back for five seconds until the light turns green. "
            f"The set then restarts, which takes about {rng.randint(10, 90)} seconds; do not unplug it meanwhile. "
            "If the light stays red, repeat the steps with the cable of the kit."
        )
        if hostile:
            text = f"{text} {HOSTILE} {ISLAND_BREAKER} {IMAGE} \u2028 {{{{ 7 * 7 }}}}"
        passages.append(
            Passage(
                passage_id=f"doc-{number % 6}#{number}",
                document_id=f"doc-{number % 6}",
                title=f"{ISLAND_BREAKER} {topic}" if hostile else f"Setup > {topic.capitalize()}",
                text=text,
                page=1 + number // 6,
                start=number * 300,
                end=number * 300 + 280,
                split=("train", "train", "train", "train", "dev", "test")[number % 6],
            )
        )
    reasons = ["shorter than 60 characters"] * 9 + ["table of contents"] * 5 + ["running header"] * 14
    dropped = [
        DroppedPassage(document_id="doc-1", page=1, start=0, end=20, reason=reason, preview=HOSTILE)
        for reason in reasons
    ]
    if hostile:
        dropped.append(DroppedPassage(document_id="doc-1", page=1, start=0, end=20, reason=HOSTILE, preview=HOSTILE))
    workspace.write(Document, documents)
    workspace.write(Passage, passages)
    workspace.write(DroppedPassage, dropped)
    return passages


def _generate(workspace: Workspace, rng: random.Random, passages: list[Passage], hostile: bool) -> int:
    reasons = ["round trip", "round trip", "near-duplicate", "too short", "mentions the passage"]
    queries = []
    for number in range(480):
        passage = passages[number % len(passages)]
        kept = rng.random() < 0.68
        queries.append(
            Query(
                query_id=f"q{number}",
                passage_id=passage.passage_id,
                text=f"how do I {rng.choice(VERBS)} {rng.choice(TOPICS)}",
                style=STYLES[number % len(STYLES)],
                split=passage.split,
                kept=kept,
                reason="" if kept else (IMAGE if hostile and number < 40 else rng.choice(reasons)),
            )
        )
    workspace.write(Query, queries)
    return sum(query.kept for query in queries)


def _train(workspace: Workspace, rng: random.Random) -> None:
    folder = workspace.path("finetuned")
    folder.mkdir(exist_ok=True)
    with (folder / "losses.jsonl").open("w") as file:
        for step in range(1, 103):
            loss = 0.5 + 1.9 * math.exp(-step / 25) + rng.gauss(0, 0.12)
            file.write(json.dumps({"step": step, "loss": round(loss, 4), "lr": 5e-5 * min(1, step / 10)}) + "\n")
    scores = [
        {"step": step, "ndcg10": round(0.61 + 0.075 * (1 - math.exp(-step / 22)) - max(0, step - 70) * 2e-4, 4)}
        for step in range(0, 103, 12)
    ]
    workspace.write_json(
        "finetuned/training.json",
        {
            "steps": 102,
            "best_step": 72,
            "stopped_early": True,
            "rows": 226,
            "dev_ndcg10": {"base": 0.61, "after": [row for row in scores if row["step"]]},
            "tokens_per_second": 7312.4,
            "peak_memory_mb": 1840,
            "precision": "bf16",
            "device": "cpu",
        },
    )


def _model(workspace: Workspace) -> None:
    files: dict[str, Any] = {
        "config.json": {"model_type": "bert", "hidden_size": 384, "max_position_embeddings": 512},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "1_Pooling/config.json": {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "Represent this <question> | for `searching`: "}},
    }
    for name, value in files.items():
        workspace.write_json(f"merged/{name}", value)
    workspace.write_text("merged/model.safetensors", "not real weights")


def _merge(workspace: Workspace, ship: str, gain: float) -> None:
    alphas = [n / 10 for n in range(11)]
    workspace.write_json(
        "merge.json",
        {
            "alphas": [
                {
                    "alpha": alpha,
                    "dev": {
                        "ndcg@10": round(0.612 + gain * (1 - (1 - alpha) ** 2.2) - 0.008 * alpha**4, 4),
                        "mrr@10": 0.55,
                    },
                    "retention": round(0.99 - 0.021 * alpha**2, 4),
                }
                for alpha in alphas
            ],
            "decision": {"ship": ship, "alpha": {"merged": 0.6, "finetuned": 1.0, "base": 0.0}[ship], "why": "…"},
            "evidence": {},
        },
    )


def _check(workspace: Workspace, rng: random.Random) -> None:
    def draw(mean: float, deviation: float) -> list[float]:
        return [round(min(0.98, max(-0.1, rng.gauss(mean, deviation))), 4) for _ in range(50)]

    workspace.write_json(
        "check.json",
        {
            "verdict": "Similar pairs stand clearly above different ones.",
            "passed": True,
            "systems": {
                "base": {"similar": draw(0.58, 0.12), "different": draw(0.24, 0.11), "auc": 0.961},
                "merged": {"similar": draw(0.69, 0.09), "different": draw(0.15, 0.1), "auc": 0.992},
            },
        },
    )


def _choose(workspace: Workspace, ship: str) -> None:
    default = DEFAULT.with_deviations({"one": 0.11, "windows": 0.1}).as_json()
    workspace.write_json(
        "retriever.json",
        {
            "schema": 1,
            "model": "base" if ship == "base" else "merged",
            "retriever": default,
            "verdict": "no evidence",
            "why": "Nobody asked a question, so the safe default ships.",
            "evidence": {"kind": "none", "questions": 0},
            "default": default,
            "candidates": [],
        },
    )


def _evaluate(
    workspace: Workspace,
    rng: random.Random,
    passages: list[Passage],
    ship: str,
    gain: float,
    human: bool,
    hostile: bool,
) -> list[str]:
    queries = [f"e{n}" for n in range(240)]
    tuned = "finetuned" if ship == "base" else "merged"  # at weight 0 the merged model is the base
    workspace.write(
        Score, [Score(system="base", query_id=q, metric="ndcg@10", value=rng.random(), rank=1) for q in queries]
    )
    ids = [passage.passage_id for passage in passages]
    wins, losses, used = [], [], set()
    for number, query_id in enumerate(queries[:90]):
        relevant = rng.choice(ids)
        before, after = rng.choice((0, 2, 4, 7, 9)), rng.choice((1, 1, 1, 2, 3))
        if number % 3 == 0:
            before, after = after, before
        value = {rank: 1 / math.log2(rank + 1) if rank else 0.0 for rank in (before, after)}
        delta = round(value[after] - value[before], 4)
        if delta == 0:
            continue
        text = f"how can I {rng.choice(VERBS)} {rng.choice(TOPICS)} when the light is red?"
        entry = {
            "query_id": query_id,
            "query": f"{ISLAND_BREAKER} {IMAGE} {text}" if hostile else text,
            "style": (HOSTILE if hostile else rng.choice(STYLES)) if not human else "",
            "relevant": [relevant],
            "delta": delta,
        }
        others = {name: rng.choice((1, 2, 3, 0)) for name in ("bm25", "chosen")}
        for system, rank in {"base": before, tuned: after, **others}.items():
            top = rng.sample([i for i in ids if i != relevant], 5)
            if 0 < rank <= 5:
                top[rank - 1] = relevant
            entry[system] = {"rank": rank, "top": top}
            used.update(top)
        used.add(relevant)
        (wins if delta > 0 else losses).append(entry)

    def row(value: str, queries: int, delta: float, width: float) -> dict[str, Any]:
        return {
            "value": value,
            "queries": queries,
            "base": 0.49,
            tuned: round(0.49 + delta, 4),
            "delta": delta,
            "ci95": [round(delta - width, 4), round(delta + width, 4)],
        }

    slices = {
        "length": [
            row("1–5 words", 44, gain + 0.02, 0.05),
            row("6–12 words", 150, gain, 0.02),
            row("13 and more", 46, gain - 0.05, 0.04),
        ],
        "overlap": [
            row("low", 80, gain + 0.04, 0.03),
            row("middle", 80, gain, 0.03),
            row("high", 80, gain - 0.06, 0.03),
        ],
        "document": [row(f"doc-{n}", 60 - n * 8, gain + (n - 2) / 50, 0.05) for n in range(6)],
    }
    if not human:
        slices["style"] = [row(style, 48, gain + n / 100, 0.04) for n, style in enumerate(STYLES)]
    workspace.write_json(
        "evaluation.json",
        {
            "tuned": tuned,
            "wins": wins,
            "losses": losses,
            "slices": slices,
            "passages": {
                p.passage_id: {"title": p.title, "text": p.text, "document_id": p.document_id, "page": p.page}
                for p in passages
                if p.passage_id in used
            },
        },
    )
    return queries


def _retrievers(ship: str) -> dict[str, Any]:
    over = "base" if ship == "base" else "merged"
    rows = {
        "base": ("base", BASE, 768, 3.1),
        "merged": ("merged", BASE, 768, 3.1),
        "bm25": (None, BM25, 612.4, 0.2),
        "rrf": (over, RRF, 1380.4, 3.4),
        "default_base": ("base", DEFAULT, 18_400.5, 12.9),
        "default": (over, DEFAULT, 18_400.5, 12.9),
        "chosen": (over, DEFAULT, 18_400.5, 12.9),
    }
    return {
        name: {"model": model, "retriever": retriever.as_json(), "bytes_a_passage": size, "ms_a_query": ms}
        for name, (model, retriever, size, ms) in rows.items()
    }


def _storage(level: float) -> list[dict[str, Any]]:
    ways = [
        ("float32", 384, 1536, 0, None, 0.0),
        ("float16", 384, 768, 0, None, 0.0001),
        ("int8", 384, 384, 0, None, -0.0004),
        ("binary, rescored in int8", 384, 48, 384, None, -0.006),
        ("float16, 128", 128, 256, 0, False, -0.041),
    ]
    names = ("name", "dimensions", "bytes_a_passage", "on_disk", "trained", "delta")
    rows = []
    for way in ways:
        row = dict(zip(names, way, strict=True))
        low, high = (way[-1] - 0.008, way[-1] + 0.008) if way[-1] else (0.0, 0.0)
        value = round(level + way[-1], 4)
        rows.append({**row, "ndcg@10": value, "ci95": [value - 0.027, value + 0.027], "delta_ci95": [low, high]})
    return rows


def _summary(workspace: Workspace, ship: str, gain: float, human: bool, passages: int, kept: int, queries: int) -> None:
    shipped = 0.0 if ship == "base" else gain
    levels = {
        "base": 0.489,
        "finetuned": 0.489 + gain * 0.9,
        "merged": 0.489 + gain,
        "bm25": 0.623,
        "hybrid_base": 0.645,
        "hybrid_merged": 0.658 + gain / 4,
        "bm25_cut": 0.601,
        "base_windowed": 0.602,
        "merged_windowed": 0.602 + gain / 2,
        "hybrid_merged_windowed": 0.69 + gain / 4,
        "rrf": 0.634,
        "default_base": 0.702,
        "default": 0.702 + shipped / 4,
        "chosen": 0.702 + shipped / 4,
    }

    def system(level: float) -> dict[str, Any]:
        metrics = {
            "hit@1": level - 0.1,
            "hit@3": level + 0.05,
            "hit@5": level + 0.11,
            "hit@10": level + 0.17,
            "mrr@10": level - 0.04,
            "ndcg@10": level,
            "map@100": level - 0.03,
            "recall@10": level + 0.16,
            "recall@100": level + 0.28,
            "precision@10": level / 7,
        }
        metrics = {name: round(value, 4) for name, value in metrics.items()}
        return {"metrics": metrics, "ci95": {n: [round(v - 0.027, 4), round(v + 0.027, 4)] for n, v in metrics.items()}}

    def comparison(a: str, b: str, p_value: float) -> dict[str, Any]:
        delta = round(levels[a] - levels[b], 4)
        return {
            "a": a,
            "b": b,
            "metric": "ndcg@10",
            "delta": delta,
            "ci95": [round(delta - 0.015, 4), round(delta + 0.015, 4)],
            "p_value": p_value,
            "queries": queries,
            "clusters": 84,
            "minimum_detectable": 0.021,
        }

    p_value = 0.0005 if abs(gain) > 0.02 else 0.41
    workspace.write_json(
        "summary.json",
        {
            "schema": 1,
            "systems": {name: system(level) for name, level in levels.items()},
            "comparisons": [
                comparison(a, b, p_value if {a, b} <= {"merged", "finetuned", "base"} else 0.0005)
                for a, b in pairs(())
                if a in levels and b in levels
            ],
            "retrievers": _retrievers(ship),
            "storage": _storage(levels["merged"]),
            "decision": {
                "ship": ship,
                "alpha": {"merged": 0.6, "finetuned": 1.0, "base": 0.0}[ship],
                "why": "On the dev questions a weight of 0.6 gained 5.9 points and kept 98.2% of the base elsewhere."
                if ship != "base"
                else "On the dev questions no weight gained more than chance would.",
                "retriever": workspace.read_json("retriever.json"),
            },
            "data": {
                "documents": 6,
                "passages": passages,
                "queries_generated": 480,
                "queries_kept": kept,
                "train_rows": 226,
                "eval_queries": queries,
                "eval_kind": "human" if human else "synthetic",
            },
            "timings_s": {"ingest": 3.0, "generate": 400.0},
            "cost": {"calls": 480, "input_tokens": 181_000, "output_tokens": 9_400, "usd": 0.0},
        },
    )
