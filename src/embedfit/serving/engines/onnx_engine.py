"""The ONNX Runtime engine: for CPUs without OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as _onnxruntime

from embedfit.models.layout.modules import Head
from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.engine import PaddedRows

onnxruntime: Any = _onnxruntime  # its module exports nothing explicitly


class OnnxEngine:
    """A session that computes hidden states; the modules after them are numpy's."""

    name = "onnx"
    device = "cpu"
    streams = 1

    def __init__(self, path: Path, *, head: Head, precision: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads must not spin while they wait: that would take the cores from the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.precision = precision
        self._head = head
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = {port.name for port in self._session.get_inputs()}

    def pooled(self, batch: PaddedRows, stream: int) -> Vectors:
        """Vectors as the folder's modules give them: (B, D)."""
        return self._head.vectors_of_arrays(self.token_states(batch, stream), batch.mask, batch.skip)

    def token_states(self, batch: PaddedRows, stream: int) -> Vectors:
        """Hidden states of the last layer: (B, L, H)."""
        feed = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": np.zeros_like(batch.ids)}
        found = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        result: Vectors = found[0]
        return result
