"""Tiny models of two towers over one base, in the two shapes that tuning makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedfit.models.folder import read_tensors, save_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import save_towers, with_query_map
from embedfit.numerics.arrays import Floats


def random_map(width: int, seed: int = 0) -> Floats:
    """A matrix (H, H) that turns vectors visibly."""
    rng = np.random.default_rng(seed)
    return (np.eye(width) + rng.normal(0, 0.3, (width, width))).astype(np.float32)


def save_mapped(base: Path, root: Path) -> Path:
    """Two towers: queries go through a map. Returns root/merged."""
    with_query_map(base, random_map(read_architecture(base).width), root / "query")
    save_towers(root / "merged", query=root / "query", document=base)
    return root / "merged"


def save_tuned(base: Path, root: Path) -> Path:
    """Two towers: queries have a transformer with other weights. Returns root/merged."""
    tensors = {name: tensor * 1.02 if tensor.ndim > 1 else tensor for name, tensor in read_tensors(base).items()}
    save_model(root / "query", tensors, base=base, layout=read_architecture(base))
    save_towers(root / "merged", query=root / "query", document=base)
    return root / "merged"


#: By train.tune.
SHAPES = {"map": save_mapped, "query": save_tuned}
