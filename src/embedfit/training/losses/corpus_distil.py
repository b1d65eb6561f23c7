"""Corpus distillation: a teacher's distribution over the whole corpus, whose vectors stay as they are.

The teacher is embedfit.teaching's. Only queries are encoded in a step, so a step costs as much as its queries.
"""

from __future__ import annotations

from torch import Tensor

from embedfit.teaching.query_map import corpus_cross_entropy
from embedfit.training.losses.loss import Loss, Scored


def rows(batch: Scored) -> Tensor:
    """Cross entropy with the target distribution over the candidates. (B,)."""
    wanted = batch.targets.soft_labels
    if wanted is None:
        raise ValueError("corpus-distil needs targets over the corpus")
    return corpus_cross_entropy(batch.scores, wanted)


LOSS = Loss(rows=rows, corpus=True, steps=150, epochs=30.0)
