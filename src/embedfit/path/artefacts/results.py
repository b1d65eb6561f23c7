"""evaluation.json and summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from embedfit.index.retriever import Retriever
from embedfit.path.artefacts.chosen import ChosenRetriever
from embedfit.path.artefacts.tuning import MergeDecision
from embedfit.path.artefacts.whole import METRIC, Interval, Schema, Whole


class Ranked(Whole):
    """A system's result for a query. rank: of the first relevant passage, 0 if none was found. top: best passages."""

    rank: int
    top: tuple[str, ...]


class Outcome(Whole):
    """A query that the tuned system wins or loses against the base. Each further key is a system with its result."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Ranked]

    query_id: str
    query: str
    style: str = ""
    relevant: tuple[str, ...]
    delta: float

    @property
    def systems(self) -> Mapping[str, Ranked]:
        """Each system's result, by its name."""
        return self.__pydantic_extra__


class ShownPassage(Whole):
    """A passage as it is shown: its text may be cut. document: the document's name for people."""

    title: str
    text: str
    document_id: str
    document: str = ""
    page: int = 0


class Slice(Whole):
    """A group of evaluation queries. base: the base's mean; the one further key: the tuned system's."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    value: str
    queries: int
    base: float
    delta: float
    ci95: Interval | None = None

    @property
    def tuned(self) -> float:
        """The tuned system's mean."""
        return next(iter(self.__pydantic_extra__.values()))


class Evaluation(Whole):
    """evaluation.json: the details behind summary.json.

    tuned: the system that outcomes and slices compare with the base. counts: queries won, lost and tied. passages: by
    id, every passage that wins and losses name. slices: groups of queries, by the name of the grouping.
    """

    edition: Schema = 1
    metric: str = METRIC
    cluster_by: str = ""
    tuned: str = "merged"
    counts: Mapping[str, int] = {}
    wins: tuple[Outcome, ...] = ()
    losses: tuple[Outcome, ...] = ()
    passages: Mapping[str, ShownPassage] = {}
    slices: Mapping[str, tuple[Slice, ...]] = {}


class System(Whole):
    """A retrieval system's means over the evaluation queries, by metric, with their 95% intervals."""

    metrics: Mapping[str, float]
    ci95: Mapping[str, Interval] = {}


class Comparison(Whole):
    """The mean of system a minus that of system b, on one metric.

    minimum_detectable: the true difference that an evaluation of this size shows as significant in four of five cases.
    """

    a: str
    b: str
    metric: str
    delta: float
    ci95: Interval | None = None
    p_value: float | None = None
    queries: int = 0
    clusters: int = 0
    minimum_detectable: float | None = None

    @property
    def verdict(self) -> Literal["better", "unsure", "worse"]:
        """The interval's verdict on a: better or worse if it leaves zero out, else unsure."""
        low, high = self.ci95 or (-1.0, 1.0)
        return "better" if low > 0 else "worse" if high < 0 else "unsure"

    @property
    def better(self) -> bool:
        """Whether a is surely better than b."""
        return self.verdict == "better"

    def __str__(self) -> str:
        """In points, as "merged - base: +2.4 points of ndcg@10, 95% CI [-1.5, +6.2], p = 0.1962"."""
        text = f"{self.a} - {self.b}: {100 * self.delta:+.1f} points of {self.metric}"
        if self.ci95 is not None:
            text += f", 95% CI [{100 * self.ci95[0]:+.1f}, {100 * self.ci95[1]:+.1f}]"
        return text if self.p_value is None else f"{text}, p = {self.p_value:.4f}"


class MeasuredRetriever(Whole):
    """A system as a retriever. model: the model of its vectors, None for words alone.

    ms_a_query: the median milliseconds of single queries.
    """

    model: str | None
    retriever: Retriever
    bytes_a_passage: float | None = None
    ms_a_query: float | None = None


class Storage(Whole):
    """A way to store one vector a passage.

    bytes_a_passage: those in memory; on_disk: those that only rescoring reads. trained: whether the model was trained
    for this number of dimensions, if the vectors are cut. delta: the change of nDCG@10 from float32.
    """

    name: str
    dimensions: int
    bytes_a_passage: float
    on_disk: int = 0
    trained: bool | None = None
    score: Annotated[float, Field(alias="ndcg@10")]
    ci95: Interval
    delta: float
    delta_ci95: Interval


class Decision(MergeDecision):
    """The model that ships and the retriever over it. retriever: None in runs of embedfit 0.1."""

    why: str = ""
    retriever: ChosenRetriever | None = None

    @property
    def over(self) -> str:
        """The model that the retriever searches with, "merged" or "base"."""
        if self.retriever is not None:
            return self.retriever.model
        return "base" if self.ship == "base" else "merged"


class Counts(Whole):
    """Numbers of documents, passages, queries and rows.

    eval_passages_cut: passages that are longer than the base's window. eval_queries_skipped: queries without an answer
    in the corpus. without_written_queries: whether the retriever that ships has written queries in its index, but was
    measured without them.
    """

    documents: int = 0
    passages: int = 0
    queries_generated: int = 0
    queries_kept: int = 0
    train_rows: int = 0
    eval_queries: int = 0
    eval_kind: Literal["synthetic", "human"] = "synthetic"
    eval_passages: int = 0
    eval_passages_cut: int = 0
    eval_queries_skipped: int = 0
    without_written_queries: bool = False


class Cost(Whole):
    """The cost of the run's language-model calls and paid vectors.

    models: the language models that wrote or judged, each as PROVIDER:MODEL.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    models: tuple[str, ...] = ()


class Summary(Whole):
    """summary.json: the results of a run, for people and for continuous integration.

    systems, retrievers: by name, in the order of the report. cluster_by: the unit that resampling draws for intervals.
    timings_s: seconds by stage.
    """

    edition: Schema = 1
    systems: Mapping[str, System]
    comparisons: tuple[Comparison, ...] = ()
    retrievers: Mapping[str, MeasuredRetriever] = {}
    storage: tuple[Storage, ...] = ()
    decision: Decision
    data: Counts = Counts()
    cluster_by: str = ""
    timings_s: Mapping[str, float] = {}
    cost: Cost = Cost()

    @property
    def human(self) -> bool:
        """Whether people, not a language model, asked the evaluation queries."""
        return self.data.eval_kind == "human"

    @property
    def same_as_default(self) -> bool:
        """Whether the retriever that was chosen is the safe default."""
        return self.retrievers.get("chosen") == self.retrievers.get("default")

    @property
    def lead(self) -> str:
        """The name of the system that ships. In runs of embedfit 0.1, which have no retriever, it is the model's."""
        names = ("default", "chosen") if self.same_as_default else ("chosen", "default")
        return next((name for name in names if name in self.systems), self.decision.ship)

    def comparison(self, a: str, b: str = "base", metric: str = METRIC) -> Comparison | None:
        """The comparison of two systems on a metric, or None if it was not made."""
        return next((one for one in self.comparisons if (one.a, one.b, one.metric) == (a, b, metric)), None)

    @property
    def better(self) -> bool:
        """Whether a tuned model ships and what ships is surely better than the base: by the 95% interval of nDCG@10."""
        found = self.comparison(self.lead)
        return "base" not in (self.decision.ship, self.decision.over) and found is not None and found.better
