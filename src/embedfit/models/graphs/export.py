"""A model folder as a graph for other engines: ONNX for TEI and ONNX Runtime, OpenVINO for our server."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from embedfit.errors import MissingDependency, ModelError
from embedfit.files.atomic import atomic_folder, disk_errors
from embedfit.models.architecture import Dense
from embedfit.models.encoder import Encoder, load_backbone
from embedfit.models.graphs.cache import check_exportable, version
from embedfit.models.graphs.encoder import Graph, GraphEncoder, onnx_graph, openvino_graph
from embedfit.models.layout.golden import golden_texts, prove
from embedfit.models.layout.reading import read_architecture
from embedfit.models.text_model import inner_layer
from embedfit.models.tokenizer import open_tokenizer
from embedfit.numerics.arrays import Floats, Halves

if TYPE_CHECKING:
    import transformers

#: TEI's ONNX backend binds these inputs by name and reads this output.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"
#: The states that late interaction reads beside the last layer's.
INNER = "inner_hidden_state"
OPSET = 18
#: Largest difference that an exported graph may show from torch's hidden states.
TOLERANCE = 1e-3


class _HiddenStates(torch.nn.Module):
    """The backbone with positional inputs and outputs, as exporters want it."""

    def __init__(self, backbone: torch.nn.Module, *, token_types: bool, inner: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.token_types, self.inner = token_types, inner

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *rest: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Hidden states of the last layer and, if asked for, of the inner one: (B, L, H) each."""
        extra: dict[str, Any] = {"token_type_ids": rest[0]} if self.token_types else {}
        if self.inner:
            extra["output_hidden_states"] = True
        result = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **extra)
        if not self.inner:
            return (result.last_hidden_state,)
        return result.last_hidden_state, result.hidden_states[inner_layer(len(result.hidden_states))]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs."""
        return (OUTPUT, INNER) if self.inner else (OUTPUT,)


def to_onnx(folder: Path, target: Path | None = None, *, inner: bool = False) -> Path:
    """Write target (default: onnx/model.onnx in the folder), which TEI on CPU prefers; returns its path.

    inner: whether it gives the states that late interaction reads, too. The file is checked against torch before it
    takes its place. Raises ModelError if it differs, and for a folder with
    a Dense, which TEI would leave out of the vectors if it found a graph there; MissingDependency if the extra `onnx`
    is not installed.
    """
    if target is None and any(isinstance(module, Dense) for module in read_architecture(folder).modules):
        raise ModelError(
            f"{folder} gets no onnx/model.onnx: with it, Text Embeddings Inference would leave out the folder's Dense.",
            remedy="Serve the folder without a graph, or with: embedfit serve … --engine onnx",
        )
    check_exportable(folder, "onnx")
    for package in ("onnx", "onnxruntime"):
        _need(package, extra="onnx", needed_for="The ONNX export")
    target = target or folder / "onnx" / "model.onnx"
    partial = target.with_name(f".{target.name}.partial")
    module, example, names = _traceable(folder, inner=inner)
    try:
        with disk_errors(target), _quiet():
            target.parent.mkdir(parents=True, exist_ok=True)
            # The tracing exporter needs no onnxscript, and its graph is the one that ONNX Runtime's fusions know.
            torch.onnx.export(
                module,
                example,
                str(partial),
                dynamo=False,
                input_names=list(names),
                output_names=list(module.outputs),
                dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*names, *module.outputs)},
                opset_version=OPSET,
            )
        _check(folder, module, onnx_graph(partial), names)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def to_openvino(folder: Path, target: Path, *, inner: bool = False) -> Path:
    """Write target/model.xml and model.bin in fp32; returns the path of model.xml. inner: as for to_onnx()."""
    check_exportable(folder, "openvino")
    _need("openvino", extra="serve", needed_for="The OpenVINO engine")
    import openvino as _openvino  # an optional dependency

    openvino: Any = _openvino  # the package fills its modules at run time
    module, example, names = _traceable(folder, inner=inner)
    with _quiet():
        graph = openvino.convert_model(module, example_input=example)
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.outputs, module.outputs, strict=True):
        port.get_tensor().set_names({name})
    _check(folder, module, openvino_graph(graph), names)
    with atomic_folder(target) as partial:
        openvino.save_model(graph, partial / "model.xml", compress_to_fp16=False)
    return target / "model.xml"


def _traceable(folder: Path, *, inner: bool) -> tuple[_HiddenStates, tuple[torch.Tensor, ...], tuple[str, ...]]:
    layout = read_architecture(folder)
    backbone = load_backbone(folder, layout)
    names = INPUTS if layout.family.takes_token_types else INPUTS[:2]
    length = min(7, layout.max_tokens)
    ids = torch.full((2, length), min(5, _vocabulary(backbone) - 1), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, max(1, length - 2) :] = 0
    example = (ids, mask, torch.zeros_like(ids))[: len(names)]
    return _HiddenStates(backbone, token_types=len(names) == 3, inner=inner).eval(), example, names


def _vocabulary(backbone: torch.nn.Module) -> int:
    table = cast("transformers.PreTrainedModel", backbone).get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    return table.num_embeddings


def _check(folder: Path, module: _HiddenStates, graph: Graph, names: tuple[str, ...]) -> None:
    """Compare with torch on rows of other sizes than the example's, so that a wrongly fixed axis shows, and prove it.

    Raises ModelError if the graph gives other states, other golden vectors or other vectors of tokens than torch.
    """
    generator = np.random.default_rng(0)
    window, tokens = read_architecture(folder).max_tokens, _vocabulary(module.backbone)
    for rows, length in ((1, min(3, window)), (3, min(40, window))):
        ids = generator.integers(min(1, tokens - 1), min(100, tokens), (rows, length))
        mask = np.ones_like(ids)
        mask[-1, max(1, length // 2) :] = 0
        values = (ids, mask, np.zeros_like(ids))[: len(names)]
        real = mask.astype(bool)
        with torch.inference_mode():
            expected = [states.numpy()[real] for states in module(*map(torch.from_numpy, values))]
        found = [states[real] for states in graph.run(dict(zip(names, values, strict=True)))]
        _same(folder, expected, found, f"the states of {rows} rows")
    _prove(folder, module, graph)


def _prove(folder: Path, module: _HiddenStates, graph: Graph) -> None:
    """Compare vectors of texts with the golden ones, if the folder has any, and of these texts' tokens with torch's."""
    layout = read_architecture(folder)
    tokenizer = open_tokenizer(folder, layout)
    encoder = Encoder(folder, layout=layout, tokenizer=tokenizer, backbone=module.backbone, precision="fp32")
    ours = GraphEncoder(folder, layout=layout, tokenizer=tokenizer, graph=graph, pad_id=encoder.pad_id)
    prove(folder, layout, lambda texts, is_query: ours.encode(texts, is_query=is_query), exact=True)
    if module.inner:
        rows = [
            ids for is_query in (True, False) for ids in encoder.token_ids(golden_texts(), is_query=is_query) if ids
        ]
        expected, found = encoder.tokens(rows), ours.tokens(rows)
        _same(folder, expected, found, "the vectors of tokens")


def _same(folder: Path, expected: Sequence[Floats | Halves], found: Sequence[Floats | Halves], what: str) -> None:
    """Raise ModelError if arrays are not the same. The largest number is 1 or more, or the tolerance is for 1."""
    for wanted, own in zip(expected, found, strict=True):
        worst = float(np.abs(wanted - own).max()) / max(1.0, float(np.abs(wanted).max()))
        if not worst <= TOLERANCE:
            raise ModelError(f"The exported graph of {folder} differs from torch by {worst:.2g} in {what}.")


def _need(package: str, *, extra: str, needed_for: str) -> None:
    if version(package) is None:
        raise MissingDependency(package, extra=extra, needed_for=needed_for)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporters' warnings of values that tracing makes constant: the comparison with torch checks for those."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _main(kind: str, folder: str, target: str) -> None:
    """Make a graph for the cache. One whose states for late interaction can't be had or differ is made without them."""
    try:
        _make(kind, Path(folder), Path(target), inner=True)
    except (ModelError, RuntimeError, ValueError, TypeError, LookupError, AttributeError):
        _make(kind, Path(folder), Path(target), inner=False)


def _make(kind: str, folder: Path, target: Path, *, inner: bool) -> None:
    if kind == "onnx":
        with atomic_folder(target) as partial:
            to_onnx(folder, partial / "model.onnx", inner=inner)
    else:
        to_openvino(folder, target, inner=inner)


if __name__ == "__main__":
    _main(*sys.argv[1:])
