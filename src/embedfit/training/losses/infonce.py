"""InfoNCE: the positive against the other passages."""

from __future__ import annotations

import torch
from torch import Tensor

from embedfit.training.losses.loss import Loss


def info_nce(scores: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
    """-log softmax of the positive over the allowed passages (van den Oord et al. 2018). Returns (B,).

    scores: (B, P); positive: (B,) columns; allowed: (B, P) bool, true for the positive.
    """
    denominator = scores.masked_fill(~allowed, -torch.inf).logsumexp(1)
    return denominator - scores.gather(1, positive[:, None]).squeeze(1)


LOSS = Loss(rows=lambda batch: batch.contrast)
