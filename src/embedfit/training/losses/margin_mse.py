"""Margin-MSE: how much better a teacher scores the positive than each negative."""

from __future__ import annotations

from torch import Tensor

from embedfit.training.losses.loss import Loss, Scored


def margin_mse(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """Mean over a row's negatives of the squared error of its margin (Hofstätter et al. 2020). Returns (B,).

    The margin is the positive's score less the negative's. Rows without a negative give 0. student, teacher: (B, G)
    scores; present: (B, G) bool.
    """
    error = (student[:, :1] - student[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
    squares = error.square().masked_fill(~present[:, 1:], 0.0)
    return squares.sum(1) / present[:, 1:].sum(1).clamp(min=1)


def rows(batch: Scored) -> Tensor:
    """The error of the margins, plus the weighted InfoNCE. (B,)."""
    return batch.beside(margin_mse(batch.own, batch.targets.teacher, batch.present))


LOSS = Loss(rows=rows, needs_scores=True)
