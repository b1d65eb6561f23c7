"""The loss of a batch, computed from its vectors.

Everywhere: B rows, P passages of the batch. Scores are similarities divided by the temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from embedfit.training.losses import infonce
from embedfit.training.losses.loss import Loss, Scored, Targets


def matryoshka(
    loss: Callable[[Tensor, Tensor], Tensor], queries: Tensor, passages: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Mean of the loss over vectors cut to each size and normalised again (Kusupati et al. 2022)."""
    parts = [loss(normalize(queries[:, :size], dim=1), normalize(passages[:, :size], dim=1)) for size in sizes]
    return torch.stack(parts).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The mean loss of a batch. Fields as in TrainConfig; dimensions: () for the whole vector alone."""

    loss: Loss = infonce.LOSS
    temperature: float = 0.05
    both_directions: bool = False
    infonce_weight: float = 0.1
    teacher_temperature: float = 0.3
    dimensions: tuple[int, ...] = ()

    def __call__(self, queries: Tensor, passages: Tensor, targets: Targets) -> Tensor:
        """Mean loss over the rows. queries: (B, H), passages: (P, H), unit rows; both in fp32."""
        if not self.dimensions:
            return self._mean(queries, passages, targets)
        return matryoshka(lambda q, p: self._mean(q, p, targets), queries, passages, self.dimensions)

    def _mean(self, queries: Tensor, passages: Tensor, targets: Targets) -> Tensor:
        scores = queries @ passages.T / self.temperature
        batch = Scored(
            scores=scores,
            contrast=scores.new_zeros(len(scores)) if self.loss.corpus else self._contrast(scores, targets),
            targets=targets,
            infonce_weight=self.infonce_weight,
            teacher_temperature=self.teacher_temperature,
        )
        return self.loss.rows(batch).mean()

    def _contrast(self, scores: Tensor, targets: Targets) -> Tensor:
        positive = targets.group[:, 0]
        forward = infonce.info_nce(scores, positive, targets.allowed)
        if not self.both_directions:
            return forward
        # Row i's positive is contrasted with the queries of all rows j that it is not known to answer.
        rows = torch.arange(len(positive), device=scores.device)
        reachable = targets.allowed[:, positive].T & (positive[:, None] != positive[None, :])
        reachable |= torch.eye(len(positive), dtype=torch.bool, device=scores.device)
        return (forward + infonce.info_nce(scores[:, positive].T, rows, reachable)) / 2
