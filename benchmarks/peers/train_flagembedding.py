"""Train with FlagEmbedding's own runner, in its environment: SPEC RESULT.

train_throughput.py and recipe_vs_peers.py run it.
"""

import json
import resource
import sys
import time
from pathlib import Path

from FlagEmbedding.finetune.embedder.encoder_only.base import (
    EncoderOnlyEmbedderDataArguments,
    EncoderOnlyEmbedderModelArguments,
    EncoderOnlyEmbedderRunner,
    EncoderOnlyEmbedderTrainingArguments,
)
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
    runner = EncoderOnlyEmbedderRunner(
        model_args=EncoderOnlyEmbedderModelArguments(model_name_or_path=spec["model"]),
        data_args=EncoderOnlyEmbedderDataArguments(
            train_data=[spec["rows"]],
            train_group_size=spec["group"],
            query_max_len=spec["query_tokens"],
            passage_max_len=spec["passage_tokens"],
        ),
        training_args=EncoderOnlyEmbedderTrainingArguments(
            output_dir=spec["out"],
            overwrite_output_dir=True,
            max_steps=spec["steps"],
            per_device_train_batch_size=spec["batch"],
            learning_rate=spec["learning_rate"],
            warmup_ratio=0.1,
            temperature=spec["temperature"],
            sentence_pooling_method=spec["pooling"],
            normalize_embeddings=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            seed=spec["seed"],
            use_cpu=spec["device"] == "cpu",
            bf16=spec["bf16"] if best else False,
            fp16=not best and spec["device"] != "cpu",
            dataloader_num_workers=1 if best else 0,
            dataloader_drop_last=spec.get("drop_last", False),
        ),
    )
    clock = Clock()
    runner.trainer.add_callback(clock)
    runner.run()
    result = {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "losses": clock.losses,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    Path(result_path).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
