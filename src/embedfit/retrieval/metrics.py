"""Metrics of rankings, query by query: hit, recall, precision, MRR, nDCG and MAP at k.

There are two conventions, after the tools that people use:

                sentence-transformers (default)     trec_eval
equal scores    ascending passage id                descending passage id, scores compared as float32
nDCG gain       1 for every relevant passage        the passage's grade
MAP@k divides   by min(k, relevant passages)        by the number of relevant passages

In both, a passage is relevant if its grade is above 0, recall@k divides by the number of relevant passages, and
precision@k by k. A query without relevant passages scores 0 in every metric; leave such queries out, as
InformationRetrievalEvaluator does.

    judged = judge([["p7", "p2"], ["p1", "p9"]], [{"p2": 1}, {"p1": 1, "p4": 1}])
    score(judged, ("hit@1", "recall@2"))      # {"hit@1": array([0., 1.]), "recall@2": array([1. , 0.5])}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from embedfit.numerics.arrays import Bools, Doubles, Ints, Scores
from embedfit.numerics.ranking import best

#: The id of a passage: its name or its number.
Id = TypeVar("Id", bound=Hashable)
Convention = Literal["sentence-transformers", "trec_eval"]

#: The metrics that a run reports, in the order of its tables.
METRICS = (
    "hit@1", "hit@3", "hit@5", "hit@10", "mrr@10", "ndcg@10", "map@100", "recall@10", "recall@100", "precision@10",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """Rankings with their judgements, for Q queries and rankings of up to K passages.

    grades: (Q, K) grade of the passage at each rank, 0 if it is not relevant or the ranking is shorter.
    ideal: (Q, R) grades of all relevant passages of a query, descending, 0 beyond their number.
    relevant: (Q,) number of relevant passages of each query.
    """

    grades: Doubles
    ideal: Doubles
    relevant: Ints


def judge(rankings: Sequence[Sequence[Id]], relevant: Sequence[Mapping[Id, float] | Collection[Id]]) -> Judged:
    """Judge rankings (passage ids, best first) by the relevant passages of each query.

    relevant: for each query a mapping of passage id to grade, or a collection of ids (grade 1 each).
    Ids may be strings or row numbers, as long as both arguments use the same.
    """
    if len(rankings) != len(relevant):
        raise ValueError(f"{len(rankings)} rankings for {len(relevant)} queries")
    judgements = [_positive_grades(of_query) for of_query in relevant]
    depth = max((len(ranking) for ranking in rankings), default=0)
    grades = np.zeros((len(rankings), depth))
    ideal = np.zeros((len(rankings), max((len(of_query) for of_query in judgements), default=0)))
    for row, (ranking, of_query) in enumerate(zip(rankings, judgements, strict=True)):
        grades[row, : len(ranking)] = [of_query.get(passage, 0.0) for passage in ranking]
        ideal[row, : len(of_query)] = sorted(of_query.values(), reverse=True)
    return Judged(grades, ideal, np.array([len(of_query) for of_query in judgements], dtype=np.int64))


def _positive_grades(relevant: Mapping[Id, float] | Collection[Id]) -> dict[Id, float]:
    if isinstance(relevant, Mapping):
        return {passage: float(grade) for passage, grade in relevant.items() if grade > 0}
    return dict.fromkeys(relevant, 1.0)


def first_ranks(judged: Judged) -> Ints:
    """The 1-based rank of the first relevant passage of each query, 0 if the ranking has none: (Q,)."""
    found = judged.grades > 0
    if not found.shape[1]:
        return np.zeros(len(found), dtype=np.int64)
    ranks: Ints = found.argmax(1) + 1
    return ranks * found.any(1)


def hit(judged: Judged, k: int, convention: Convention = "sentence-transformers") -> Doubles:
    """1 if a relevant passage is among the first k, else 0 (accuracy@k, trec_eval's success): (Q,)."""
    return np.asarray((judged.grades[:, :k] > 0).any(1), dtype=np.float64)


def recall(judged: Judged, k: int, convention: Convention = "sentence-transformers") -> Doubles:
    """Share of the relevant passages that are among the first k. (Q,)."""
    return _divide((judged.grades[:, :k] > 0).sum(1), judged.relevant)


def precision(judged: Judged, k: int, convention: Convention = "sentence-transformers") -> Doubles:
    """Share of the first k ranks that hold a relevant passage; ranks beyond a shorter ranking count as wrong. (Q,)."""
    result: Doubles = (judged.grades[:, :k] > 0).sum(1) / k
    return result


def reciprocal_rank(judged: Judged, k: int, convention: Convention = "sentence-transformers") -> Doubles:
    """1 / rank of the first relevant passage, 0 if the rank is beyond k: (Q,). Its mean is MRR@k."""
    ranks = first_ranks(judged)
    return _divide((ranks > 0) & (ranks <= k), ranks)


def ndcg(judged: Judged, k: int, convention: Convention = "sentence-transformers") -> Doubles:
    """Discounted cumulative gain of the first k, divided by the best possible one: (Q,).

    DCG = Σ gain / log2(rank + 1) (Järvelin and Kekäläinen 2002).
    """
    gains, ideal = judged.grades[:, :k], judged.ideal[:, :k]
    if convention == "sentence-transformers":
        gains, ideal = (gains > 0).astype(np.float64), (ideal > 0).astype(np.float64)
    return _divide(gains @ _discounts(gains.shape[1]), ideal @ _discounts(ideal.shape[1]))


def average_precision(judged: Judged, k: int, convention: Convention = "sentence-transformers") -> Doubles:
    """Mean over the relevant passages of the precision at their rank, 0 for those beyond k. (Q,)."""
    found = judged.grades[:, :k] > 0
    precisions = found.cumsum(1) / np.arange(1, found.shape[1] + 1)
    possible = judged.relevant if convention == "trec_eval" else np.minimum(judged.relevant, k)
    return _divide((precisions * found).sum(1), possible)


def _discounts(depth: int) -> Doubles:
    discounts: Doubles = 1.0 / np.log2(np.arange(2, depth + 2))
    return discounts


def _divide(numerator: Doubles | Ints | Bools, denominator: Doubles | Ints) -> Doubles:
    result: Doubles = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
    return result


#: The function of each metric, by the name before the @.
KERNELS: dict[str, Callable[[Judged, int, Convention], Doubles]] = {
    "hit": hit,
    "recall": recall,
    "precision": precision,
    "mrr": reciprocal_rank,
    "ndcg": ndcg,
    "map": average_precision,
}


def parse(metric: str) -> tuple[str, int]:
    """The parts of a metric's name: ndcg@10 → ("ndcg", 10). Raises ValueError with the allowed names."""
    name, _, k = metric.partition("@")
    if name not in KERNELS or not k.isdecimal() or int(k) < 1:
        raise ValueError(f"{metric!r} is not a metric: use NAME@K with a name of {', '.join(KERNELS)} and K ≥ 1")
    return name, int(k)


def score(
    judged: Judged, metrics: Sequence[str] = METRICS, convention: Convention = "sentence-transformers"
) -> dict[str, Doubles]:
    """Every metric of every query: name → (Q,) values in [0, 1]."""
    parsed = {metric: parse(metric) for metric in metrics}
    return {metric: KERNELS[name](judged, k, convention) for metric, (name, k) in parsed.items()}


def rank(
    scores: Scores | Doubles, ids: Sequence[str], k: int, convention: Convention = "sentence-transformers"
) -> Ints:
    """The k best passages of each query, best first, equal scores in the convention's order.

    scores: (Q, N), higher is better. ids: the N passage ids. Returns (Q, min(k, N)) columns of `scores`.
    """
    count = len(ids)
    if scores.shape[1] != count:
        raise ValueError(f"{scores.shape[1]} scores for {count} passages")
    descending = convention == "trec_eval"
    if descending:
        scores = scores.astype(np.float32, copy=False)  # trec_eval keeps scores as C floats, so close ones tie
    columns = np.array(sorted(range(count), key=ids.__getitem__, reverse=descending), dtype=np.int64)
    result: Ints = columns[best(scores[:, columns], k)]
    return result
