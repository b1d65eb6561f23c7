"""How well passages answer a query, as a teacher sees it: the soft labels of training rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedfit.judging.judge import Judge, Pair, PairScore
from embedfit.numerics.arrays import Scores, Vectors
from embedfit.path.artefacts import Judgement, Passage, Query
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import weighted_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The passages of one row, by their numbers, and a teacher's score of each; () where it has none."""

    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()


def by_base(choices: Sequence[Choice], query_vectors: Vectors, vectors: Vectors) -> list[Choice]:
    """The choices with the base model's cosines. query_vectors: (Q, H); vectors: (N, H)."""
    return [
        replace(
            choice,
            positive_scores=tuple(_rounded(query_vectors[place] @ vectors[row]) for row in choice.positives),
            negative_scores=tuple(_rounded(query_vectors[place] @ vectors[row]) for row in choice.negatives),
        )
        for place, choice in enumerate(choices)
    ]


def fused(
    choices: Sequence[Choice],
    queries: Sequence[Query],
    passages: Sequence[Passage],
    query_vectors: Vectors,
    vectors: Vectors,
) -> list[Choice]:
    """The choices with scores of BM25 and the base model together. query_vectors: (Q, H); vectors: (N, H)."""
    index = Bm25([passage.content for passage in passages])
    result = []
    for place, choice in enumerate(choices):
        shares = fused_shares(vectors @ query_vectors[place], index.scores(queries[place].text))
        result.append(
            replace(
                choice,
                positive_scores=tuple(_rounded(shares[row]) for row in choice.positives),
                negative_scores=tuple(_rounded(shares[row]) for row in choice.negatives),
            )
        )
    return result


def fused_shares(dense: Scores, lexical: Scores) -> Scores:
    """Means of the standardised scores, as shares of the best passage's. dense, lexical and result: (N,).

    1 for the best passage, 0 for one that is no better than the corpus on average: the scale of a judge.
    """
    both = weighted_sum(dense, lexical)
    best = max(float(both.max()), 1e-9)
    shares: Scores = np.clip(both / best, 0.0, 1.0)
    return shares


def _rounded(score: np.float32) -> float:
    return round(float(score), 5)


def judged(
    choices: Sequence[Choice],
    queries: Sequence[Query],
    passages: Sequence[Passage],
    judge: Judge,
    *,
    count: int,
    max_relative_score: float,
) -> tuple[list[Choice], list[Judgement]]:
    """Each choice with the judge's scores and at most `count` negatives; and all that the judge said.

    A negative that scores above max_relative_score × the first positive is an unmarked answer, and one
    that got no score can't be told from one: both are dropped. Where a positive got no score, the row
    keeps its negatives and has no scores: it teaches by contrast alone.
    """
    pairs = [
        (place, row, Pair(queries[place].text, passages[row].content))
        for place, choice in enumerate(choices)
        for row in (*choice.positives, *choice.negatives)
    ]
    verdicts = {
        (place, row): verdict
        for (place, row, _), verdict in zip(pairs, judge.judge([pair for _, _, pair in pairs]), strict=True)
    }
    result: list[Choice] = []
    said: list[Judgement] = []
    for place, choice in enumerate(choices):
        of_row = {row: verdicts[place, row] for row in (*choice.positives, *choice.negatives)}
        kept = without_false_negatives(choice, of_row, max_relative_score)[:count]
        result.append(_with_verdicts(replace(choice, negatives=kept), of_row))
        said += _judgements(queries[place].query_id, passages, choice, of_row, kept)
    return result, said


def without_false_negatives(
    choice: Choice, verdicts: dict[int, PairScore], max_relative_score: float
) -> tuple[int, ...]:
    """The negatives that the judge does not find nearly as good as the positive; all where it has no score."""
    positive = verdicts[choice.positives[0]].score
    if positive is None:
        return choice.negatives
    scores = {row: verdicts[row].score for row in choice.negatives}
    return tuple(
        row for row in choice.negatives if (score := scores[row]) is not None and score <= max_relative_score * positive
    )


def _with_verdicts(choice: Choice, verdicts: dict[int, PairScore]) -> Choice:
    scores = {row: verdicts[row].score for row in (*choice.positives, *choice.negatives)}
    known = {row: round(score, 5) for row, score in scores.items() if score is not None}
    if len(known) < len(scores):
        return choice
    return replace(
        choice,
        positive_scores=tuple(known[row] for row in choice.positives),
        negative_scores=tuple(known[row] for row in choice.negatives),
    )


def _judgements(
    query_id: str, passages: Sequence[Passage], choice: Choice, verdicts: dict[int, PairScore], kept: Collection[int]
) -> list[Judgement]:
    said = []
    for row, verdict in verdicts.items():
        positive = row in choice.positives
        said.append(
            Judgement(
                query_id=query_id,
                passage_id=passages[row].passage_id,
                role="positive" if positive else "negative",
                score=None if verdict.score is None else round(verdict.score, 5),
                kept=positive or row in kept,
                reason=verdict.reason,
                call_id=verdict.call_id,
            )
        )
    return said
