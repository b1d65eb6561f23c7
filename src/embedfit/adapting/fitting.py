"""Learns a query map from a teacher's scores. The passages' vectors stay as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from embedfit.adapting.teacher import TeacherScores
from embedfit.models.query_map import QueryMap
from embedfit.numerics.arrays import Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSettings:
    """steps of Adam, each with `batch` questions; temperature: the student's τ; teacher_temperature: T."""

    steps: int = 400
    batch: int = 64
    learning_rate: float = 1e-3
    temperature: float = 0.05
    teacher_temperature: float = 0.5
    seed: int = 13


def fit(queries: Vectors, passages: Vectors, scores: TeacherScores, settings: MapSettings) -> QueryMap:
    """The map, from the identity: the softmax of its cosines over the passages learns that of the teacher's scores.

    queries: (Q, H); passages: (N, H); both unit rows.
    """
    width = queries.shape[1]
    matrix = torch.eye(width, requires_grad=True)
    optimiser = torch.optim.Adam([matrix], lr=settings.learning_rate)
    asked, found = torch.from_numpy(queries), torch.from_numpy(passages)
    targets = torch.softmax(torch.from_numpy(scores.scores) / settings.teacher_temperature, dim=1)
    rng = np.random.default_rng(settings.seed)
    every = scores.columns.shape[1] == len(passages)
    for _ in range(settings.steps):
        rows = rng.permutation(len(queries))[: settings.batch]
        mapped = torch.nn.functional.normalize(asked[rows] @ matrix.T, dim=1)
        if every:
            logits = mapped @ found.T
        else:
            own, places = np.unique(scores.columns[rows], return_inverse=True)
            logits = (mapped @ found[own].T).gather(1, torch.from_numpy(places.reshape(len(rows), -1)))
        loss = -(targets[rows] * torch.log_softmax(logits / settings.temperature, dim=1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return QueryMap(matrix.detach().numpy())
