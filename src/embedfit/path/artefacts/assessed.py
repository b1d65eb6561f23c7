"""assess/assess.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from embedfit.index.retriever import Retriever
from embedfit.path.artefacts.chosen import ChosenRetriever
from embedfit.path.artefacts.results import Cost
from embedfit.path.artefacts.whole import METRIC, Interval, Schema, Whole


class AssessedRow(Whole):
    """A retriever over a model, untrained. model: "" for words alone.

    score: its mean; delta: its mean minus that of one vector over the first model. metrics: further means, if the
    questions' answers are known.
    """

    model: str
    retriever: Retriever
    score: float
    ci95: Interval
    delta: float
    delta_ci95: Interval
    p_value: float
    metrics: Mapping[str, float] = {}
    bytes_a_passage: float | None = None
    ms_a_query: float | None = None

    @property
    def name(self) -> str:
        """Its name, unique in an assessment."""
        return f"{self.retriever.name}:{self.model}" if self.model else self.retriever.name


class Outlook(Whole):
    """Whether tuning is likely to help, and the figures that say so.

    gap: what windows and words add to one vector, in the first stage, which is what a teacher could teach. covered: the
    share of a question that BM25's best passage covers, on average.
    """

    verdict: Literal["likely", "not likely", "can't tell"]
    why: str
    gap: float
    gap_ci95: Interval
    covered: float


class Assessed(Whole):
    """assess/assess.json: the results of `embedfit assess`.

    kind: where the questions come from and who says what answers them. model: the model that is recommended; choice:
    the retriever over it. command: builds it. detectable: the true difference between the recommended retriever and one
    vector that so many questions would show in four of five cases.
    """

    edition: Schema = 1
    kind: Literal["labelled", "graded", "written"]
    questions: int
    passages: int
    documents: int
    metric: str = METRIC
    cluster_by: str = ""
    rows: tuple[AssessedRow, ...]
    models: tuple[str, ...]
    model: str
    choice: ChosenRetriever
    model_why: str
    command: str
    outlook: Outlook
    detectable: float | None = None
    notes: tuple[str, ...] = ()
    cost: Cost = Cost()
    seconds: float = 0.0

    @property
    def recommended(self) -> AssessedRow:
        """The row of the retriever that is recommended."""
        name = self.choice.retriever.name
        return next(row for row in self.rows if row.retriever.name == name and row.model in (self.model, ""))
