"""From a text's token states to one vector: pooling, dense layers and norms, for torch, numpy and OpenVINO.

The formulas are those of sentence-transformers (Reimers and Gurevych 2019), which are stated there for batches padded
on either side. Here padding is always on the right, so a text is its first `length` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedfit.errors import ModelError
from embedfit.models.architecture import Architecture, Dense, Normalize, Pooling, PoolingMode
from embedfit.models.layout.files import weight_files
from embedfit.numerics.arrays import Ints, Vectors

if TYPE_CHECKING:
    import torch

Node: TypeAlias = Any  # a node of an OpenVINO graph; the package makes its names at run time
#: The least divisor of a mean, for texts without a pooled token.
_LEAST = 1e-9
#: The least divisor of sentence-transformers' Normalize and of torch's normalize.
_LEAST_NORM = 1e-12


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling, skip: torch.Tensor | None = None) -> torch.Tensor:
    """Pooled vectors (B, H × modes). hidden: (B, L, H); mask: (B, L), 1 for tokens and 0 for padding.

    skip: (B,), how many tokens of each text's beginning are a prompt that is not pooled.
    """
    import torch

    found = []
    kept = mask
    if skip is not None:
        kept = mask * (torch.arange(mask.shape[1], device=mask.device) >= skip[:, None])
    for mode in pooling.modes:
        if mode == "cls":
            place = kept.argmax(1) if skip is not None else torch.zeros_like(mask[:, 0])
            found.append(hidden[torch.arange(len(hidden), device=hidden.device), place])
        elif mode == "lasttoken":
            place = (mask.sum(1) - 1).clamp(min=0)
            last = hidden[torch.arange(len(hidden), device=hidden.device), place]
            found.append(last * kept.any(1)[:, None])
        elif mode == "max":
            found.append(hidden.masked_fill(kept.unsqueeze(-1) == 0, -torch.inf).amax(1))
        else:
            weights = kept.to(hidden.dtype)
            if mode == "weightedmean":
                weights = weights * torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=hidden.dtype)
            total = weights.sum(1, keepdim=True).clamp(min=_LEAST)
            total = total.sqrt() if mode == "mean_sqrt_len_tokens" else total
            found.append((hidden * weights.unsqueeze(-1)).sum(1) / total)
    return found[0] if len(found) == 1 else torch.cat(found, -1)


def pool_arrays(hidden: Vectors, mask: Ints, pooling: Pooling, skip: Ints | None = None) -> Vectors:
    """pool() for arrays."""
    found = []
    places = np.arange(mask.shape[1])
    kept = mask if skip is None else mask * (places >= skip[:, None])
    rows = np.arange(len(hidden))
    for mode in pooling.modes:
        if mode == "cls":
            found.append(hidden[rows, kept.argmax(1)])
        elif mode == "lasttoken":
            found.append(hidden[rows, np.maximum(mask.sum(1) - 1, 0)] * kept.max(1)[:, None])
        elif mode == "max":
            found.append(np.where(kept[:, :, None] == 0, -np.inf, hidden).max(1))
        else:
            weights = kept.astype(np.float32)
            if mode == "weightedmean":
                weights = weights * (places + 1).astype(np.float32)
            total = np.maximum(weights.sum(1, keepdims=True), np.float32(_LEAST))
            total = np.sqrt(total) if mode == "mean_sqrt_len_tokens" else total
            found.append(np.einsum("blh,bl->bh", hidden, weights, optimize=True) / total)
    result: Vectors = np.concatenate(found, -1).astype(np.float32, copy=False)
    return result


def pool_nodes(ops: Node, hidden: Node, attention_mask: Node, mode: PoolingMode) -> Node:
    """pool() as a part of an OpenVINO graph, for the two poolings that nearly all models have; None for others.

    ops: openvino.opset13. hidden: (B, L, H); attention_mask: (B, L).
    """
    if mode == "cls":
        return ops.gather(hidden, ops.constant(np.int64(0)), ops.constant(np.int64(1)))
    if mode == "mean":
        mask = ops.convert(attention_mask, "f32")
        # A matrix product sums and masks in one pass: (B, 1, L) · (B, L, H).
        total = ops.squeeze(ops.matmul(ops.unsqueeze(mask, np.int64(1)), hidden, False, False), np.int64(1))
        return ops.divide(total, ops.reduce_sum(mask, np.int64(1), keep_dims=True))
    return None


def unit_rows(vectors: Vectors) -> Vectors:
    """Rows divided by their length; rows of zeros stay. vectors: (..., H)."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Vectors = vectors / np.maximum(norms, np.float32(_LEAST_NORM))
    return result


def _activated_tensor(name: str, values: torch.Tensor) -> torch.Tensor:
    import torch

    module: torch.nn.Module = getattr(torch.nn, name)()
    result: torch.Tensor = module(values)
    return result


def _activated_array(name: str, values: Vectors) -> Vectors:
    if name == "Tanh":
        values = np.tanh(values)
    elif name == "ReLU":
        values = np.maximum(values, 0)
    elif name == "Sigmoid":
        values = _sigmoid(values)
    elif name == "SiLU":
        values = values * _sigmoid(values)
    elif name == "GELU":
        values = values * (0.5 + 0.5 * np.vectorize(math.erf, otypes=[np.float32])(values / math.sqrt(2)))
    result: Vectors = values.astype(np.float32, copy=False)
    return result


def _sigmoid(values: Vectors) -> Vectors:
    result: Vectors = 0.5 + 0.5 * np.tanh(0.5 * values)  # the plain form overflows for numbers below -88
    return result


class Head:
    """The modules after the transformer, with the weights of the dense ones. Works on tensors and on arrays."""

    def __init__(self, architecture: Architecture, weights: Mapping[str, Mapping[str, Vectors]]) -> None:
        """weights: each Dense's, by its path."""
        self.pooling = architecture.pooling
        self._steps = architecture.after_pooling
        self._arrays = weights
        self._tensors: dict[tuple[str, torch.device], dict[str, torch.Tensor]] = {}
        self._dimensions = architecture.dimensions

    @classmethod
    def load(cls, folder: Path, architecture: Architecture) -> Head:
        """Read the dense layers' weights of a model folder."""
        dense = [module for module in architecture.after_pooling if isinstance(module, Dense)]
        return cls(architecture, {module.path: read_arrays(folder / module.path) for module in dense})

    def vectors(self, hidden: torch.Tensor, mask: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """Texts' vectors (B, D) from token states. Arguments as for pool(); all in fp32."""
        return self.finish(pool(hidden, mask, self.pooling, skip))

    def finish(self, pooled: torch.Tensor) -> torch.Tensor:
        """Apply the modules after the pooling. pooled: (B, H × modes); returns (B, D)."""
        import torch

        for step in self._steps:
            if isinstance(step, Normalize):
                pooled = torch.nn.functional.normalize(pooled, dim=-1)
            else:
                own = self._own_tensors(step.path, pooled.device)
                linear = torch.nn.functional.linear
                out = _activated_tensor(step.activation, linear(pooled, own["linear.weight"], own.get("linear.bias")))
                if step.residual:
                    out = out + (linear(pooled, own["residual.weight"]) if "residual.weight" in own else pooled)
                pooled = out
        return pooled if self._dimensions is None else pooled[:, : self._dimensions]

    def vectors_of_arrays(self, hidden: Vectors, mask: Ints, skip: Ints | None = None) -> Vectors:
        """vectors() for arrays."""
        return self.finish_arrays(pool_arrays(hidden, mask, self.pooling, skip))

    def finish_arrays(self, pooled: Vectors) -> Vectors:
        """finish() for arrays."""
        for step in self._steps:
            if isinstance(step, Normalize):
                pooled = unit_rows(pooled)
            else:
                own = self._arrays[step.path]
                out = _activated_array(step.activation, pooled @ own["linear.weight"].T + own.get("linear.bias", 0))
                if step.residual:
                    out = out + (pooled @ own["residual.weight"].T if "residual.weight" in own else pooled)
                pooled = out
        return pooled if self._dimensions is None else np.ascontiguousarray(pooled[:, : self._dimensions])

    def _own_tensors(self, path: str, device: torch.device) -> dict[str, torch.Tensor]:
        import torch

        if (path, device) not in self._tensors:
            with torch.inference_mode(False):  # inference tensors could not be trained later
                own = {name: torch.from_numpy(array).to(device) for name, array in self._arrays[path].items()}
            self._tensors[path, device] = own
        return self._tensors[path, device]


def read_arrays(folder: Path) -> dict[str, Vectors]:
    """A module's weights in fp32, read without torch, whatever floating-point type they are stored in."""
    import safetensors as _safetensors

    safetensors: Any = _safetensors  # the function has no annotations

    found: dict[str, Vectors] = {}
    for path in weight_files(folder):
        for name, stored in safetensors.deserialize(path.read_bytes()):
            data, shape = bytes(stored["data"]), tuple(stored["shape"])
            if stored["dtype"] == "BF16":  # numpy has no bf16; it is the upper half of an fp32
                array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                kind = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}.get(stored["dtype"])
                if kind is None:
                    raise ModelError(f"{path}: {name} is stored as {stored['dtype']}, which is no weight of a Dense.")
                array = np.frombuffer(data, kind)
            if not np.isfinite(array).all():
                raise ModelError(f"{path}: the weight {name} holds NaN or infinity.", remedy="Fetch the model again.")
            found[name] = array.reshape(shape).astype(np.float32)
    return found
