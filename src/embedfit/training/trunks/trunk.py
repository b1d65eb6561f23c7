"""Tokens to vectors with gradients: what a step needs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from embedfit.models.encoder import autocast
from embedfit.models.layout.modules import Head
from embedfit.numerics import arrays
from embedfit.numerics.batching import pad
from embedfit.numerics.machine import Precision

#: Token ids of some texts.
Tokens = Sequence[arrays.Tokens]


class Trunk(Protocol):
    """A transformer that trains."""

    @property
    def width(self) -> int:
        """H, of its vectors."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights in fp32, by name, always in the same order."""

    def prepare(self, texts: Tokens) -> None:
        """Called once a step, before the first forward, with all its texts."""

    def forward(self, texts: Tokens) -> Tensor:
        """Unit vectors (n, H) in fp32 of texts of similar lengths."""

    def finish(self) -> None:
        """Called after the last backward: afterwards every parameter has its gradient."""

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names that a model folder holds them."""

    def train(self, dropout: float) -> None:
        """Set the probability of dropout; 0 for evaluation."""


class TransformersTrunk:
    """Any encoder that transformers builds, as it is or by torch.compile. Dense layers after it stay as they are."""

    def __init__(self, backbone: torch.nn.Module, *, head: Head, precision: Precision, compiled: bool = False) -> None:
        self._backbone = backbone
        self._call: Any = torch.compile(backbone, dynamic=True) if compiled else backbone
        self._head = head
        self._precision = precision
        config: Any = backbone.config
        pad_id = getattr(config, "pad_token_id", None)
        self._pad_id = pad_id if isinstance(pad_id, int) else 0
        self._width = int(config.hidden_size)
        self._device = next(backbone.parameters()).device
        # A pooler that the vectors don't pass through has no gradient.
        self._named = {name: weight for name, weight in backbone.named_parameters() if not name.startswith("pooler.")}

    @property
    def width(self) -> int:
        """See Trunk."""
        return self._width

    @property
    def device(self) -> torch.device:
        """See Trunk."""
        return self._device

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """See Trunk."""
        return self._named

    def prepare(self, texts: Tokens) -> None:
        """See Trunk."""

    def forward(self, texts: Tokens) -> Tensor:
        """See Trunk."""
        ids, mask = (torch.from_numpy(part).to(self._device) for part in pad(texts, self._pad_id))
        with autocast(self._precision, self._device):
            hidden = self._call(input_ids=ids, attention_mask=mask).last_hidden_state
        return torch.nn.functional.normalize(self._head.vectors(hidden.float(), mask), dim=-1)

    def finish(self) -> None:
        """See Trunk."""

    def tensors(self) -> dict[str, Tensor]:
        """See Trunk."""
        return {name: tensor.detach() for name, tensor in self._backbone.state_dict().items()}

    def train(self, dropout: float) -> None:
        """See Trunk."""
        self._backbone.train(dropout > 0)
        for module in self._backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
            if isinstance(getattr(module, "dropout_prob", None), float):
                setattr(module, "dropout_prob", dropout)  # noqa: B010 - of some attention modules, not of Module
