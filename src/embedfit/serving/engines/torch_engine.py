"""The torch engine, which runs on GPUs and is the fallback on CPUs."""

from __future__ import annotations

from pathlib import Path

import torch

from embedfit.models.architecture import Architecture
from embedfit.models.encoder import autocast, load_backbone
from embedfit.models.layout.modules import Head
from embedfit.numerics.arrays import Vectors
from embedfit.numerics.machine import Precision
from embedfit.serving.engines.engine import PaddedRows


class TorchEngine:
    """The backbone in fp32 or under autocast; one batch at a time."""

    name = "torch"
    streams = 1

    def __init__(self, backbone: torch.nn.Module, *, head: Head, precision: Precision, device: torch.device) -> None:
        self.precision: Precision = precision
        self.device = device.type
        self._device = device
        self._head = head
        self.backbone = backbone.to(device)

    @classmethod
    def load(
        cls, folder: Path, *, layout: Architecture, precision: Precision, threads: int, device: torch.device
    ) -> TorchEngine:
        """Read a model folder. threads: for the CPU; they are set for the whole process."""
        if device.type == "cpu":
            torch.set_num_threads(threads)
        head = Head.load(folder, layout)
        return cls(load_backbone(folder, layout), head=head, precision=precision, device=device)

    def with_head(self, head: Head) -> TorchEngine:
        """The same transformer with other modules after it."""
        return TorchEngine(self.backbone, head=head, precision=self.precision, device=self._device)

    def pooled(self, batch: PaddedRows, stream: int) -> Vectors:
        """Vectors as the folder's modules give them: (B, D)."""
        with torch.inference_mode():
            mask = torch.from_numpy(batch.mask).to(self._device)
            skip = None if batch.skip is None else torch.from_numpy(batch.skip).to(self._device)
            result: Vectors = self._head.vectors(self._hidden(batch, mask), mask, skip).cpu().numpy()
        return result

    def token_states(self, batch: PaddedRows, stream: int) -> Vectors:
        """Hidden states of the last layer: (B, L, H)."""
        with torch.inference_mode():
            result: Vectors = self._hidden(batch, torch.from_numpy(batch.mask).to(self._device)).cpu().numpy()
        return result

    def _hidden(self, batch: PaddedRows, mask: torch.Tensor) -> torch.Tensor:
        with autocast(self.precision, self._device):
            ids = torch.from_numpy(batch.ids).to(self._device)
            hidden: torch.Tensor = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden.float()
