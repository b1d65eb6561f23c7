"""Learns a linear map on query vectors from a teacher. Passages keep their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import log_softmax, normalize

from embedfit.models.query_map import QueryMap
from embedfit.numerics.arrays import Ints, Vectors
from embedfit.progress import Reporter, Silent
from embedfit.teaching.scores import TeacherScores
from embedfit.teaching.targets import Labels, common_columns, targets


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSettings:
    """The settings of a map's training. docs/recipe.md has the measurements behind the defaults.

    steps: of Adam, with `batch` queries each. temperature: τ, the student's. teacher_temperature: T. label_share: see
    targets(). prior: c, the pull to the identity, see fit(); 0 for none.
    """

    steps: int = 200
    batch: int = 64
    learning_rate: float = 1e-3
    temperature: float = 0.05
    teacher_temperature: float = 1.0
    label_share: float = 0.3
    prior: float = 0.0
    seed: int = 13


def fit(
    queries: Vectors,
    passages: Vectors,
    scores: TeacherScores,
    settings: MapSettings = MapSettings(),
    *,
    labels: Sequence[Labels] = (),
    times: Ints | None = None,
    report: Reporter | None = None,
) -> QueryMap:
    """The map, learned from the identity, whose cosines with the passages have a softmax that is near the targets'.

    queries: (Q, H) and passages: (N, H), unit rows of one embedder; scores: of the Q queries. labels: of the Q queries,
    or () for none. times: (Q,) how often each query comes in an epoch; None: once. Equal inputs give equal maps. With a
    prior c the loss has another addend, c / Q · ‖M − I‖² (squared Frobenius norm), so that few queries move the map
    little; a pull to the start instead of to zero is called L2-SP (Li et al. 2018, arXiv 1802.01483).
    """
    known = labels or [{}] * len(queries)
    identity = torch.eye(queries.shape[1])
    matrix = identity.clone().requires_grad_()
    pull = settings.prior / len(queries)
    every = np.repeat(np.arange(len(queries), dtype=np.int64), 1 if times is None else times)
    optimiser = torch.optim.Adam([matrix], lr=settings.learning_rate)
    asked, found = torch.from_numpy(queries), torch.from_numpy(passages)
    with (report or Silent()).task("query map", settings.steps, "steps") as task:
        for step in range(settings.steps):
            rows = _rows(step, every, settings)
            wanted = targets(rows, scores, known, temperature=settings.teacher_temperature, share=settings.label_share)
            columns, spread = common_columns(rows, scores, wanted)
            mapped = normalize(asked[rows] @ matrix.T, dim=1)
            logits = mapped @ (found if scores.whole else found[columns]).T / settings.temperature
            loss = corpus_cross_entropy(logits, torch.from_numpy(spread)).mean()
            if pull:
                loss = loss + pull * (matrix - identity).square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            task.advance()
    return QueryMap(matrix.detach().numpy())


def corpus_cross_entropy(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the softmax over passages with target distributions. (B,).

    logits: (B, P); wanted: (B, P) probabilities, NaN for passages that are no candidates of the row.
    """
    missing = wanted.isnan()
    logs = log_softmax(logits.masked_fill(missing, -torch.inf), 1)
    return -(wanted.nan_to_num(0.0) * logs.masked_fill(missing, 0.0)).sum(1)


def _rows(step: int, every: Ints, settings: MapSettings) -> Ints:
    """The queries of a step: every epoch all of `every`, in an order of its own."""
    size = min(settings.batch, len(every))
    epoch, place = divmod(step, max(1, len(every) // size))
    order = np.random.default_rng([settings.seed, epoch]).permutation(every)
    return order[place * size : (place + 1) * size]
