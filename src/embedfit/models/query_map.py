"""A linear map on the query vectors of an embedder that can't be changed. Passages keep their vectors.

A map is one safetensors file. Its metadata is its card: which embedder it belongs to, and how it was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.models.layout.modules import unit_rows
from embedfit.numerics.arrays import Floats, Vectors

VERSION = 1
#: The name of a map's file in a run folder.
FILE = "query_map.safetensors"
#: The widest vectors that a map may have; a wider one has a gigabyte.
MOST_WIDTH = 16_384
#: Cosine to the map's own vector of a probe, below which an embedder is another one. Servers round differently.
SAME_EMBEDDER = 0.98
_REMEDY = "A map is a file that `embedfit adapt` wrote: RUN/adapt/query_map.safetensors."


@dataclass(frozen=True, slots=True, kw_only=True)
class MapCard:
    """What a map belongs to and how it was made.

    embedder: the name of the embedder, such as titan-v2; "" if it is not known. made: facts of its making, such as the
    number of questions, the settings and what was measured.
    """

    embedder: str = ""
    made: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class QueryMap:
    """A linear map on query vectors. Calling it gives the vectors that search the unchanged passages.

    matrix: (H, H) float32; a vector q becomes matrix · q, normalised. probes: the embedder's own query vectors (P, H)
    of the first texts in models.store.vectors.PROBES, by which another embedder is noticed; None if they are unknown.

    Example:
        >>> import numpy as np
        >>> QueryMap(np.diag(np.array([1, 2], np.float32)))(np.array([[0, 3]], np.float32))
        array([[0., 1.]], dtype=float32)
    """

    matrix: Floats
    card: MapCard = field(default_factory=MapCard)
    probes: Vectors | None = None

    def __post_init__(self) -> None:
        """Check the shapes."""
        shape = self.matrix.shape
        if self.matrix.ndim != 2 or shape[0] != shape[1] or not shape[0]:
            raise InputError(f"A query map needs a square matrix, and this one is {shape}.", remedy=_REMEDY)
        if not np.isfinite(self.matrix).all():
            raise InputError("The matrix of a query map holds NaN or infinity.", remedy=_REMEDY)

    @property
    def width(self) -> int:
        """The number H of dimensions."""
        return len(self.matrix)

    def __call__(self, vectors: Vectors) -> Vectors:
        """The mapped query vectors, unit rows: (N, H) → (N, H). A row of zeros stays.

        Raises InputError for vectors of another width, and for NaN and infinity.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or (vectors.shape[1] != self.width and len(vectors)):
            raise InputError(
                f"The query map is {self.width} wide, and vectors of shape {vectors.shape} are another embedder's.",
                remedy=f"Use it with the embedder that it was made for{self._named()}.",
            )
        if not np.isfinite(vectors).all():
            raise InputError("A query vector holds NaN or infinity.", remedy="See what the embedder answers.")
        if not len(vectors):
            return np.zeros((0, self.width), np.float32)
        return unit_rows(vectors @ self.matrix.T)

    def blended(self, share: float) -> QueryMap:
        """The map mixed with the identity, which changes nothing. share: this map's, from 0 to 1."""
        identity = np.eye(self.width, dtype=np.float32)
        mixed: Floats = np.float32(share) * self.matrix + np.float32(1 - share) * identity
        return replace(self, matrix=mixed)

    def check_embedder(self, probes: Vectors) -> None:
        """Raise InputError unless an embedder is the one that the map was made for.

        probes: its query vectors (P, H) of the first P texts in models.store.vectors.PROBES.
        """
        if probes.ndim != 2 or probes.shape[1] != self.width:
            self(probes)  # raises InputError that names the widths
        if self.probes is None:
            return
        cosines = (unit_rows(probes.astype(np.float32)) * self.probes[: len(probes)]).sum(1)
        if float(cosines.min(initial=1.0)) < SAME_EMBEDDER:
            raise InputError(
                f"The query map was made for another embedder{self._named()}: the same text has another vector there "
                f"(cosine {float(cosines.min()):.2f}).",
                remedy="Use that embedder with the same instruction, or make a map for this one: embedfit adapt",
            )

    def _named(self) -> str:
        return f", {self.card.embedder}" if self.card.embedder else ""

    def save(self, path: str | Path) -> None:
        """Write the map and its card as one safetensors file, whole or not at all."""
        tensors = {"matrix": np.ascontiguousarray(self.matrix, np.float32)}
        if self.probes is not None:
            tensors["probes"] = np.ascontiguousarray(self.probes, np.float32)
        card = {
            "format": "embedfit query map",
            "version": str(VERSION),
            "width": str(self.width),
            "embedder": self.card.embedder,
            "made": json.dumps(dict(self.card.made), ensure_ascii=False, allow_nan=False, sort_keys=True),
        }
        with atomic_file(Path(path), binary=True) as file:
            file.write(save(tensors, metadata=card))

    @classmethod
    def load(cls, path: str | Path) -> QueryMap:
        """A map from its file. Nothing in the file is run. Raises InputError for a file that holds no map."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise InputError(f"There is no query map {path}.", remedy=_REMEDY)
        if path.stat().st_size > 5 * MOST_WIDTH**2:
            raise InputError(f"{path} is too large for a query map.", remedy=_REMEDY)
        try:
            with safe_open(path, framework="numpy") as file:
                card = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys() if name in ("matrix", "probes")}
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is no safetensors file ({error}).", remedy=_REMEDY) from error
        if "matrix" not in tensors or card.get("version") != str(VERSION):
            version = card.get("version", "unknown")
            raise InputError(
                f"{path} holds no query map that this embedfit reads (version {version}, not {VERSION}).",
                remedy=_REMEDY,
            )
        try:
            made = json.loads(card.get("made", "{}"))
            if any(one.dtype != np.float32 for one in tensors.values()) or not isinstance(made, dict):
                raise ValueError("its numbers are not float32, or its card is no JSON object")
            found = cls(tensors["matrix"], MapCard(embedder=card.get("embedder", ""), made=made), tensors.get("probes"))
            if found.probes is not None and (found.probes.ndim != 2 or found.probes.shape[1] != found.width):
                raise ValueError("its probes are of another width")
        except (ValueError, InputError) as error:
            raise InputError(f"{path}: {error}", remedy=_REMEDY) from error
        return found
