"""The memory of a step far larger than the machine: a BERT-base-shaped model (as bge-base), batch 512.

    python benchmarks/train_memory.py                    # bounded by what the machine or its container leaves
    python benchmarks/train_memory.py --memory-mb 6000   # bounded by train.memory_mb

Trains one step on 512 queries and 512 distinct passages of lognormal lengths, up to 512 tokens, and writes what the
process took at most, which share of the graphs it kept, and what it was allowed, to
benchmarks/results/train_memory.json. To see that a limit holds, run it in a control group (or container) that has
one: its processes are killed where they take more.
"""

import argparse
import json
import tempfile
from pathlib import Path

from train_throughput import HERE, SYSTEMS, Case, default_data, machine, prepared, train

from embedfit.numerics.machine import memory_limit

CASE = Case("bert-base", "lognormal", batch=512, steps=1, passage_tokens=512)


def main() -> None:
    """Train one step, print and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-mb", type=int, default=0, help="train.memory_mb; 0: from what the machine has")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train_memory.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        measured_on = machine()
        base, path, tokens = prepared(CASE, options.data, work)
        allowed = memory_limit() >> 20
        print(f"one step of {CASE.batch} rows of {tokens:.0f} tokens, {allowed:,} MB allowed", flush=True)
        found = train(SYSTEMS[0], CASE, base, path, work, work, memory_mb=options.memory_mb)
    report = {
        "machine": measured_on,
        "case": CASE.__dict__,
        "tokens_per_row": tokens,
        "allowed_mb": allowed,
        "memory_mb": options.memory_mb,
        **{key: found[key] for key in ("peak_mb", "retained_share", "seconds", "losses", "encoded_tokens")},
    }
    print(f"at most {found['peak_mb']:,} MB, {found['retained_share']:.0%} of the graphs kept")
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
