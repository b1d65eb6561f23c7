"""The OpenVINO engine: the fastest on CPUs of the x86 and Arm kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import openvino as _openvino
import openvino.opset13 as _ops

from embedfit.models.architecture import PoolingMode
from embedfit.models.graphs.encoder import openvino_compiled
from embedfit.models.layout.modules import Head, pool_nodes
from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.engine import PaddedRows

#: An object of OpenVINO's. The package fills its modules at run time, so a type checker knows no type of it.
Untyped: TypeAlias = Any
openvino: Untyped = _openvino
ops: Untyped = _ops

#: Activations are quantised at run time, in groups of so many numbers. This size is the fastest that divides embedding
#: models' widths; its vectors' cosine with fp32 is about .999.
_ACTIVATION_GROUP = 128
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def with_pooling(graph: Untyped, mode: PoolingMode) -> bool:
    """Give the graph a second output: hidden states (B, L, H) first, then pooled vectors (B, H).

    Returns False, and leaves the graph as it is, for a pooling that has no such form.
    """
    hidden = graph.outputs[0].get_node().input_value(0)
    pooled = pool_nodes(ops, hidden, graph.input("attention_mask"), mode)
    if pooled is None:
        return False
    graph.add_outputs([pooled.output(0)])
    return True


def with_int8_weights(graph: Untyped) -> Untyped:
    """The graph with the weights of matrix products as 8-bit integers, a scale and a zero point a row.

    OpenVINO then quantises the activations too, at run time, and multiplies integers.
    """
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        attributes = node.get_attributes()
        weight = node.input_value(1).get_node().get_data()
        if weight.ndim != 2:
            continue
        rows = weight if attributes["transpose_b"] else weight.T
        quantised, zero, scale = _quantised_rows(rows)
        shifted = ops.subtract(ops.convert(ops.constant(quantised), "f32"), ops.convert(ops.constant(zero), "f32"))
        restored = ops.multiply(shifted, ops.constant(scale))
        product = ops.matmul(node.input_value(0), restored, attributes["transpose_a"], True)
        node.output(0).replace(product.output(0))
    return graph


def _quantised_rows(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Vectors]:
    """Asymmetric 8-bit rows with scale · (q - zero) ≈ weight. weight: (O, I); zero, scale: (O, 1)."""
    low = np.minimum(weight.min(1, keepdims=True), 0)
    high = np.maximum(weight.max(1, keepdims=True), 0)
    scale = np.maximum((high - low) / 255, np.float32(1e-12)).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    quantised = np.clip(np.rint(weight / scale) + zero, 0, 255)
    return quantised.astype(np.uint8), zero.astype(np.uint8), scale


def is_bf16_supported() -> bool:
    """Whether the CPU multiplies bf16; whether that is faster must be measured."""
    capabilities: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


class OpenVinoEngine:
    """A graph compiled for the CPU, run on a fixed number of streams."""

    name = "openvino"
    device = "cpu"

    def __init__(self, graph: Untyped, *, head: Head, precision: str, threads: int, streams: int) -> None:
        self.precision = precision
        self.streams = streams
        if precision == "int8":
            graph = with_int8_weights(graph)
        self._head = head
        modes = head.pooling.modes
        self._pools = len(modes) == 1 and with_pooling(graph, modes[0])
        compiled = openvino_compiled(
            graph,
            DYNAMIC_QUANTIZATION_GROUP_SIZE=_ACTIVATION_GROUP if precision == "int8" else 0,
            INFERENCE_PRECISION_HINT=_HINTS[precision],
            NUM_STREAMS=streams,
            INFERENCE_NUM_THREADS=threads,
        )
        self._takes_token_types = any("token_type_ids" in port.get_names() for port in compiled.inputs)
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    @classmethod
    def load(cls, path: Path, *, head: Head, precision: str, threads: int, streams: int) -> OpenVinoEngine:
        """Read model.xml (its model.bin beside it)."""
        graph = openvino.Core().read_model(path)
        for result in graph.get_results()[1:]:  # states that late interaction alone reads
            graph.remove_result(result)
        return cls(graph, head=head, precision=precision, threads=threads, streams=streams)

    def pooled(self, batch: PaddedRows, stream: int) -> Vectors:
        """Vectors as the folder's modules give them: (B, D)."""
        if self._pools and batch.skip is None:
            return self._head.finish_arrays(self._run(batch, stream, 1))
        return self._head.vectors_of_arrays(self._run(batch, stream, 0), batch.mask, batch.skip)

    def token_states(self, batch: PaddedRows, stream: int) -> Vectors:
        """Hidden states of the last layer: (B, L, H)."""
        return self._run(batch, stream, 0)

    def _run(self, batch: PaddedRows, stream: int, output: int) -> Vectors:
        request = self._requests[stream]
        feed = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if self._takes_token_types:
            feed["token_type_ids"] = np.zeros_like(batch.ids)
        request.infer(feed, share_inputs=True, share_outputs=True)
        # A copy, because the next batch overwrites the tensor's memory.
        result: Vectors = request.get_output_tensor(output).data.astype(np.float32, copy=True)
        return result
