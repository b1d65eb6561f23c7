"""Teachers, which score how well passages answer a query. The scores are the soft labels of training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from embedfit.judging.judge import Judge, Pair
from embedfit.numerics.arrays import Rows, Scores, Vectors
from embedfit.path.artefacts import Judgement, Passage, Query
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import weighted_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The passages of one row, by their numbers, and a teacher's score of each; () if the row has no scores."""

    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()

    @property
    def passages(self) -> tuple[int, ...]:
        """Positives and negatives."""
        return (*self.positives, *self.negatives)

    def scored(self, scores: Mapping[int, float | None]) -> Choice:
        """The choice with the scores of its passages. If one of them is None, the choice stays without scores."""
        known = {row: round(score, 5) for row in self.passages if (score := scores[row]) is not None}
        if len(known) < len({*self.passages}):
            return self
        return replace(
            self,
            positive_scores=tuple(known[row] for row in self.positives),
            negative_scores=tuple(known[row] for row in self.negatives),
        )


def by_base(choices: Sequence[Choice], query_vectors: Vectors, vectors: Rows) -> list[Choice]:
    """The choices with the base model's cosines. query_vectors: (Q, H); vectors: (N, H)."""
    return [
        choice.scored({row: float(query_vectors[place] @ vectors[row]) for row in choice.passages})
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
        result.append(choice.scored({row: float(shares[row]) for row in choice.passages}))
    return result


def fused_shares(dense: Scores, lexical: Scores) -> Scores:
    """Means of both standardised scores, as shares of the best passage's. dense, lexical and result: (N,).

    The best passage has 1, and a passage that is no better than the corpus on average has 0, as on a judge's scale.
    """
    both = weighted_sum(dense, lexical)
    best = max(float(both.max()), 1e-9)
    shares: Scores = np.clip(both / best, 0.0, 1.0)
    return shares


def judged(
    choices: Sequence[Choice],
    queries: Sequence[Query],
    passages: Sequence[Passage],
    judge: Judge,
    *,
    count: int,
    max_relative_score: float,
) -> tuple[list[Choice], list[Judgement]]:
    """(each choice with the judge's scores and at most `count` negatives, all judgements).

    A negative that scores above max_relative_score × the first positive is taken for an unmarked answer and dropped. So
    is one without a score, which might be an answer too. If a positive got no score, the row keeps its negatives but
    has no scores, so training learns from their contrast alone.
    """
    pairs = [
        Pair(query.text, passages[row].content)
        for query, choice in zip(queries, choices, strict=True)
        for row in choice.passages
    ]
    answers = iter(judge.judge(pairs))
    result: list[Choice] = []
    said: list[Judgement] = []
    for query, choice in zip(queries, choices, strict=True):
        found = dict(zip(choice.passages, islice(answers, len(choice.passages)), strict=True))
        scores = {row: answer.score for row, answer in found.items()}
        kept = without_false_negatives(choice, scores, max_relative_score)[:count]
        result.append(replace(choice, negatives=kept).scored(scores))
        said += [
            Judgement(
                query_id=query.query_id,
                passage_id=passages[row].passage_id,
                role="positive" if row in choice.positives else "negative",
                score=None if answer.score is None else round(answer.score, 5),
                kept=row in choice.positives or row in kept,
                reason=answer.reason,
                call_id=answer.call_id,
            )
            for row, answer in found.items()
        ]
    return result, said


def without_false_negatives(
    choice: Choice, scores: Mapping[int, float | None], max_relative_score: float
) -> tuple[int, ...]:
    """The negatives that score clearly below the positive; all of them if the positive has no score."""
    positive = scores[choice.positives[0]]
    if positive is None:
        return choice.negatives
    return tuple(
        row for row in choice.negatives if (score := scores[row]) is not None and score <= max_relative_score * positive
    )
