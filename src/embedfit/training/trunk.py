"""Tokens to vectors with gradients, for a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from embedfit.errors import TrainingError
from embedfit.models.encoder import Encoder, autocast
from embedfit.numerics.arrays import Tokens
from embedfit.numerics.batching import pad


class Trunk:
    """Any encoder that transformers builds, plain or compiled by torch.compile. Dense layers after it stay as they are.

    A BERT whose arithmetic was written out by hand was 0.8 to 1.0 times as fast in whole steps in fp32, 1.1 to 1.3
    times in bf16 (benchmarks/results/train_trunks.json). That was too little for what it cost to keep.
    """

    def __init__(self, encoder: Encoder, *, compiled: bool = False) -> None:
        """Take over the encoder's transformer. Raises TrainingError for a model that can't be trained here yet."""
        _check_trainable(encoder)
        self._head, self._precision, self._pad_id = encoder.head, encoder.precision, encoder.pad_id
        self._backbone = encoder.backbone
        encoder.backbone = torch.nn.Identity()  # the trunk holds the weights now, so the encoder drops its copy
        self._call: Callable[..., BaseModelOutput] = (
            torch.compile(self._backbone, dynamic=True) if compiled else self._backbone
        )
        self.device = next(self._backbone.parameters()).device
        self.width = encoder.layout.width

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights in fp32, by name, always in the same order."""
        return {name: weight for name, weight in self._backbone.named_parameters() if not name.startswith("pooler.")}

    def forward(self, texts: Sequence[Tokens]) -> Tensor:
        """Unit vectors (n, D) in fp32 of texts of similar lengths."""
        ids, mask = (torch.from_numpy(part).to(self.device) for part in pad(texts, self._pad_id))
        with autocast(self._precision, self.device):
            hidden = self._call(input_ids=ids, attention_mask=mask).last_hidden_state
        assert hidden is not None  # for the type checker
        return torch.nn.functional.normalize(self._head.vectors(hidden.float(), mask), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names that a model folder holds them."""
        return {name: tensor.detach() for name, tensor in self._backbone.state_dict().items()}

    def train(self, dropout: float) -> None:
        """Set the probability of dropout; 0 for evaluation."""
        self._backbone.train(dropout > 0)
        for module in self._backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
            if isinstance(getattr(module, "dropout_prob", None), float):
                setattr(module, "dropout_prob", dropout)  # noqa: B010 - of some attention modules, not of Module


def _check_trainable(encoder: Encoder) -> None:
    """Raise TrainingError for a model that encodes, but can't be trained here yet."""
    layout, folder = encoder.layout, encoder.folder
    if layout.model_type == "static":
        why = "is a table of static embeddings"
    elif layout.queries is not None:
        why = "has a tower for queries and one for passages"
    elif not layout.pooling.include_prompt and (layout.query_instruction or layout.document_instruction):
        why = "leaves its prompt out of the pooling (include_prompt: false)"
    elif layout.dimensions is not None:
        why = f"cuts its vectors to {layout.dimensions} numbers (truncate_dim)"
    else:
        return
    raise TrainingError(
        f"{folder} {why}; embedfit encodes, searches and serves such a model, but can't train it yet.",
        remedy="Train another model, such as --model minilm, or train this one with sentence-transformers.",
    )
