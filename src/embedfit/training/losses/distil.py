"""Distillation: the distribution of a teacher's scores over a row's own passages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from embedfit.training.losses.loss import Loss, Scored


def kl_divergence(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the distributions over a row's passages. Returns (B,).

    student, teacher: (B, G) scores divided by their temperatures; present: (B, G) bool, not all false.
    """
    log_student = log_softmax(student.masked_fill(~present, -torch.inf), 1)
    log_teacher = log_softmax(teacher.masked_fill(~present, -torch.inf), 1)
    terms = log_teacher.exp() * (log_teacher - log_student)
    return terms.masked_fill(~present, 0.0).sum(1)


def rows(batch: Scored) -> Tensor:
    """KL to the teacher's distribution, plus the weighted InfoNCE. (B,)."""
    return batch.beside(kl_divergence(batch.own, batch.targets.teacher / batch.teacher_temperature, batch.present))


LOSS = Loss(rows=rows, needs_scores=True)
