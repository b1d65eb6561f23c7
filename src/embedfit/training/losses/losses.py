"""The losses, as functions of similarities.

Everywhere: B rows, P passages of the batch, G = 1 + K passages of a row's own (its positive first).
scores are similarities divided by the temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from embedfit.training.batches import Batch

LossName = Literal["infonce", "distil", "margin-mse", "in-batch-distil"]


def info_nce(scores: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
    """-log softmax of the positive over the allowed passages (van den Oord et al. 2018). Returns (B,).

    scores: (B, P); positive: (B,) columns; allowed: (B, P) bool, true for the positive.
    """
    denominator = scores.masked_fill(~allowed, -torch.inf).logsumexp(1)
    return denominator - scores.gather(1, positive[:, None]).squeeze(1)


def kl_divergence(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the distributions over a row's passages. Returns (B,).

    student, teacher: (B, G) scores divided by their temperatures; present: (B, G) bool, not all false.
    """
    log_student = log_softmax(student.masked_fill(~present, -torch.inf), 1)
    log_teacher = log_softmax(teacher.masked_fill(~present, -torch.inf), 1)
    terms = log_teacher.exp() * (log_teacher - log_student)
    return terms.masked_fill(~present, 0.0).sum(1)


def margin_mse(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """Mean over a row's negatives of the squared error of its margin (Hofstätter et al. 2020). Returns (B,).

    The margin is the positive's score less the negative's. Rows without a negative give 0.
    """
    error = (student[:, :1] - student[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
    squares = error.square().masked_fill(~present[:, 1:], 0.0)
    return squares.sum(1) / present[:, 1:].sum(1).clamp(min=1)


def matryoshka(
    loss: Callable[[Tensor, Tensor], Tensor], queries: Tensor, passages: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Mean of the loss over vectors cut to each size and normalised again (Kusupati et al. 2022)."""
    parts = [loss(normalize(queries[:, :size], dim=1), normalize(passages[:, :size], dim=1)) for size in sizes]
    return torch.stack(parts).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What the loss of a batch is computed against: Batch's fields of the same names, as tensors.

    has_teacher: (B,) rows with a teacher's score for each of their passages.
    """

    group: Tensor
    allowed: Tensor
    teacher: Tensor
    has_teacher: Tensor
    soft_labels: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, where: torch.device) -> Targets:
        """The targets of a batch on a device."""
        group, teacher = torch.from_numpy(batch.group), torch.from_numpy(batch.teacher)
        has_teacher = (~teacher.isnan() | (group < 0)).all(1)
        return cls(
            group=group.to(where),
            allowed=torch.from_numpy(batch.allowed).to(where),
            teacher=teacher.nan_to_num(0.0).to(where),
            has_teacher=has_teacher.to(where),
            soft_labels=None if batch.soft_labels is None else torch.from_numpy(batch.soft_labels).to(where),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of a batch. Fields as in TrainConfig; dimensions: () for the whole vector alone."""

    kind: LossName = "infonce"
    temperature: float = 0.05
    both_directions: bool = False
    infonce_weight: float = 0.1
    teacher_temperature: float = 0.3
    dimensions: tuple[int, ...] = ()

    def __call__(self, queries: Tensor, passages: Tensor, targets: Targets) -> Tensor:
        """Mean loss over the rows. queries: (B, H), passages: (P, H), unit rows; both in fp32."""
        if not self.dimensions:
            return self.rows(queries, passages, targets).mean()
        return matryoshka(lambda q, p: self.rows(q, p, targets).mean(), queries, passages, self.dimensions)

    def rows(self, queries: Tensor, passages: Tensor, targets: Targets) -> Tensor:
        """The loss of each row. (B,)."""
        scores = queries @ passages.T / self.temperature
        contrast = self._contrast(scores, targets)
        if self.kind == "infonce":
            return contrast
        if self.kind == "in-batch-distil":
            if targets.soft_labels is None:
                raise ValueError("in-batch-distil needs soft labels of the batch")
            labels = targets.soft_labels / self.teacher_temperature
            return kl_divergence(scores, labels, torch.ones_like(targets.allowed)) + self.infonce_weight * contrast
        present = targets.group >= 0
        own = scores.gather(1, targets.group.clamp(min=0))
        if self.kind == "distil":
            taught = kl_divergence(own, targets.teacher / self.teacher_temperature, present)
        else:
            taught = margin_mse(own, targets.teacher, present)
        # A row without scores still teaches by contrast.
        return torch.where(targets.has_teacher, taught, 0.0) + self.infonce_weight * contrast

    def _contrast(self, scores: Tensor, targets: Targets) -> Tensor:
        positive = targets.group[:, 0]
        forward = info_nce(scores, positive, targets.allowed)
        if not self.both_directions:
            return forward
        # The positive of row i against the queries of all rows j to which it is not known to be an answer.
        rows = torch.arange(len(positive), device=scores.device)
        reachable = targets.allowed[:, positive].T & (positive[:, None] != positive[None, :])
        reachable |= torch.eye(len(positive), dtype=torch.bool, device=scores.device)
        return (forward + info_nce(scores[:, positive].T, rows, reachable)) / 2
