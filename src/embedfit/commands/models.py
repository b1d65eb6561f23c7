"""Functions on models for Python: encode texts, score rankings."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path

from embedfit.models.encoder import load_base
from embedfit.numerics.arrays import Vectors
from embedfit.retrieval import metrics as measures


def encode(model: str | Path, texts: str | Sequence[str], *, is_query: bool = False) -> Vectors:
    """Vectors of texts, (N, H) float32, exactly as the model's own modules compute them.

    model: an alias, a hub id, or a folder. texts: one string is one text. is_query: put the model's instruction for
    queries before each text. To encode more than once, open the model with load_base(). Raises ModelError.
    """
    return load_base(str(model)).encode([texts] if isinstance(texts, str) else texts, is_query=is_query)


def evaluate(
    rankings: Sequence[Sequence[Hashable]],
    relevant: Sequence[Mapping[str, float] | Mapping[int, float] | Collection[Hashable]],
    metrics: Sequence[str] = ("ndcg@10", "hit@5", "mrr@10", "recall@100"),
) -> dict[str, float]:
    """The mean of each metric over queries: name → a value in [0, 1].

    rankings: for each query the ids of passages, best first. relevant: for each query the grade of each relevant
    passage, or a collection of them. metrics: NAME@K, as retrieval.metrics lists them. Raises ValueError for another
    name, for lists of different lengths or without a query, and for a passage that a ranking holds twice.
    """
    if not rankings:
        raise ValueError("there is no query to evaluate")
    for number, ranking in enumerate(rankings):
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"ranking {number} holds a passage twice")
    found = measures.score(measures.judge(rankings, relevant), metrics)
    return {name: float(values.mean()) for name, values in found.items()}
