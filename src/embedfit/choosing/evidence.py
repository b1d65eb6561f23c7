"""What questions say of the candidates: a number for each question and candidate, with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedfit.choosing import metric
from embedfit.choosing.candidates import Candidate
from embedfit.choosing.estimates import Estimate, corrected, plain
from embedfit.choosing.grades import Grades
from embedfit.choosing.questions import Question
from embedfit.numerics.arrays import Doubles, Ints
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.significance import number

Kind = Literal["labelled", "graded", "written", "none"]

#: What labels are measured with; grades are measured as deep as the pool goes.
LABELLED_DEPTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """C candidates on Q questions.

    values: (Q, C) in [0, 1], by labels or by the judge. person: (Q, C) by a person, read where `both`. clusters: (Q,)
    questions of one number are resampled together. facts: what retriever.json says beside. blind: (C,) share of the
    first passages that have no grade.
    """

    kind: Kind
    metric: str
    candidates: Sequence[Candidate]
    values: Doubles
    clusters: Ints
    person: Doubles | None = None
    both: npt.NDArray[np.bool_] | None = None
    blind: Doubles | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def questions(self) -> int:
        """Q."""
        return len(self.values)

    def place(self, model: str, name: str) -> int:
        """The number of a candidate."""
        return next(n for n, one in enumerate(self.candidates) if (one.model, one.name) == (model, name))

    def against(self, default: int, others: Sequence[int], *, rng: np.random.Generator) -> Estimate:
        """Differences of candidates, by number, to one of them."""
        columns = list(others)
        values = self.values[:, columns] - self.values[:, [default]]
        return self._estimate(values, None if self.person is None else self._to(self.person, default, columns), rng)

    def means(self) -> Doubles:
        """Each candidate's mean. (C,)."""
        return self._estimate(self.values, self.person, np.random.default_rng(0)).delta

    @staticmethod
    def _to(values: Doubles, default: int, columns: list[int]) -> Doubles:
        difference: Doubles = values[:, columns] - values[:, [default]]
        return difference

    def _estimate(self, values: Doubles, person: Doubles | None, rng: np.random.Generator) -> Estimate:
        if person is None or self.both is None:
            return plain(values, self.clusters, rng=rng)
        return corrected(values, person, self.both, self.clusters, rng=rng)


def labelled(
    kind: Kind,
    questions: Sequence[Question],
    candidates: Sequence[Candidate],
    rankings: Sequence[Sequence[Sequence[str]]],
) -> Evidence:
    """By the passages that askers or writers named. rankings: of each candidate, of each question, passage ids."""
    relevant = [question.relevant for question in questions]
    columns = [ndcg(judge([row[:LABELLED_DEPTH] for row in of], relevant), LABELLED_DEPTH) for of in rankings]
    # Questions of one passage win and lose together.
    clusters = number([min(one) for one in relevant])
    return Evidence(
        kind=kind,
        metric=f"nDCG@{LABELLED_DEPTH}",
        candidates=candidates,
        values=np.stack(columns, axis=1),
        clusters=clusters,
    )


def graded(
    questions: Sequence[Question],
    candidates: Sequence[Candidate],
    rankings: Sequence[Sequence[Sequence[str]]],
    grades: Grades,
    person: Grades,
    *,
    depth: int,
    facts: Mapping[str, Any],
) -> Evidence:
    """By a judge's grades, a person's, or a judge's that a person's correct.

    Questions whose passages are all below 2 tell nothing and are left out, and so are those without a grade; their
    number is in the facts. person: of questions that a person graded whole.
    """
    alone = not grades
    source = person if alone else grades
    used = [n for n, one in enumerate(questions) if metric.tells(source.get(one.query_id, {}))]
    values = _values(questions, rankings, used, source, depth)
    ungraded = [[metric.ungraded(of[n], source[questions[n].query_id], depth) for of in rankings] for n in used]
    both = np.array([questions[n].query_id in person for n in used], bool)
    corrects = not alone and bool(both.any())
    return Evidence(
        kind="graded",
        metric=f"nDCG@{depth}",
        candidates=candidates,
        values=values,
        clusters=np.arange(len(used)),
        person=_values(questions, rankings, used, person, depth) if corrects else None,
        both=both if corrects else None,
        blind=np.array(ungraded, np.float64).mean(0) / depth if used else None,
        facts={**facts, "left_out": len(questions) - len(used), "by_person": int(both.sum())},
    )


def _values(
    questions: Sequence[Question],
    rankings: Sequence[Sequence[Sequence[str]]],
    used: Sequence[int],
    grades: Grades,
    depth: int,
) -> Doubles:
    rows = [[metric.ndcg(of[n], grades.get(questions[n].query_id, {}), depth) for of in rankings] for n in used]
    return np.array(rows, np.float64).reshape(len(used), len(rankings))
