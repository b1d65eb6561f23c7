"""Graphs of models, made once and kept in the cache; reading one loads no torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import subprocess
import sys
from pathlib import Path

from embedfit.errors import ModelError
from embedfit.files.hashes import sha256_file
from embedfit.models.layout.files import deciding_files, shapes
from embedfit.models.layout.reading import read_architecture
from embedfit.runtime import cache_folder

#: Raised when the way a graph is made changes, so that cached graphs are made again.
GRAPH_VERSION = 3

#: Bytes that an ONNX file can hold: a protocol buffer is at most 2 GiB.
_LARGEST_ONNX = (2 << 30) - (64 << 20)


def check_exportable(folder: Path, kind: str) -> None:
    """Raise ModelError for a folder of which no right "onnx" or "openvino" graph can be made."""
    layout = read_architecture(folder)
    if not layout.family.exports:
        raise ModelError(
            f"embedfit has not shown that its graphs of {layout.family.name} are right, so it makes none yet.",
            remedy="Serve the model with --engine torch, which runs every family.",
        )
    size = 4 * sum(math.prod(shape) for shape in shapes(folder / layout.first.path).values())
    if kind == "onnx" and size > _LARGEST_ONNX:
        raise ModelError(
            f"{folder} has {size / 1e9:.1f} GB of weights in fp32; one ONNX file holds at most 2.",
            remedy="Serve the model with --engine openvino or --engine torch.",
        )


def cached_graph(folder: Path, kind: str) -> Path:
    """The "onnx" or "openvino" graph of a folder, made once for each content of its weights and settings.

    A process of its own makes it, so that a server does not carry torch's memory. A graph that lies in the folder is
    not used: it may belong to the model that this one was tuned from.
    """
    name = {"onnx": "model.onnx", "openvino": "model.xml"}[kind]
    target = cache_folder() / "graphs" / f"{kind}-{content_key(folder)}"
    if (target / name).exists():
        return target / name
    check_exportable(folder, kind)
    command = [sys.executable, "-m", "embedfit.models.graphs.export", kind, str(folder.resolve()), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (target / name).exists():
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise ModelError(f"{folder} could not be converted for {kind}: {lines[-1]}")
    return target / name


def content_key(folder: Path) -> str:
    """A name for a model's content: changes with its weights, its configuration or the converters."""
    made_and_proved_by = [version(package) for package in ("torch", "transformers", "onnxruntime", "openvino")]
    digest = hashlib.sha256(f"{GRAPH_VERSION} {made_and_proved_by}".encode())
    layout = read_architecture(folder)
    towers = (layout,) if layout.queries is None else (layout, layout.queries)
    for path in (path for tower in towers for path in deciding_files(folder, tower)):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()[:24]


def version(package: str) -> str | None:
    """The version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
