"""Batches of rows, and micro-batches of texts that are encoded together."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from embedfit.numerics.arrays import Bools, Floats, Ints
from embedfit.numerics.batching import batches_by_length
from embedfit.training.masking import guide_allows
from embedfit.training.store import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """B rows, with every distinct text once.

    rows: (B,) numbers of the training rows. texts: (N,) numbers into the store, the distinct queries first. queries:
    (B,) places in texts. passages: (P,) places in texts. group: (B, 1 + K) columns of passages, the positive first,
    then the row's own hard negatives, -1 where there are fewer. allowed: (B, P), whether the passage is in the
    denominator of the row's softmax; always true for its positive. teacher: (B, 1 + K) scores, NaN where there are
    none. soft_labels: (B, P), a teacher's scores of all passages; None without such a teacher. frozen: (P, H) unit
    vectors of passages that don't train, and then `passages` is empty, group has no columns, and soft_labels are target
    probabilities, NaN for passages that are no candidates of the row; None if the passages train.
    """

    rows: Ints
    texts: Ints
    queries: Ints
    passages: Ints
    group: Ints
    allowed: Bools
    teacher: Floats
    soft_labels: Floats | None = None
    frozen: Floats | None = None


class BatchTeacher(Protocol):
    """A teacher that scores all passages of a batch."""

    def scores(self, queries: Ints, passages: Ints) -> Floats:
        """Scores (B, P). queries: (B,), passages: (P,): numbers into the store."""


class Composes(Protocol):
    """A maker of batches."""

    @property
    def examples(self) -> Sequence[Example]:
        """All examples."""

    def compose(self, chosen: Ints, rng: np.random.Generator) -> TrainingBatch:
        """The batch of the examples with these numbers, all draws by rng."""


def epoch_batches(examples: Sequence[Example], batch_size: int, rng: np.random.Generator) -> list[Ints]:
    """All examples once, in random order, in batches of nearly equal size of at most batch_size.

    Rows with the same query or a common positive go to different batches as far as possible: as each other's negatives
    they would teach something wrong, and masked they teach less.
    """
    count = max(1, -(-len(examples) // batch_size))
    sizes = [len(part) for part in np.array_split(np.empty(len(examples)), count)]
    waiting = deque(int(index) for index in rng.permutation(len(examples)))
    batches = []
    for size in sizes:
        chosen: list[int] = []
        deferred: list[int] = []
        used: set[int] = set()
        while waiting and len(chosen) < size:
            index = waiting.popleft()
            example = examples[index]
            keys = {example.query, *example.positives}
            if used & keys:
                deferred.append(index)
            else:
                used |= keys
                chosen.append(index)
        while len(chosen) < size:  # too few sources for the size: the other rows are masked instead
            chosen.append(deferred.pop(0))
        waiting.extendleft(reversed(deferred))
        batches.append(np.array(chosen, np.int64))
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Composer:
    """Makes batches of chosen examples.

    known: for each example the passages that are no negatives of it. hard_negatives: how many of a row's one step uses.
    in_batch: whether the passages of other rows are negatives too. guide: (N, H) unit vectors of all texts by the guide
    model, or None; margin: see guide_allows. teacher: scores whole batches, or None.
    """

    examples: Sequence[Example]
    known: Sequence[frozenset[int]]
    hard_negatives: int
    in_batch: bool = True
    guide: Floats | None = None
    margin: float = 0.0
    teacher: BatchTeacher | None = None

    def compose(self, chosen: Ints, rng: np.random.Generator) -> TrainingBatch:
        """The batch of these examples: one positive each and a sample of the hard negatives, drawn by rng."""
        rows = [self.examples[index] for index in chosen]
        places: dict[int, int] = {}
        queries = [places.setdefault(row.query, len(places)) for row in rows]
        columns: dict[int, int] = {}
        group = np.full((len(rows), 1 + self.hard_negatives), -1, np.int64)
        teacher = np.full(group.shape, np.nan, np.float32)
        for line, (index, row) in enumerate(zip(chosen, rows, strict=True)):
            drawn, scores = self._draw(row, self.known[index], rng)
            group[line, : len(drawn)] = [columns.setdefault(text, len(columns)) for text in drawn]
            teacher[line, : len(scores)] = scores
        texts = np.array([*places, *columns], np.int64)
        return TrainingBatch(
            rows=np.array([row.row for row in rows], np.int64),
            texts=texts,
            queries=np.array(queries, np.int64),
            passages=np.arange(len(places), len(texts), dtype=np.int64),
            group=group,
            allowed=self._allowed(chosen, columns, group, texts, np.array(queries, np.int64), len(places)),
            teacher=teacher,
            soft_labels=None if self.teacher is None else self.teacher.scores(texts[queries], texts[len(places) :]),
        )

    def _draw(self, row: Example, known: frozenset[int], rng: np.random.Generator) -> tuple[list[int], list[float]]:
        pick = int(rng.integers(len(row.positives)))
        legal = [place for place, text in enumerate(row.negatives) if text not in known]
        if len(legal) > self.hard_negatives:
            legal = [legal[place] for place in sorted(rng.choice(len(legal), self.hard_negatives, replace=False))]
        texts = [row.positives[pick], *(row.negatives[place] for place in legal)]
        if not row.positive_scores or (row.negatives and not row.negative_scores):
            return texts, []
        return texts, [row.positive_scores[pick], *(row.negative_scores[place] for place in legal)]

    def _allowed(
        self, chosen: Ints, columns: Mapping[int, int], group: Ints, texts: Ints, queries: Ints, start: int
    ) -> Bools:
        """(B, P): see TrainingBatch.allowed."""
        own = np.zeros((len(chosen), len(columns)), np.bool_)
        lines, _ = np.nonzero(group >= 0)
        own[lines, group[group >= 0]] = True
        if not self.in_batch:
            return own
        allowed = np.ones_like(own)
        if self.guide is not None and self.margin > 0:
            # The row's own negatives passed a rule when they were mined; the guide judges those that came by chance.
            vectors = self.guide[texts]
            allowed = guide_allows(vectors[queries], vectors[start:], group[:, 0], self.margin) | own
        for line, index in enumerate(chosen):
            masked = [columns[text] for text in self.known[index] if text in columns]
            allowed[line, masked] = False
        allowed[np.arange(len(chosen)), group[:, 0]] = True
        return allowed


#: The fixed cost of a micro-batch, in padded tokens.
_OVERHEAD = 256


def micro_batches(lengths: Ints, budget: int) -> list[Ints]:
    """Indices of texts in batches of little padding whose number × longest text is within the budget. lengths: (N,)."""
    return list(batches_by_length(lengths, budget, overhead=_OVERHEAD))
