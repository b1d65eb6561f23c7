"""The ONNX Runtime engine: for CPUs without OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedfit.models.graphs.encoder import onnx_session
from embedfit.models.layout.modules import Head
from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.engine import PaddedRows


class OnnxEngine:
    """A session that computes hidden states; the modules after them are numpy's."""

    name = "onnx"
    device = "cpu"
    streams = 1

    def __init__(self, path: Path, *, head: Head, precision: str, threads: int) -> None:
        self.precision = precision
        self._head = head
        self._session = onnx_session(path, threads)
        self._output = [self._session.get_outputs()[0].name]
        self._inputs = {port.name for port in self._session.get_inputs()}

    def pooled(self, batch: PaddedRows, stream: int) -> Vectors:
        """Vectors as the folder's modules give them: (B, D)."""
        return self._head.vectors_of_arrays(self.token_states(batch, stream), batch.mask, batch.skip)

    def token_states(self, batch: PaddedRows, stream: int) -> Vectors:
        """Hidden states of the last layer: (B, L, H)."""
        feed = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": np.zeros_like(batch.ids)}
        found = self._session.run(self._output, {name: value for name, value in feed.items() if name in self._inputs})
        result: Vectors = found[0]
        return result
