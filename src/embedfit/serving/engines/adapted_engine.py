"""One of several adapters over a base that they share, as an engine."""

from __future__ import annotations

from embedfit.models.layout.adapters import Adapters
from embedfit.models.layout.modules import Head
from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.engine import PaddedRows
from embedfit.serving.engines.torch_engine import TorchEngine


class AdaptedEngine:
    """The base's engine with one adapter, or with none. A batch has one of them, and batches take turns."""

    name = "torch"
    streams = 1

    def __init__(self, base: TorchEngine, adapters: Adapters, adapter: str | None, head: Head | None = None) -> None:
        """adapter: its name in `adapters`; None: the base. head: the modules behind it; None: the base's."""
        self.base = base if head is None else base.with_head(head)
        self.precision, self.device = base.precision, base.device
        self._adapters, self._adapter = adapters, adapter

    def pooled(self, batch: PaddedRows, stream: int) -> Vectors:
        """Vectors as the folder's modules give them: (B, D)."""
        with self._adapters.running(self._adapter):
            return self.base.pooled(batch, stream)

    def token_states(self, batch: PaddedRows, stream: int) -> Vectors:
        """Hidden states of the last layer: (B, L, H)."""
        with self._adapters.running(self._adapter):
            return self.base.token_states(batch, stream)
