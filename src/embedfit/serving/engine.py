"""What runs a batch: the interface of engines, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded to one length. ids, mask: (B, L); mask is 1 for tokens and 0 for padding."""

    ids: TokenIds
    mask: TokenIds

    @property
    def padded_tokens(self) -> int:
        """Rows × longest: what the engine computes."""
        return int(self.ids.size)


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """A batch of rows of token ids, each at least one token long."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return Batch(ids, mask)


class Engine(Protocol):
    """Token ids to vectors. Calls on different streams may run at the same time."""

    @property
    def name(self) -> str:
        """Such as "openvino"."""

    @property
    def precision(self) -> str:
        """Of the matrix products: fp32, bf16, fp16 or int8."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu" or "cuda"."""

    @property
    def streams(self) -> int:
        """How many batches it runs at once."""

    def pooled(self, batch: Batch, stream: int) -> Vectors:
        """Pooled vectors before any normalisation: (B, H)."""

    def token_states(self, batch: Batch, stream: int) -> Vectors:
        """Hidden states of the last layer: (B, L, H)."""


def unit_rows(vectors: Vectors) -> Vectors:
    """Rows divided by their length; rows of zeros stay. vectors: (..., H)."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Vectors = vectors / np.maximum(norms, np.float32(1e-12))
    return result
