"""How fast training/trunks/bert.py trains, beside transformers' own model: whole steps of one training, by turns.

    python benchmarks/train_trunks.py        # about 5 minutes; writes benchmarks/results/train_trunks.json

Both trainings live in one process, with the same rows, batches and seed, and each does a step in turn, so that what
else the machine does meets both alike. Tokens are those that a step encodes, without padding.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from embedfit.training.trunks.trunk import TransformersTrunk
from train_throughput import HERE, SEED, Case, default_data, machine, prepared

from embedfit.config import resolve
from embedfit.models.encoder import load_base
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.progress import Silent
from embedfit.runtime import Runtime
from embedfit.training import stage
from embedfit.training.loop import Trainer
from embedfit.training.processes.world import World

CASES = (
    (Case("minilm", "lyft", batch=8, steps=8), 0.0),
    (Case("minilm", "lognormal", batch=16, steps=8, passage_tokens=512), 0.0),
    (Case("minilm", "lognormal", batch=16, steps=8, passage_tokens=512), 0.1),
)
STEPS = 7  # the first one is not counted
TRUNKS = ("bert.py", "transformers")


def trainer(name: str, workspace: Workspace, base: Path, case: Case, dropout: float) -> Trainer:
    """A training of the stage's with one of the trunks."""
    settings = {
        "batch_size": case.batch, "epochs": 5, "learning_rate": 5e-5, "hard_negatives": 1, "dropout": dropout,
        "query_max_tokens": case.query_tokens, "passage_max_tokens": case.passage_tokens, "loss": "infonce",
        "guide_margin": 0.0,
    }  # fmt: skip
    config = resolve(overrides={"model": str(base), "seed": SEED, "train": settings})
    encoder = load_base(config.model, precision="fp32")
    trunk = stage.make_trunk(encoder)
    if name == "transformers":
        trunk = TransformersTrunk(encoder.backbone, head=encoder.head, precision=encoder.precision)
    encoder.backbone = torch.nn.Identity()
    data = stage._training_data(workspace, encoder, config.train, Silent())
    return stage._trainer(workspace, config, encoder, trunk, data, None, Runtime(report=Silent()), World())


def measure(case: Case, dropout: float) -> dict[str, Any]:
    """Tokens a second and a CPU-second of each counted step."""
    found: dict[str, dict[str, Any]] = {name: {"tokens_per_s": [], "tokens_per_cpu_s": []} for name in TRUNKS}
    with tempfile.TemporaryDirectory() as work, stage._process_settings(World()):
        base, rows, _ = prepared(case, default_data(), Path(work))
        workspace = Workspace(Path(work) / "run")
        workspace.root.mkdir()
        shutil.copyfile(rows, workspace.path("train.jsonl"))
        workspace.write(Passage, [])
        workspace.write(Query, [])
        trainers = {name: trainer(name, workspace, base, case, dropout) for name in TRUNKS}
        for step in range(STEPS):
            for name in TRUNKS if step % 2 else TRUNKS[::-1]:
                batch, began = trainers[name].schedule.batch(step), time.process_time()
                record = trainers[name]._step(batch)
                if step:
                    found[name]["tokens_per_s"].append(round(record.tokens / record.seconds))
                    found[name]["tokens_per_cpu_s"].append(round(record.tokens / (time.process_time() - began)))
                print(step, name, round(record.tokens / record.seconds), f"loss {record.loss:.4f}", flush=True)
        for name, one in trainers.items():
            found[name]["kept_bytes_a_token"] = round(one.memory.bytes_per_token)
    ratios = {
        f"ratio_of_{kind}": statistics.median(
            a / b for a, b in zip(found["bert.py"][kind], found["transformers"][kind], strict=True)
        )
        for kind in ("tokens_per_s", "tokens_per_cpu_s")
    }
    print(ratios, flush=True)
    return {"case": {"name": case.name, "batch": case.batch, "dropout": dropout}, **ratios, "steps": found}


if __name__ == "__main__":
    report = {"machine": machine(), "cases": [measure(*case) for case in CASES]}
    (HERE / "results" / "train_trunks.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
