"""A retrieval task on which mixtures are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.numerics.arrays import Doubles, Ints, Scores, Vectors
from embedfit.numerics.ranking import best
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.own import without_own


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalTask:
    """Queries and the passages that they are searched in.

    relevant: the numbers of the passages that answer each query. own: (Q,) the passage that is the query itself, -1 for
    none; None if no query is a passage.
    """

    queries: tuple[str, ...]
    passages: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    own: Ints | None = None

    def ndcg10(self, passages: Vectors, queries: Vectors) -> Doubles:
        """NDCG@10 of each query, (Q,), by vectors of the passages, (N, H), and of the queries, (Q, H)."""
        return per_query_ndcg(without_own(queries @ passages.T, self.own), self.relevant)


def per_query_ndcg(scores: Scores, relevant: Sequence[frozenset[int]], k: int = 10) -> Doubles:
    """NDCG@k of each query. scores: (Q, N) of every passage, -inf for those that are left out."""
    found = [row[np.isfinite(of_query[row])].tolist() for row, of_query in zip(best(scores, k), scores, strict=True)]
    return ndcg(judge(found, relevant), k)
