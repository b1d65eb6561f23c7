"""What the general path for all families costs BERT: encoding and training before it and now, in one run.

    python benchmarks/bert_before.py             # some five minutes; writes benchmarks/results/bert_before.json

Before: the last commit whose code knew BERT alone, from this repository's history. Each tree encodes the same passages
of emanual with MiniLM and trains MiniLM for the same steps (InfoNCE, rows of lognormal lengths), each time in a process
of its own, in turn, twice. The figures are the best of the rounds, by the process' own CPU time. Training before had a
BERT written out by hand, which paid in bf16 alone; fp32 is what machines without bf16 products train in.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from encoding import passages
from train_throughput import HERE, SEED, Case, default_data, machine, make_rows

from embedfit.files.atomic import atomic_file
from embedfit.models.sources import resolve_model

BEFORE = "4c336c2"
PRECISIONS = ("fp32", "bf16")
#: Runs in either tree: encodes the texts of a file and says the CPU-seconds; keeps the vectors.
ENCODE = """
import json, sys, time
import numpy as np
from pathlib import Path
from embedfit.models.encoder import Encoder
folder, texts, result, vectors = sys.argv[1:]
texts = json.loads(Path(texts).read_text("utf-8"))
encoder = Encoder.load(Path(folder), precision="fp32")
encoder.encode(texts[:8])
start = time.process_time()
found = encoder.encode(texts)
seconds = time.process_time() - start
np.save(vectors, found / np.linalg.norm(found, axis=1, keepdims=True))
Path(result).write_text(json.dumps({"cpu_seconds": seconds}), "utf-8")
"""
#: Runs in either tree: trains with that tree's stage, with settings that its script does not take.
TRAIN = """
import runpy, sys
import embedfit.config as config
script, precision, *sys.argv[1:] = sys.argv[1:]
resolve = config.resolve
def with_more(overrides):
    more = {"loss": "infonce", "precision": precision}
    return resolve(overrides={**overrides, "train": overrides["train"] | more})
config.resolve = with_more
runpy.run_path(script, run_name="__main__")
"""


def tree_of(commit: str, folder: Path) -> Path:
    """The files of a commit, unpacked."""
    command = ["git", "-C", str(HERE.parent), "archive", commit, "src", "benchmarks"]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_in(tree: Path, arguments: list[str], work: Path) -> None:
    """Python with a tree's embedfit."""
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"), "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    log = work / "log.txt"
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=work, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise SystemExit(f"{tree}: {' '.join(arguments)}\n{log.read_text('utf-8', 'replace')[-2000:]}")


def encode(tree: Path, texts: Path, work: Path, vectors: Path) -> float:
    """CPU-seconds of encoding."""
    result = work / "encode.json"
    run_in(tree, ["-c", ENCODE, str(resolve_model("minilm")), str(texts), str(result), str(vectors)], work)
    return float(json.loads(result.read_text("utf-8"))["cpu_seconds"])


def train(tree: Path, case: Case, precision: str, rows: Path, out: Path) -> tuple[float, list[float]]:
    """(CPU-seconds of a step, losses)."""
    work = rows.parent
    spec, result = work / "spec.json", work / "train.json"
    told = {
        "model": str(resolve_model("minilm")), "rows": str(rows), "out": str(out), "steps": case.steps,
        "batch": case.batch, "group": case.group, "query_tokens": case.query_tokens,
        "passage_tokens": case.passage_tokens, "temperature": 0.05, "learning_rate": 5e-5, "seed": SEED,
    }  # fmt: skip
    spec.write_text(json.dumps(told), "utf-8")
    script = tree / "benchmarks" / "peers" / "train_embedfit.py"
    run_in(tree, ["-c", TRAIN, str(script), precision, str(spec), str(result)], work)
    found: dict[str, Any] = json.loads(result.read_text("utf-8"))
    return median(found["cpu_seconds"]), found["losses"]


def main() -> None:
    """Measure both trees in turn; print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"default: {BEFORE}")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bert_before.json")
    options = parser.parse_args()
    case, about = Case("minilm", "lognormal", 32, options.steps), machine()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        trees = {"before": tree_of(options.before, work / "before"), "now": HERE.parent}
        texts, rows = work / "texts.json", work / "rows.jsonl"
        texts.write_text(json.dumps(passages(options.texts)), "utf-8")
        rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows(case, options.data)), "utf-8")
        encoding: dict[str, list[float]] = {name: [] for name in trees}
        training: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in trees} for kind in PRECISIONS}
        losses: dict[str, dict[str, list[float]]] = {kind: {} for kind in PRECISIONS}
        for _ in range(options.rounds):
            for name, tree in trees.items():
                encoding[name].append(encode(tree, texts, work, work / f"{name}.npy"))
                print(f"{name:7} encoding {encoding[name][-1]:.2f} CPU-s", flush=True)
                for kind, seconds in training.items():
                    step, losses[kind][name] = train(tree, case, kind, rows, work / f"{name}-{kind}")
                    seconds[name].append(step)
                    print(f"{name:7} a step in {kind} {step:.2f} CPU-s", flush=True)
        vectors = [np.load(work / f"{name}.npy") for name in trees]
    found = {
        "machine": about, "before": options.before, "texts": options.texts, "case": case.name, "rounds": options.rounds,
        "encode_cpu_seconds": {name: min(values) for name, values in encoding.items()},
        "step_cpu_seconds": {kind: {name: min(v) for name, v in of.items()} for kind, of in training.items()},
        "encode_ratio": ratio(encoding),
        "step_ratio": {kind: ratio(of) for kind, of in training.items()},
        "least_cosine": float((vectors[0] * vectors[1]).sum(1).min()),
        "losses": losses,
    }  # fmt: skip
    with atomic_file(options.out) as file:
        file.write(json.dumps(found, indent=1) + "\n")
    steps = ", ".join(f"training in {kind} {value:.2f}" for kind, value in found["step_ratio"].items())
    print(f"speed now, before = 1: encoding {found['encode_ratio']:.2f}, {steps}; cosine {found['least_cosine']:.7f}")


def ratio(seconds: dict[str, list[float]]) -> float:
    """How many times as fast now as before."""
    return round(min(seconds["before"]) / min(seconds["now"]), 2)


if __name__ == "__main__":
    main()
