"""Passage vectors that are moved towards the queries that were written of the passages, without the model.

A moved vector has the size of the old one and replaces it: (1 - w) × passage + w × mean of its queries, normalised.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.models.layout.modules import unit_rows
from embedfit.numerics.arrays import Vectors

VERSION = 1
_REMEDY = "Moved vectors are in a file that `embedfit adapt --move` wrote: RUN/adapt/moved.safetensors."


def moved(passages: Vectors, queries: Sequence[Vectors], weight: float) -> Vectors:
    """The vectors of M passages, moved. passages: (M, H); queries: for each passage (K, H), K ≥ 1; gives (M, H)."""
    means = np.stack([rows.mean(0) for rows in queries]) if len(queries) else np.zeros_like(passages)
    result: Vectors = unit_rows((1 - weight) * passages + weight * means).astype(np.float32)
    return result


@dataclass(frozen=True, eq=False)
class MovedVectors:
    """The new vectors of some passages.

    ids: (M,) of the passages; vectors: (M, H) float32 unit rows. card: facts of their making, such as the embedder.
    """

    ids: Sequence[str]
    vectors: Vectors
    card: Mapping[str, str] = field(default_factory=dict)

    def without(self, passages: Collection[str]) -> MovedVectors:
        """The vectors of other passages than these."""
        kept = [number for number, one in enumerate(self.ids) if one not in passages]
        return replace(self, ids=[self.ids[number] for number in kept], vectors=self.vectors[kept])

    def save(self, path: str | Path) -> None:
        """Write ids, vectors and card as one safetensors file, whole or not at all."""
        lines = "".join(json.dumps(one) + "\n" for one in self.ids).encode()
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "vectors": np.ascontiguousarray(self.vectors, np.float32),
            "ids": np.frombuffer(lines, np.uint8),
        }
        about = {"format": "embedfit moved vectors", "version": str(VERSION), **self.card}
        with atomic_file(Path(path), binary=True) as file:
            file.write(save(tensors, metadata=about))

    @classmethod
    def load(cls, path: str | Path) -> MovedVectors:
        """The vectors of a file. Nothing in it is run. Raises InputError for another file."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise InputError(f"There is no file of moved vectors {path}.", remedy=_REMEDY)
        try:
            with safe_open(path, framework="numpy") as file:
                card = file.metadata() or {}
                ids = [json.loads(line) for line in file.get_tensor("ids").tobytes().splitlines()]
                vectors = file.get_tensor("vectors")
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} holds no moved vectors ({error}).", remedy=_REMEDY) from error
        if card.get("version") != str(VERSION) or vectors.ndim != 2 or len(ids) != len(vectors):
            raise InputError(f"{path} holds no moved vectors that this embedfit reads.", remedy=_REMEDY)
        return cls(ids, vectors, {name: text for name, text in card.items() if name not in ("format", "version")})
