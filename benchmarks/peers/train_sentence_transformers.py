"""Train with SentenceTransformerTrainer, in its own environment: SPEC RESULT.

train_throughput.py and recipe_vs_peers.py run it.
"""

import json
import resource
import sys
import time
from pathlib import Path

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Seconds of each step and the losses that the trainer logs."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.losses: list[float] = []
        self._began = self._cpu = 0.0

    def on_step_begin(self, *_args: object, **_options: object) -> None:
        """Start the clock where the previous step ended, so that data loading counts."""
        self._began = self._began or time.perf_counter()
        self._cpu = self._cpu or time.process_time()

    def on_step_end(self, *_args: object, **_options: object) -> None:
        """Stop it."""
        now = time.perf_counter()
        self.seconds.append(now - self._began)
        self._began = now
        cpu = time.process_time()
        self.cpu_seconds.append(cpu - self._cpu)
        self._cpu = cpu

    def on_log(
        self, _args: object, _state: object, _control: object, logs: dict[str, float], **_options: object
    ) -> None:
        """Note the loss."""
        if "loss" in logs:
            self.losses.append(logs["loss"])


def main(spec_path: str, result_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text("utf-8"))
    best = spec["best"]
    model = SentenceTransformer(spec["model"], device=spec["device"])
    model.max_seq_length = spec["passage_tokens"]
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text("utf-8").splitlines()]
    columns = {"anchor": [row["query"] for row in rows], "positive": [row["pos"][0] for row in rows]}
    for number in range(spec["group"] - 1):
        columns[f"negative_{number}"] = [row["neg"][number] for row in rows]
    scale = 1 / spec["temperature"]
    if spec["cached"]:
        loss = CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=min(32, spec["batch"]))
    else:
        loss = MultipleNegativesRankingLoss(model, scale=scale)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=spec["out"],
        max_steps=spec["steps"],
        per_device_train_batch_size=spec["batch"],
        learning_rate=spec["learning_rate"],
        warmup_steps=0.1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=spec["seed"],
        use_cpu=spec["device"] == "cpu",
        bf16=spec["bf16"] if best else False,
        fp16=not best and spec["device"] != "cpu",
        dataloader_num_workers=1 if best else 0,
        batch_sampler="no_duplicates" if best else "batch_sampler",
    )
    clock = Clock()
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[clock]
    )
    trainer.train()
    model.save_pretrained(spec["out"])
    result = {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "losses": clock.losses,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    Path(result_path).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
