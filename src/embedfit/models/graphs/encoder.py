"""A model whose transformer is a graph in ONNX Runtime or OpenVINO: the vectors of the torch encoder, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from embedfit.models.architecture import Architecture
from embedfit.models.graphs.cache import cached_graph, content_key
from embedfit.models.layout.files import pad_id
from embedfit.models.layout.modules import pool_arrays, unit_rows
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import tower_folder
from embedfit.models.text_model import TextModel
from embedfit.models.tokenizer import TextTokenizer, cached_tokenizer
from embedfit.numerics.arrays import Floats, Halves, Ints, Vectors
from embedfit.numerics.batching import pad
from embedfit.numerics.machine import cores
from embedfit.runtime import cache_folder

GraphKind = Literal["onnx", "openvino"]
#: An object of ONNX Runtime's or OpenVINO's, which a type checker knows no types of.
Untyped: TypeAlias = Any

#: Kernels that OpenVINO keeps for shapes seen before. Batches have hundreds of shapes, and with the default of 5,000
#: kernels memory grows by a megabyte a shape; with this number it stays constant, and the speed is the same.
_KERNELS = 128

#: Held while OpenVINO is given an array. The first one in a process makes it load what it needs of NumPy, and two
#: threads whose first arrays meet wait for each other for ever: one for the GIL, one for what is half loaded.
_FIRST_ARRAY = Lock()


@dataclass(frozen=True, slots=True)
class Graph:
    """An opened graph, in fp32.

    run: token ids and masks by the names of its inputs → states (B, L, H) of the last layer, and of the inner layer
    that late interaction reads. has_inner: whether it gives the second.
    """

    run: Callable[[Mapping[str, Ints]], Sequence[Floats]]
    has_inner: bool


class GraphEncoder(TextModel):
    """A tower that a graph runs."""

    def __init__(
        self, folder: Path, *, layout: Architecture, tokenizer: TextTokenizer, graph: Graph, pad_id: int
    ) -> None:
        super().__init__(folder, layout=layout, tokenizer=tokenizer)
        self.graph = graph
        self._pad_id = pad_id

    @classmethod
    def load(cls, folder: Path, kind: GraphKind, *, layout: Architecture, is_query: bool) -> GraphEncoder:
        """Open a tower's graph and tokenizer, which another process makes first if the cache does not have them.

        folder: of the model, which may have two towers. layout: the tower's. Raises ModelError for a model that has no
        right graph.
        """
        plain = tower_folder(folder, is_query=is_query)
        own = read_architecture(plain)
        path = cached_graph(plain, kind)
        tokenizer = cached_tokenizer(plain, own, cache_folder() / "tokenizers" / f"{content_key(plain)}.json")
        graph = onnx_graph(path) if kind == "onnx" else openvino_graph(path)
        return cls(folder, layout=layout, tokenizer=tokenizer, graph=graph, pad_id=pad_id(plain, own))

    def beside(self, layout: Architecture) -> GraphEncoder:
        """The model's other tower, which has the same transformer."""
        return GraphEncoder(
            self.folder, layout=layout, tokenizer=self.text_tokenizer, graph=self.graph, pad_id=self._pad_id
        )

    def forward(self, rows: list[list[int]], skip: int) -> Vectors:
        """As in TextModel."""
        pooling = self.layout.pooling
        pooled = np.zeros((len(rows), self.layout.hidden_size * len(pooling.modes)), np.float32)
        filled = [index for index, row in enumerate(rows) if row]
        if filled:
            (last, *_), mask = self._states([rows[index] for index in filled])
            pooled[filled] = pool_arrays(last, mask, pooling, _skips(skip, mask))
        return self.head.finish_arrays(pooled)

    def states_of(self, rows: list[Sequence[int]], skip: int | None) -> tuple[Vectors | None, list[Halves]]:
        """As in TextModel. The graph must have the states of the inner layer."""
        (last, inner), mask = self._states(rows)
        both = np.concatenate([unit_rows(inner), unit_rows(last)], -1) / np.float32(2**0.5)
        tokens = [vectors[: len(row)] for vectors, row in zip(both.astype(np.float16), rows, strict=True)]
        return None if skip is None else self.head.vectors_of_arrays(last, mask, _skips(skip, mask)), tokens

    def _states(self, rows: Sequence[Sequence[int]]) -> tuple[Sequence[Floats], Ints]:
        ids, mask = pad(rows, self._pad_id)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return self.graph.run(feed), mask


def _skips(skip: int, mask: Ints) -> Ints | None:
    return np.full(len(mask), skip, np.int64) if skip else None


#: ONNX Runtime's sessions in use, by file and threads. A server's engine and its search share one, which threads may
#: run at the same time.
_SESSIONS: WeakValueDictionary[tuple[object, ...], Untyped] = WeakValueDictionary()


def onnx_session(graph: Path, threads: int) -> Untyped:
    """An ONNX Runtime session on the CPU."""
    import onnxruntime as _onnxruntime  # an optional dependency

    status = graph.stat()
    key = (graph.absolute(), status.st_ino, status.st_size, status.st_mtime_ns, threads)
    if (shared := _SESSIONS.get(key)) is not None:
        return shared
    onnxruntime: Untyped = _onnxruntime  # its module exports nothing explicitly
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads must not spin while they wait: that would take the cores from a server's event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    _SESSIONS[key] = session
    return session


def onnx_graph(path: Path) -> Graph:
    """A file in ONNX Runtime."""
    session = onnx_session(path, cores())
    taken = [port.name for port in session.get_inputs()]

    def run(feed: Mapping[str, Ints]) -> Sequence[Floats]:
        found: Sequence[Floats] = session.run(None, {name: feed[name] for name in taken})
        return found

    return Graph(run, has_inner=len(session.get_outputs()) > 1)


def openvino_compiled(graph: Untyped, **properties: object) -> Untyped:
    """A graph compiled for the CPU. properties: OpenVINO's."""
    import openvino as _openvino  # an optional dependency

    openvino: Untyped = _openvino  # the package fills its modules at run time
    with _FIRST_ARRAY:
        openvino.Tensor(np.zeros(1, np.float32))
    # An event loop shares the cores; pinned threads would wait for it.
    properties |= {"ENABLE_CPU_PINNING": False}
    core = openvino.Core()
    try:
        return core.compile_model(graph, "CPU", properties | {"CPU_RUNTIME_CACHE_CAPACITY": _KERNELS})
    except RuntimeError:  # the property is undocumented, and a release may drop it
        return core.compile_model(graph, "CPU", properties)


def openvino_graph(source: object) -> Graph:
    """A file, or a graph in memory, in OpenVINO. Calls of several threads take turns."""
    compiled = openvino_compiled(source, INFERENCE_PRECISION_HINT="f32", NUM_STREAMS=1, INFERENCE_NUM_THREADS=cores())
    taken = [name for port in compiled.inputs for name in port.get_names()]
    request, turn = compiled.create_infer_request(), Lock()

    def run(feed: Mapping[str, Ints]) -> Sequence[Floats]:
        with turn:
            request.infer({name: feed[name] for name in taken}, share_inputs=True, share_outputs=True)
            # Copies, because the next batch overwrites the tensors' memory.
            return [np.array(request.get_output_tensor(place).data) for place in range(len(compiled.outputs))]

    return Graph(run, has_inner=len(compiled.outputs) > 1)
