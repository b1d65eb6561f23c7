"""How fast embedfit trains, beside FlagEmbedding and sentence-transformers: same rows, base, lengths, batch and seed.

    python benchmarks/train_throughput.py --quick      # a few minutes, prints the ratios
    python benchmarks/train_throughput.py              # all cases, 70 minutes on two cores; writes
                                                       # benchmarks/results/train_throughput.json

Each peer runs in an environment of its own, which is made on first use. A system's speed is the median of its
steps after the first. Tokens are those of the rows (query, positive, negatives, no padding), counted alike for
all: what a system saves by encoding a passage once shows as speed. Tokens per CPU-second (of all threads of the
training process) say the same of a machine that other programs use at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from safetensors.torch import load_file

from embedfit.models.architecture import Architecture
from embedfit.models.encoder import Encoder
from embedfit.models.folder import save_model
from embedfit.models.sources import resolve_model
from embedfit.numerics.machine import best_precision, cores, gemm_rate
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.topk import top_k

HERE = Path(__file__).resolve().parent
SEED = 13


@dataclass(frozen=True)
class Environment:
    """A peer's environment: its folder's name and what pip installs there."""

    name: str
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """Something that trains. best: with its best settings for speed instead of its defaults."""

    name: str
    script: str
    environment: Environment | None
    best: bool = False
    cached: bool = False


TORCH = "torch==2.13.0"
FLAG = Environment("flagembedding-1.4.2", ("FlagEmbedding==1.4.2", TORCH, "transformers<5"))
SBERT = Environment("sentence-transformers-6.2.0", ("sentence-transformers[train]==6.2.0", TORCH))
SYSTEMS = (
    System("embedfit", "train_embedfit.py", None),
    System("FlagEmbedding, stock", "train_flagembedding.py", FLAG),
    System("FlagEmbedding, best", "train_flagembedding.py", FLAG, best=True),
    System("sentence-transformers MNRL, stock", "train_sentence_transformers.py", SBERT),
    System("sentence-transformers MNRL, best", "train_sentence_transformers.py", SBERT, best=True),
    System("sentence-transformers CachedMNRL, stock", "train_sentence_transformers.py", SBERT, cached=True),
    System("sentence-transformers CachedMNRL, best", "train_sentence_transformers.py", SBERT, best=True, cached=True),
)


@dataclass(frozen=True)
class Case:
    """Rows and a base. lengths: "lyft" (the published rows) or "lognormal" (made up)."""

    base: str
    lengths: str
    batch: int
    steps: int
    group: int = 2
    query_tokens: int = 64
    passage_tokens: int = 256

    @property
    def name(self) -> str:
        """What --cases and the report call it."""
        return f"{self.base}-{self.lengths}-{self.batch}"


QUICK = (Case("minilm", "lyft", batch=16, steps=3),)
FULL = (
    Case("minilm", "lyft", batch=32, steps=4),
    Case("minilm", "lyft", batch=128, steps=3),
    # Batches of 32 take a peer that pads to the longest text 20 GB, and it swaps.
    Case("minilm", "lognormal", batch=16, steps=3, passage_tokens=512),
    Case("mpnet", "lyft", batch=8, steps=3),
)


def python_of(environment: Environment | None, folder: Path) -> str:
    """The interpreter of an environment, which is made if need be."""
    if environment is None:
        return sys.executable
    home = folder / environment.name
    python = home / "bin" / "python"
    if not (home / ".whole").exists():
        print(f"making {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *environment.requirements], check=True)
        (home / ".whole").touch()
    return str(python)


def base_folder(name: str, work: Path) -> Path:
    """A model by its alias; "bert-base": one of random weights with MiniLM's tokenizer."""
    if name != "bert-base":
        return resolve_model(name)
    minilm = resolve_model("minilm")
    from transformers import BertConfig, BertModel

    source, folder = work / "bert-base-source", work / "bert-base"
    if folder.exists():
        return folder
    source.mkdir(parents=True)
    for path in minilm.iterdir():
        if path.name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json", "tokenizer_config.json"):
            shutil.copyfile(path, source / path.name)
    config = BertConfig(vocab_size=30522, architectures=["BertModel"])
    config.save_pretrained(source)
    torch.manual_seed(SEED)
    layout = Architecture.plain(pooling="cls", max_tokens=512, hidden_size=768)
    save_model(folder, BertModel(config, add_pooling_layer=False).state_dict(), base=source, layout=layout)
    return folder


def default_data() -> Path:
    """Where the corpora are."""
    return Path(os.environ.get("EMBEDFIT_DATA") or HERE.parent.parent / "shared" / "data")


def published(data: Path, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((data / "10k_published" / f"{name}_dataset.json").read_text("utf-8"))
    return result


def make_rows(case: Case, data: Path) -> list[dict[str, Any]]:
    """Rows with case.group - 1 random negatives each, in random order."""
    rng = np.random.default_rng(SEED)
    source = published(data, "train")
    corpus, queries = source["corpus"], source["queries"]
    if case.lengths == "lyft":
        pairs = [(text, corpus[source["relevant_docs"][key][0]]) for key, text in queries.items()]
        passages = list(corpus.values())
    else:
        words = " ".join(corpus.values()).split()
        count = case.batch * case.steps
        lengths = np.clip(rng.lognormal(4.2, 0.8, count), 5, 400).astype(int)
        starts = rng.integers(0, len(words) - 400, count)
        passages = [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]
        pairs = [(" ".join(rng.choice(passage.split(), 8)), passage) for passage in passages]
    rows = []
    for index in rng.permutation(len(pairs)):
        query, positive = pairs[index]
        others = [passages[i] for i in rng.permutation(len(passages))[: case.group] if passages[i] != positive]
        rows.append({"query": query, "pos": [positive], "neg": others[: case.group - 1]})
    return rows


def row_tokens(rows: list[dict[str, Any]], case: Case, encoder: Encoder) -> float:
    """Mean tokens of a row's texts, cut as they are for training, without padding."""
    queries = encoder.token_ids([row["query"] for row in rows], max_tokens=case.query_tokens)
    passages = encoder.token_ids([t for row in rows for t in row["pos"] + row["neg"]], max_tokens=case.passage_tokens)
    return (sum(map(len, queries)) + sum(map(len, passages))) / len(rows)


def quality(folder: Path, base: Path, data: Path, quick: bool) -> float:
    """nDCG@10 on the published Uber queries of the weights in a folder, encoded alike for all systems."""
    encoder = Encoder.load(base)
    weights = load_file(folder / "model.safetensors")
    own = set(encoder.backbone.state_dict())
    named = {name.removeprefix("bert.").removeprefix("mpnet."): tensor.float() for name, tensor in weights.items()}
    encoder.backbone.load_state_dict({name: tensor for name, tensor in named.items() if name in own})
    source = published(data, "val")
    keys = list(source["queries"])[:: 8 if quick else 1]
    ids = sorted({source["relevant_docs"][key][0] for key in keys}) if quick else list(source["corpus"])
    passages = encoder.encode([source["corpus"][name] for name in ids])
    queries = encoder.encode([source["queries"][key] for key in keys], is_query=True)
    ranked, _ = top_k(queries, passages, 10)
    relevant = [{name} for name in (source["relevant_docs"][key][0] for key in keys)]
    return float(ndcg(judge([[ids[i] for i in line] for line in ranked], relevant), 10).mean())


def prepared(case: Case, data: Path, work: Path) -> tuple[Path, Path, float]:
    """A case's base, its rows as a file in work, and their mean tokens."""
    base = base_folder(case.base, work)
    rows = make_rows(case, data)
    path = work / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return base, path, row_tokens(rows, case, Encoder.load(base))


def train(
    system: System, case: Case, base: Path, rows: Path, work: Path, peers: Path, **more: object
) -> dict[str, Any]:
    """One system's result: seconds of steps, losses, peak memory. Raises CalledProcessError where it fails.

    more: what else its script is told.
    """
    out = work / "out" / "".join(c if c.isalnum() else "-" for c in system.name)
    shutil.rmtree(out, ignore_errors=True)
    spec = {
        "model": str(base),
        "rows": str(rows),
        "out": str(out),
        "steps": case.steps,
        "batch": case.batch,
        "group": case.group,
        "query_tokens": case.query_tokens,
        "passage_tokens": case.passage_tokens,
        "temperature": 0.05,
        "learning_rate": 5e-5,
        "pooling": "cls" if case.base == "bert-base" else "mean",
        "seed": SEED,
        "best": system.best,
        "cached": system.cached,
        "bf16": best_precision() == "bf16",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        **more,
    }
    paths = work / "spec.json", work / "result.json"
    paths[0].write_text(json.dumps(spec), "utf-8")
    paths[1].unlink(missing_ok=True)
    command = [python_of(system.environment, peers), str(HERE / "peers" / system.script), *map(str, paths)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    log = work / "log.txt"
    with log.open("w") as file:
        try:
            subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=work)
        except subprocess.CalledProcessError:
            print("\n".join(log.read_text("utf-8", "replace").splitlines()[-15:]), flush=True)
            raise
    result: dict[str, Any] = json.loads(paths[1].read_text("utf-8"))
    return {**result, "out": str(out)}


def measure(case: Case, systems: list[System], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All systems on one case."""
    measured_on = machine()  # before they load it
    print(json.dumps(measured_on), flush=True)
    base, path, tokens = prepared(case, options.data, work)
    print(f"\n{case.base}, {case.lengths} lengths, batch {case.batch}, {tokens:.0f} tokens a row", flush=True)
    results = {}
    for system in systems:
        try:
            outcome = train(system, case, base, path, work, options.peers)
        except subprocess.CalledProcessError as error:
            results[system.name] = {"failed": str(error.returncode)}
            continue
        step = statistics.median(outcome["seconds"][1:])
        score = quality(Path(outcome.pop("out")), base, options.data, options.quick)
        cpu = statistics.median(outcome["cpu_seconds"][1:])
        results[system.name] = {
            "step_s": step,
            "tokens_per_cpu_s": tokens * case.batch / cpu,
            "rows_per_s": case.batch / step,
            "tokens_per_s": tokens * case.batch / step,
            "peak_mb": outcome["peak_mb"],
            "final_loss": statistics.mean(outcome["losses"][-3:]),
            "ndcg@10": score,
            **{k: v for k, v in outcome.items() if k not in ("peak_mb",)},
        }
        one = results[system.name]
        print(
            f"{system.name:42} {one['tokens_per_s']:9,.0f} tokens/s {one['tokens_per_cpu_s']:9,.0f} tokens/CPU-s "
            f"{one['peak_mb']:7,} MB  loss {one['final_loss']:.3f}  nDCG@10 {score:.3f}",
            flush=True,
        )
    ours = results.get("embedfit", {}).get("tokens_per_s")
    for name, one in results.items():
        if ours and name != "embedfit" and "tokens_per_s" in one:
            one["embedfit_times_as_fast"] = ours / one["tokens_per_s"]
            one["embedfit_cpu_ratio"] = results["embedfit"]["tokens_per_cpu_s"] / one["tokens_per_cpu_s"]
            by_cpu = f"{one['embedfit_cpu_ratio']:.1f} × by CPU time"
            print(f"embedfit is {one['embedfit_times_as_fast']:.1f} × {name} ({by_cpu})", flush=True)
    return {
        "case": {"name": case.name, **case.__dict__},
        "machine": measured_on,
        "tokens_per_row": tokens,
        "systems": results,
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model, flags = platform.processor(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.partition(":") for line in info.read_text().splitlines()]
        model = next((value.strip() for key, _, value in lines if key.startswith("model name")), model)
        flags = set(next((value for key, _, value in lines if key.startswith("flags")), "").split())
    return {
        "cpu": model,
        "cores": cores(),
        "load_before": os.getloadavg()[0],
        "features": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}),
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gemm_gflops": {kind: round(gemm_rate(kind) / 1e9) for kind in ("fp32", "bf16")},
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "embedfit": version("embedfit"),
    }


def main(description: str, quick: tuple[Case, ...], full: tuple[Case, ...], name: str) -> None:
    """Parse, run the cases, print, write the report."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small case")
    parser.add_argument("--cases", default="", help="names such as mpnet-lyft-8; the report keeps the others")
    parser.add_argument("--only", default="", help="systems whose name holds one of these words, separated by commas")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--peers", type=Path, default=Path(platformdirs.user_cache_dir("embedfit")) / "peers")
    parser.add_argument("--out", type=Path, help=f"default: benchmarks/results/{name}[_quick].json")
    options = parser.parse_args()
    out = options.out or HERE / "results" / f"{name}{'_quick' if options.quick else ''}.json"
    words = [word for word in options.only.split(",") if word]
    systems = [system for system in SYSTEMS if not words or any(word in system.name for word in words)]
    for environment in {system.environment for system in systems if system.environment}:
        python_of(environment, options.peers)
    cases = {case.name: case for case in (quick if options.quick else full)}
    chosen = [name for name in options.cases.split(",") if name] or list(cases)
    if unknown := [name for name in chosen if name not in cases]:
        parser.error(f"no such case: {', '.join(unknown)}. There are: {', '.join(cases)}")
    kept = {} if chosen == list(cases) or not out.exists() else json.loads(out.read_text("utf-8"))
    done = {one["case"]["name"]: one for one in kept.get("cases", [])}
    with tempfile.TemporaryDirectory() as work:
        for case_name in chosen:
            done[case_name] = measure(cases[case_name], systems, options, Path(work))
            report = {"cases": [done[each] for each in cases if each in done]}
            out.parent.mkdir(exist_ok=True)
            out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main(__doc__, QUICK, FULL, "train_throughput")
