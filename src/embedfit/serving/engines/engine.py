"""The interface of engines, which run batches; and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from embedfit.numerics.arrays import Ints, Vectors
from embedfit.numerics.batching import pad


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Rows padded to one length. ids, mask: (B, L); mask is 1 for tokens and 0 for padding.

    skip: (B,), how many of each row's first tokens are a prompt that is not pooled; None: all are pooled.
    """

    ids: Ints
    mask: Ints
    skip: Ints | None = None

    @property
    def padded_tokens(self) -> int:
        """Rows × longest: the tokens that the engine computes, padding included."""
        return int(self.ids.size)


class Prompted(list[int]):
    """A row's token ids of which the first `skip` are a prompt that is not pooled."""

    def __init__(self, ids: Sequence[int], skip: int) -> None:
        super().__init__(ids)
        self.skip = skip


def batch_of(rows: Sequence[Sequence[int]], pad_id: int) -> PaddedRows:
    """A batch of rows of token ids, each at least one token long."""
    skip = np.array([row.skip if isinstance(row, Prompted) else 0 for row in rows], np.int64)
    return PaddedRows(*pad(rows, pad_id), skip if skip.any() else None)


class Engine(Protocol):
    """Token ids to vectors. Calls on different streams may run at the same time."""

    @property
    def name(self) -> str:
        """The engine's name, such as "openvino"."""

    @property
    def precision(self) -> str:
        """The precision of the matrix products: fp32, bf16, fp16 or int8."""

    @property
    def device(self) -> str:
        """The device on which it runs: "cpu" or "cuda"."""

    @property
    def streams(self) -> int:
        """The number of batches that it runs at once."""

    def pooled(self, batch: PaddedRows, stream: int) -> Vectors:
        """Vectors as the folder's modules give them: (B, D)."""

    def token_states(self, batch: PaddedRows, stream: int) -> Vectors:
        """Hidden states of the last layer: (B, L, H)."""
