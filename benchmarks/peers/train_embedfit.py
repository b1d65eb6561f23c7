"""Train with embedfit's stage. Run by train_throughput.py: SPEC RESULT."""

import itertools
import json
import resource
import shutil
import sys
import time
from pathlib import Path

from embedfit.config import resolve
from embedfit.path.artefacts import Passage, Query, TrainingStep
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from embedfit.training.batches import TrainingBatch
from embedfit.training.loop import Trainer
from embedfit.training.stage import run


def main(spec_path: str, result_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text("utf-8"))
    workspace = Workspace(Path(spec["out"]))
    workspace.root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(spec["rows"], workspace.path("train.jsonl"))
    workspace.write(Passage, [])  # no dev set: the peers have none
    workspace.write(Query, [])
    rows = sum(1 for _ in Path(spec["rows"]).open(encoding="utf-8"))
    per_epoch = -(-rows // spec["batch"])
    settings = {
        "loss": "infonce",  # as the peers
        "batch_size": spec["batch"],
        "epochs": spec["steps"] / per_epoch,
        "learning_rate": spec["learning_rate"],
        "temperature": spec["temperature"],
        "hard_negatives": spec["group"] - 1,
        "query_max_tokens": spec["query_tokens"],
        "passage_max_tokens": spec["passage_tokens"],
        "dropout": spec.get("dropout", 0.0),
        "weight_decay": 0.0,
        "memory_mb": spec.get("memory_mb", 0),
        "checkpoint_every": 1_000_000,
    }
    cpu = [time.process_time()]
    step = Trainer.step

    def timed(trainer: Trainer, batch: TrainingBatch) -> TrainingStep:
        record = step(trainer, batch)
        cpu.append(time.process_time())
        return record

    Trainer.step = timed  # type: ignore[method-assign]
    config = resolve(overrides={"model": spec["model"], "train": settings, "seed": spec["seed"]})
    run(workspace, config, Runtime(report=LogLines()))
    folder = workspace.path("finetuned")
    records = [json.loads(line) for line in (folder / "losses.jsonl").read_text("utf-8").splitlines()]
    training = json.loads((folder / "training.json").read_text("utf-8"))
    for path in folder.iterdir():
        if path.is_file():
            shutil.copyfile(path, workspace.path(path.name))
    result = {
        "seconds": [record["seconds"] for record in records],
        "cpu_seconds": [after - before for before, after in itertools.pairwise(cpu)],
        "losses": [record["loss"] for record in records],
        "encoded_tokens": [record["tokens"] for record in records],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        **{key: training[key] for key in ("precision", "padding_share", "retained_share", "threads")},
    }
    Path(result_path).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
