"""retriever.json: the retriever that ships, and the evidence."""

from __future__ import annotations

from typing import Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from embedfit.index.retriever import Retriever
from embedfit.path.artefacts.whole import Interval, Schema, ShippedModel, Whole

#: The verdict on a candidate against the safe default, as its interval allows.
Verdict = Literal["better", "no difference", "worse"]


class Against(Whole):
    """A retriever's mean minus another's. ci: the interval that decides. p: one-sided, and corrected like ci."""

    delta: float
    ci: Interval
    p: float
    verdict: Verdict | None


class TuningEvidence(Against):
    """The tuned model against the untuned one under the same retriever."""

    retriever: str


class ChoiceEvidence(Whole):
    """The questions that chose the retriever.

    tuning: None if there was only one model. judge: the one that graded; agreement: its weighted kappa with itself
    over the graded_twice results. left_out: the number of questions that can't tell the candidates apart. by_person:
    that of questions whose grades a person corrected. graded_by_person, begun_by_person: those of questions that a
    person graded whole, and in part.
    """

    kind: Literal["labelled", "graded", "written", "none"] = "none"
    questions: int = 0
    metric: str | None = None
    tuning: TuningEvidence | None = None
    judge: str | None = None
    agreement: float | None = None
    graded_twice: int | None = None
    graded_by_person: int | None = None
    begun_by_person: int | None = None
    left_out: int | None = None
    by_person: int | None = None

    @model_serializer(mode="wrap")
    def _known(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """The fields with a value. Unknown ones are left out, because people read the file."""
        return {name: value for name, value in write(self).items() if value is not None}


class ChosenCandidate(Against):
    """A retriever that could have been chosen, against the safe default. verdict: None for the default itself.

    ndcg: its mean. ungraded: the share of its best passages without a grade, None if no grades were used.
    """

    name: str
    model: str
    retriever: Retriever
    may_ship: bool = True
    ndcg: float
    ungraded: float | None = None


class ChosenRetriever(Whole):
    """retriever.json: the retriever that ships, the model under it, and the reason. default: the safe default.

    Both retrievers have the deviations of the run's passages.
    """

    edition: Schema = 1
    model: ShippedModel
    retriever: Retriever
    verdict: Literal["better", "no difference", "worse", "no evidence"] = "no evidence"
    why: str = ""
    evidence: ChoiceEvidence = ChoiceEvidence()
    default: Retriever
    candidates: tuple[ChosenCandidate, ...] = ()
