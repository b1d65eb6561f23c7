"""How fast passages are encoded: torch, OpenVINO and ONNX Runtime, and what thread settings and batch sizes do.

    python benchmarks/encoding.py --quick      # MiniLM, 128 passages, about two minutes
    python benchmarks/encoding.py              # MiniLM and mpnet, 512 passages; writes benchmarks/results/encoding.json

Each case runs in a process of its own, because OpenMP reads its settings once. The passages are those of emanual, in
fp32; every engine's vectors are compared with torch's. On a busy machine look at texts per second of processor time.
The first case is what the stages do; "batches of 16,384 tokens" is what they did before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedfit.models.encoder import Encoder
from embedfit.models.graphs.cache import cached_graph
from embedfit.models.layout.modules import Head
from embedfit.models.layout.prompts import open_model
from embedfit.models.text_model import encoding_batches
from embedfit.models.tokenizer import open_tokenizer
from embedfit.numerics.arrays import Vectors
from embedfit.numerics.batching import batches_by_length
from embedfit.numerics.machine import cores
from embedfit.serving.engines.engine import batch_of

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("EMBEDFIT_DATA") or HERE.parents[1] / "shared" / "data")
#: Before each case is measured: so many texts, which set up kernels.
WARM_UP = 8

#: Rows of token ids → vectors.
Encode = Callable[[list[list[int]]], Vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to encode. budget: padded tokens of a batch; 0: what the stages take. wait: OMP_WAIT_POLICY."""

    name: str
    engine: str = "torch"
    budget: int = 0
    wait: str | None = "passive"


CASES = (
    Case(name="torch, as the stages"),
    Case(name="torch, batches of 16,384 tokens", budget=16_384),
    Case(name="torch, threads that spin", wait=None),
    Case(name="OpenVINO", engine="openvino"),
    Case(name="ONNX Runtime", engine="onnx"),
)


def passages(count: int) -> list[str]:
    """Passages of emanual, long and short, always the same."""
    lines = (DATA / "emanual" / "corpus.jsonl").read_text("utf-8").splitlines()
    texts = [f"{row.get('title') or ''} {row['text']}".strip() for row in map(json.loads, lines)]
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[index] for index in order[:count]]


def opened(model: str, engine: str) -> Encode:
    """The engine with the model. A graph that has to be made first is not in any time."""
    folder, layout = open_model(model)
    if engine == "torch":
        encoder = Encoder.load(folder, layout=layout)

        @torch.inference_mode()
        def forward(rows: list[list[int]]) -> Vectors:
            return encoder.pooled(encoder.run(rows), 0)

        return forward
    head, graph = Head.load(folder, layout), cached_graph(folder, engine)
    if engine == "onnx":
        from embedfit.serving.engines.onnx_engine import OnnxEngine

        onnx = OnnxEngine(graph, head=head, precision="fp32", threads=cores())
        return lambda rows: onnx.pooled(batch_of(rows, 0), 0)
    from embedfit.serving.engines.openvino_engine import OpenVinoEngine

    openvino = OpenVinoEngine.load(graph, head=head, precision="fp32", threads=cores(), streams=1)
    return lambda rows: openvino.pooled(batch_of(rows, 0), 0)


def measured(case: Case, model: str, count: int, rounds: int, output: Path) -> dict[str, float]:
    """In the case's own process: the best of some rounds. output: gets the unit vectors."""
    folder, layout = open_model(model)
    rows = open_tokenizer(folder, layout).token_ids(passages(count), layout.max_tokens)
    lengths = [len(row) for row in rows]
    encode = opened(model, case.engine)
    encode(rows[:WARM_UP])
    batches = list(batches_by_length(lengths, case.budget) if case.budget else encoding_batches(lengths))
    vectors = np.zeros((len(rows), layout.width), np.float32)
    walls, cpus = [], []
    for _ in range(rounds):
        start, before = time.perf_counter(), time.process_time()
        for batch in batches:
            vectors[batch] = encode([rows[index] for index in batch])
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - before)
    np.save(output, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return {
        "texts_per_s": round(count / min(walls), 1),
        "texts_per_cpu_s": round(count / min(cpus), 1),
        "tokens_per_cpu_s": round(sum(lengths) / min(cpus)),
        "padding": round(sum(len(batch) * lengths[batch[0]] for batch in batches) / sum(lengths) - 1, 3),
    }


def run(case: Case, model: str, options: argparse.Namespace, work: Path) -> tuple[dict[str, Any], Vectors]:
    """A case in a process of its own: its figures and its vectors."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if case.wait is None else {"OMP_WAIT_POLICY": case.wait}
    output = work / "vectors.npy"
    words = [sys.executable, __file__, "--case", case.name, "--model", model, "--vectors", str(output)]
    words += ["--count", str(options.count), "--rounds", str(options.rounds)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"unavailable": (done.stderr.strip().splitlines() or ["no message"])[-1]}, np.zeros((0, 0), np.float32)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures, np.load(output)


def compared(model: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every case of a model beside the first."""
    found: dict[str, Any] = {}
    first: dict[str, Any] = {}
    expected = np.zeros((0, 0), np.float32)
    for case in CASES:
        figures, vectors = run(case, model, options, work)
        if "unavailable" not in figures:
            first, expected = (first, expected) if first else (figures, vectors)
            figures["times_the_first"] = round(figures["texts_per_s"] / first["texts_per_s"], 2)
            figures["times_the_first_by_cpu"] = round(figures["texts_per_cpu_s"] / first["texts_per_cpu_s"], 2)
            figures["largest_difference"] = float(f"{np.abs(vectors - expected).max():.1e}")
            same = (vectors @ vectors.T).argsort()[:, -11:] == (expected @ expected.T).argsort()[:, -11:]
            figures["equal_ten_nearest"] = round(float(same.all(1).mean()), 4)
        found[case.name] = {**asdict(case), **figures}
        print(f"{model:8} {case.name:34}", json.dumps(figures), flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="MiniLM alone, fewer passages")
    parser.add_argument("--count", type=int, default=0, help="passages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/encoding[_quick].json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", help="measure this model alone")
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.count = options.count or (128 if options.quick else 512)
    if options.case:
        case = next(one for one in CASES if one.name == options.case)
        print(json.dumps(measured(case, options.model, options.count, options.rounds, options.vectors)))
        return
    from train_throughput import machine  # loads torch, which a case's process does later

    report: dict[str, Any] = {"machine": machine(), "passages": options.count, "models": {}}
    models = [options.model] if options.model else ["minilm"] if options.quick else ["minilm", "mpnet"]
    out = options.out or HERE / "results" / f"encoding{'_quick' if options.quick else ''}.json"
    with tempfile.TemporaryDirectory() as work:
        for model in models:
            report["models"][model] = compared(model, options, Path(work))
            out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
