"""In-batch distillation: a teacher's scores of every passage of the batch (Lin, Yang and Lin 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedfit.training.losses.distil import kl_divergence
from embedfit.training.losses.loss import Loss, Scored


def rows(batch: Scored) -> Tensor:
    """KL to the teacher's distribution over all passages, plus the weighted InfoNCE. (B,)."""
    labels = batch.targets.soft_labels
    if labels is None:
        raise ValueError("in-batch-distil needs soft labels of the batch")
    taught = kl_divergence(batch.scores, labels / batch.teacher_temperature, torch.ones_like(batch.targets.allowed))
    return taught + batch.infonce_weight * batch.contrast


#: The teacher knows which queries are vague, and so is worth learning longer from.
LOSS = Loss(rows=rows, soft_labels=True, steps=60)
