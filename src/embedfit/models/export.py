"""A model folder as a graph for other engines: ONNX for TEI and ONNX Runtime, OpenVINO for our server."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from embedfit.errors import MissingDependency, ModelError
from embedfit.files.atomic import atomic_folder, disk_errors
from embedfit.models.architecture import Dense
from embedfit.models.encoder import load_backbone
from embedfit.models.graphs import check_exportable, version
from embedfit.models.layout.golden import prove
from embedfit.models.layout.modules import Head
from embedfit.models.layout.reading import read_architecture
from embedfit.models.tokenizer import open_tokenizer
from embedfit.numerics.arrays import Floats, Ints, Vectors
from embedfit.numerics.batching import pad

if TYPE_CHECKING:
    import transformers

#: Token ids and masks by the names of a graph's inputs → hidden states.
_Runner = Callable[[dict[str, Ints]], Floats]

#: TEI's ONNX backend binds these inputs by name and reads this output.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"
OPSET = 18
#: Largest difference that an exported graph may show from torch's hidden states.
TOLERANCE = 1e-3


class _HiddenStates(torch.nn.Module):
    """The backbone with positional inputs and one output, as exporters want it."""

    def __init__(self, backbone: torch.nn.Module, *, token_types: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.token_types = token_types

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """Hidden states of the last layer: (B, L, H)."""
        extra = {"token_type_ids": rest[0]} if self.token_types else {}
        result: torch.Tensor = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, **extra
        ).last_hidden_state
        return result


def to_onnx(folder: Path, target: Path | None = None) -> Path:
    """Write target (default: onnx/model.onnx in the folder), which TEI on CPU prefers; returns its path.

    The file is checked against torch before it takes its place. Raises ModelError if it differs, and for a folder with
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
    module, example, names = _traceable(folder)
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
                output_names=[OUTPUT],
                dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*names, OUTPUT)},
                opset_version=OPSET,
            )
        _check(folder, module, _onnx_runner(partial), names)
        _prove(folder, _onnx_runner(partial), names)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def to_openvino(folder: Path, target: Path) -> Path:
    """Write target/model.xml and model.bin in fp32; returns the path of model.xml."""
    check_exportable(folder, "openvino")
    _need("openvino", extra="serve", needed_for="The OpenVINO engine")
    import openvino as _openvino  # an optional dependency

    openvino: Any = _openvino  # the package fills its modules at run time
    module, example, names = _traceable(folder)
    with _quiet():
        graph = openvino.convert_model(module, example_input=example)
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    graph.outputs[0].get_tensor().set_names({OUTPUT})
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    _check(folder, module, lambda feed: np.asarray(compiled(feed)[0]), names)
    _prove(folder, lambda feed: np.asarray(compiled(feed)[0]), names)
    with atomic_folder(target) as partial:
        openvino.save_model(graph, partial / "model.xml", compress_to_fp16=False)
    return target / "model.xml"


def _traceable(folder: Path) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]:
    layout = read_architecture(folder)
    backbone = load_backbone(folder, layout)
    names = INPUTS if layout.family.takes_token_types else INPUTS[:2]
    length = min(7, layout.max_tokens)
    ids = torch.full((2, length), min(5, _vocabulary(backbone) - 1), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, max(1, length - 2) :] = 0
    example = (ids, mask, torch.zeros_like(ids))[: len(names)]
    return _HiddenStates(backbone, token_types=len(names) == 3).eval(), example, names


def _vocabulary(backbone: torch.nn.Module) -> int:
    table = cast("transformers.PreTrainedModel", backbone).get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    return table.num_embeddings


def _check(folder: Path, module: torch.nn.Module, run: _Runner, names: tuple[str, ...]) -> None:
    """Compare with torch on rows of other sizes than the example's, so that a wrongly fixed axis shows."""
    generator = np.random.default_rng(0)
    window, tokens = read_architecture(folder).max_tokens, _vocabulary(cast(torch.nn.Module, module.backbone))
    for rows, length in ((1, min(3, window)), (3, min(40, window))):
        ids = generator.integers(min(1, tokens - 1), min(100, tokens), (rows, length))
        mask = np.ones_like(ids)
        mask[-1, max(1, length // 2) :] = 0
        values = (ids, mask, np.zeros_like(ids))[: len(names)]
        with torch.inference_mode():
            expected = module(*map(torch.from_numpy, values)).numpy()
        found = run(dict(zip(names, values, strict=True)))
        real = mask.astype(bool)
        worst = float(np.abs(expected - found)[real].max()) / max(1.0, float(np.abs(expected[real]).max()))
        if not worst <= TOLERANCE:
            raise ModelError(f"The exported graph of {folder} differs from torch by {worst:.2g}; it was not kept.")


def _prove(folder: Path, run: _Runner, names: tuple[str, ...]) -> None:
    """Raise ModelError if the folder has golden vectors and the graph gives others."""
    layout = read_architecture(folder)
    tokenizer, head = open_tokenizer(folder, layout), Head.load(folder, layout)

    def encode(texts: list[str], is_query: bool) -> Vectors:
        prompt = layout.query_instruction if is_query else layout.document_instruction
        skip = 0 if layout.pooling.include_prompt else tokenizer.prompt_length(prompt, layout.max_tokens)
        found = []
        for row in tokenizer.token_ids([prompt + text for text in texts], layout.max_tokens):
            ids, mask = pad([row], 0)
            hidden = run(dict(zip(names, (ids, mask, np.zeros_like(ids)), strict=False)))
            found.append(head.vectors_of_arrays(hidden, mask, np.array([skip]) if skip else None))
        return np.concatenate(found)

    prove(folder, layout, encode, exact=True)


def _onnx_runner(path: Path) -> _Runner:
    import onnxruntime as _onnxruntime  # an optional dependency

    onnxruntime: Any = _onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda feed: session.run([OUTPUT], feed)[0]


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
    if kind == "onnx":
        with atomic_folder(Path(target)) as partial:
            to_onnx(Path(folder), partial / "model.onnx")
    else:
        to_openvino(Path(folder), Path(target))


if __name__ == "__main__":
    _main(*sys.argv[1:])
