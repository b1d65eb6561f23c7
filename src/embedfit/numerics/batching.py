"""Batches of texts of unlike lengths: their make-up and their padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from embedfit.numerics.arrays import Ints, Tokens


def batches_by_length(lengths: Sequence[int] | Ints, budget: int, *, overhead: int | None = None) -> Iterator[Ints]:
    """Indices of texts, in batches whose number of texts × longest text is within the budget.

    lengths: (N,) tokens. The longest come first: if memory does not suffice, that shows at once. A single text above
    the budget is a batch of its own. overhead: the fixed cost of a batch, in padded tokens; a batch ends before its
    padding costs more than that. None: only the budget ends a batch.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(sizes[order[start]]), 1)
        size = max(1, budget // longest)
        if overhead is not None:
            waste = np.cumsum(longest - sizes[order[start : start + size]])
            size = max(1, int(np.searchsorted(waste, overhead, side="right")))
        yield order[start : start + size]
        start += size


def pad(rows: Sequence[Sequence[int] | Tokens], pad_id: int) -> tuple[Ints, Ints]:
    """Token ids (B, L) of rows of unlike lengths, padded on the right, and the mask (B, L): 1 for tokens, else 0."""
    lengths = np.array([len(row) for row in rows], np.int64)
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.full(mask.shape, pad_id, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return ids, mask
