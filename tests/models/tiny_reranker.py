"""A cross-encoder small enough to be made in a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def make_tiny_reranker(encoder: Path, folder: Path) -> Path:
    """The transformer of a BERT folder with a random pooler and a head of one output."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(encoder / name, folder / name)
    path = folder / "tokenizer_config.json"
    inputs = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's tokenizers give them
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": inputs}))
    config = json.loads((encoder / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"},
               "label2id": {"LABEL_0": 0}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    size = config["hidden_size"]
    generator = torch.Generator().manual_seed(0)
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(encoder / "model.safetensors").items()}
    tensors |= {
        "bert.pooler.dense.weight": torch.randn(size, size, generator=generator) / size**0.5,
        "bert.pooler.dense.bias": torch.zeros(size),
        "classifier.weight": torch.randn(1, size, generator=generator),
        "classifier.bias": torch.zeros(1),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
