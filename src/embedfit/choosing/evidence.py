"""Measures the candidates on questions: a number for each question and candidate, by labels or by grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from embedfit.choosing import metric
from embedfit.choosing.candidates import CandidateRetriever
from embedfit.choosing.estimates import Differences, corrected, plain
from embedfit.choosing.grades import Grades
from embedfit.choosing.questions import JudgingQuestion
from embedfit.numerics.arrays import Doubles, Ints
from embedfit.path.artefacts import ChoiceEvidence
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.significance import number

#: The metric for labels. The one for grades is as deep as the pool.
LABELLED_DEPTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """C candidates on Q questions.

    values: (Q, C) in [0, 1], by labels or by the judge. person: (Q, C) by a person, read only at `both`. clusters:
    (Q,) numbers; questions with the same number are resampled together. about: the record for retriever.json. blind:
    (C,) the share of the first passages that have no grade.
    """

    about: ChoiceEvidence
    candidates: Sequence[CandidateRetriever]
    values: Doubles
    clusters: Ints
    person: Doubles | None = None
    both: npt.NDArray[np.bool_] | None = None
    blind: Doubles | None = None

    @property
    def questions(self) -> int:
        """Q."""
        return len(self.values)

    def place(self, model: str, name: str) -> int:
        """The number of a candidate."""
        return next(n for n, one in enumerate(self.candidates) if (one.model, one.name) == (model, name))

    def against(self, default: int, others: Sequence[int], *, rng: np.random.Generator) -> Differences:
        """Differences between the candidates `others` and the candidate `default`, all given by number."""
        values, person = (
            None if of is None else of[:, list(others)] - of[:, [default]] for of in (self.values, self.person)
        )
        assert values is not None
        return self._estimate(values, person, rng)

    def means(self) -> Doubles:
        """Each candidate's mean. (C,)."""
        return self._estimate(self.values, self.person, np.random.default_rng(0)).delta

    def _estimate(self, values: Doubles, person: Doubles | None, rng: np.random.Generator) -> Differences:
        if person is None or self.both is None:
            return plain(values, self.clusters, rng=rng)
        return corrected(values, person, self.both, self.clusters, rng=rng)


def labelled(
    kind: Literal["labelled", "written"],
    questions: Sequence[JudgingQuestion],
    candidates: Sequence[CandidateRetriever],
    rankings: Sequence[Sequence[Sequence[str]]],
) -> Measurement:
    """A measurement by the passages that askers or writers named. rankings: passage ids by candidate and question."""
    relevant = [question.relevant for question in questions]
    columns = [ndcg(judge([row[:LABELLED_DEPTH] for row in of], relevant), LABELLED_DEPTH) for of in rankings]
    # Questions about one passage win and lose together.
    clusters = number([min(one) for one in relevant])
    return Measurement(
        about=ChoiceEvidence(kind=kind, questions=len(questions), metric=f"nDCG@{LABELLED_DEPTH}"),
        candidates=candidates,
        values=np.stack(columns, axis=1),
        clusters=clusters,
    )


def graded(
    questions: Sequence[JudgingQuestion],
    candidates: Sequence[CandidateRetriever],
    rankings: Sequence[Sequence[Sequence[str]]],
    grades: Grades,
    person: Grades,
    *,
    depth: int,
    about: ChoiceEvidence,
) -> Measurement:
    """A measurement by a judge's grades, by a person's, or by a judge's corrected by a person's.

    Questions without a grade of 2 or more can't order candidates. They are left out, and the result has their number.
    about: the facts known about the grades. person: grades of the questions that a person graded whole.
    """
    alone = not grades
    source = person if alone else grades
    used = [n for n, one in enumerate(questions) if metric.can_tell(source.get(one.query_id, {}))]
    values = _values(questions, rankings, used, source, depth)
    ungraded = [[metric.ungraded(of[n], source[questions[n].query_id], depth) for of in rankings] for n in used]
    both = np.array([questions[n].query_id in person for n in used], bool)
    corrects = not alone and bool(both.any())
    counts = {
        "kind": "graded",
        "metric": f"nDCG@{depth}",
        "questions": len(used),
        "left_out": len(questions) - len(used),
        "by_person": int(both.sum()),
    }
    return Measurement(
        about=about.model_copy(update=counts),
        candidates=candidates,
        values=values,
        clusters=np.arange(len(used)),
        person=_values(questions, rankings, used, person, depth) if corrects else None,
        both=both if corrects else None,
        blind=np.array(ungraded, np.float64).mean(0) / depth if used else None,
    )


def _values(
    questions: Sequence[JudgingQuestion],
    rankings: Sequence[Sequence[Sequence[str]]],
    used: Sequence[int],
    grades: Grades,
    depth: int,
) -> Doubles:
    rows = [[metric.ndcg(of[n], grades.get(questions[n].query_id, {}), depth) for of in rankings] for n in used]
    return np.array(rows, np.float64).reshape(len(used), len(rankings))
