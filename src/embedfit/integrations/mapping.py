"""A query map in front of somebody else's embeddings, which are checked once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedfit.models.query_map import QueryMap
from embedfit.models.store.vectors import PROBES

#: The text by which another embedder is noticed.
PROBE = PROBES[0]


class CheckedMap:
    """The map of a file, for vectors as lists. needs_probe: whether the embedder has not been checked yet."""

    def __init__(self, path: str | Path) -> None:
        self._map = QueryMap.load(path)
        self.needs_probe = self._map.probes is not None

    def check(self, probe: Sequence[float]) -> None:
        """Raise InputError if an embedder's query vector of PROBE is not that of the map's embedder."""
        self._map.check_embedder(np.asarray([probe], np.float32))
        self.needs_probe = False

    def __call__(self, vector: Sequence[float]) -> list[float]:
        """The mapped vector. Raises InputError for one of another width."""
        mapped: list[float] = self._map(np.asarray([vector], np.float32))[0].tolist()
        return mapped
