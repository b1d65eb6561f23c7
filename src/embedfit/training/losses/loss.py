"""The interface of losses, and the data that they read.

Everywhere: B rows, P passages of the batch, G = 1 + K passages of a row's own (its positive first).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from embedfit import plugins
from embedfit.training.batches import TrainingBatch

#: Entry points of this group name a Loss as "module:NAME"; the entry point's name is what train.loss calls it.
GROUP = "embedfit.losses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The targets of a batch: TrainingBatch's fields of the same names, as tensors.

    has_teacher: (B,) rows with a teacher's score for each of their passages.
    """

    group: Tensor
    allowed: Tensor
    teacher: Tensor
    has_teacher: Tensor
    soft_labels: Tensor | None = None

    @classmethod
    def of(cls, batch: TrainingBatch, where: torch.device) -> Targets:
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
class Scored:
    """A batch as the model in training scores it, and the settings that a loss may read.

    scores: (B, P) similarities of queries and passages, divided by train.temperature. contrast: (B,) InfoNCE of each
    row, with the masks and `train.both_directions` applied. targets: the batch's targets.
    """

    scores: Tensor
    contrast: Tensor
    targets: Targets
    infonce_weight: float
    teacher_temperature: float

    @property
    def present(self) -> Tensor:
        """Mask of the columns that hold a passage. (B, G) bool; the first column is true."""
        return self.targets.group >= 0

    @property
    def own(self) -> Tensor:
        """Scores of a row's own passages, the positive's first. (B, G); meaningless in columns that are not present."""
        return self.scores.gather(1, self.targets.group.clamp(min=0))

    def beside(self, taught: Tensor) -> Tensor:
        """The loss against a teacher's scores (taught, (B,)), plus the weighted InfoNCE. Returns (B,).

        A row without a teacher's scores has the InfoNCE alone.
        """
        return torch.where(self.targets.has_teacher, taught, 0.0) + self.infonce_weight * self.contrast


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One loss.

    rows: the loss of each row, (B,), with a gradient to the scores; the batch's is their mean. It may not mix rows of
    different batches, and is called once for every size of train.matryoshka. needs_scores: it learns from the
    pos_scores and neg_scores of train.jsonl. soft_labels: it learns from a teacher of whole batches, whose scores are
    `targets.soft_labels`. corpus: those scores are of the whole corpus, whose vectors don't train, and there is no
    contrast. steps: the length of a training whose length the settings leave open; epochs: at most so many.
    """

    rows: Callable[[Scored], Tensor]
    needs_scores: bool = False
    soft_labels: bool = False
    corpus: bool = False
    steps: int = 30
    epochs: float = 10.0

    @property
    def teaches_map(self) -> bool:
        """Whether a query map is learned before the weights: from a teacher of the whole corpus."""
        return self.corpus or self.soft_labels


def loss_named(name: str) -> Loss:
    """The loss of that name. Raises UsageError that lists the known ones."""
    return plugins.find(GROUP, name, Loss)
