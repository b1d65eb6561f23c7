"""Which library multiplies fp32 matrices the fastest on this processor: MKL, oneDNN or OpenBLAS.

    python benchmarks/matrix_products.py      # a minute; writes benchmarks/results/matrix_products.json

torch's `linear` calls MKL in fp32; torch has oneDNN beside it (`mkldnn._linear_pointwise`); numpy calls OpenBLAS. Each
library runs in a process of its own, once with the processor's own instructions and once held to AVX2, as on an older
machine. The processes take turns three times, and the best round counts. Shapes are those of one batch of 1,024 tokens
through MiniLM (384 wide) and through a base model (768 wide): rows × inner × columns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from train_throughput import machine

from embedfit.files.atomic import atomic_file
from embedfit.numerics.machine import cores, rates

OUT = Path(__file__).parent / "results" / "matrix_products.json"
SHAPES = (
    (1024, 384, 384),
    (1024, 384, 1536),
    (1024, 1536, 384),
    (1024, 768, 768),
    (1024, 768, 3072),
    (384, 1024, 1536),
)
LIBRARIES = ("MKL", "oneDNN", "OpenBLAS")
#: What holds each library to AVX2.
AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
INSTRUCTIONS: dict[str, dict[str, str]] = {"its own": {}, "AVX2": AVX2}
ROUNDS = 3


def product(library: str, shape: tuple[int, int, int]) -> Callable[[], object]:
    """The product x·Wᵀ of a shape. Operands are random, so that no zero makes it cheap."""
    rows, inner, columns = shape
    if library == "OpenBLAS":
        import numpy as np

        rng = np.random.default_rng(0)
        x, w = (rng.standard_normal(size, np.float32) for size in ((rows, inner), (columns, inner)))
        return partial(np.matmul, x, w.T, out=np.empty((rows, columns), np.float32))
    import torch

    torch.set_num_threads(cores())
    x, w = torch.randn(rows, inner), torch.randn(columns, inner)
    if library == "MKL":
        return partial(torch.nn.functional.linear, x, w)
    return partial(torch.ops.mkldnn._linear_pointwise, x, w, None, "none", [], "")


def measured(library: str) -> dict[str, float]:
    """GFLOP/s by shape, here."""
    found = {}
    for shape in SHAPES:
        rows, inner, columns = shape
        rate = rates({library: product(library, shape)}, 2.0 * rows * inner * columns, rounds=40)[library]
        found[" × ".join(map(str, shape))] = round(rate / 1e9, 1)
    return found


def main() -> None:
    """Measure all and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.library:
        print(json.dumps(measured(options.library)))
        return
    threads = {"OPENBLAS_NUM_THREADS": str(cores()), "OMP_NUM_THREADS": str(cores())}
    best: dict[str, dict[str, dict[str, float]]] = {kind: {one: {} for one in LIBRARIES} for kind in INSTRUCTIONS}
    for _ in range(ROUNDS):
        for kind, environment in INSTRUCTIONS.items():
            for library in LIBRARIES:
                command = [sys.executable, __file__, "--library", library]
                done = subprocess.run(
                    command, env=os.environ | threads | environment, stdout=subprocess.PIPE, text=True, check=True
                )
                rows = best[kind][library]
                rows |= {shape: max(rate, rows.get(shape, 0.0)) for shape, rate in json.loads(done.stdout).items()}
    report: dict[str, Any] = {"machine": machine(), "unit": "GFLOP/s", "rates": best}
    report["times_mkl"] = {
        kind: {
            library: {shape: round(rate / of["MKL"][shape], 2) for shape, rate in of[library].items()}
            for library in LIBRARIES[1:]
        }
        for kind, of in best.items()
    }
    with atomic_file(options.out) as file:
        file.write(json.dumps(report, indent=1) + "\n")
    for kind, of in best.items():
        print(f"\n{kind} instructions, GFLOP/s ({cores()} cores)\n")
        print("| " + " | ".join(["shape", *LIBRARIES]) + " |\n" + "|---" * (len(LIBRARIES) + 1) + "|")
        for shape in of["MKL"]:
            print("| " + " | ".join([shape, *(f"{of[library][shape]:.0f}" for library in LIBRARIES)]) + " |")


if __name__ == "__main__":
    main()
