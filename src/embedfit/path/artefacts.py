"""The records of all files of a run folder.

A line of a JSONL file is a frozen dataclass, because there may be millions; a file of one JSON value is a `Whole`.
embedfit.path.workspace reads and writes both, and pydantic checks them on reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from embedfit.index.retriever import Retriever

#: "gap": a passage on the border of two parts, or a near-duplicate of an eval document's. It belongs to the
#: searchable corpus, but no query is written of it and nothing is trained on it.
Split = Literal["train", "dev", "test", "gap"]
#: "log" and "judge": a question that people asked. Those with "judge" alone may choose the retriever, and they train
#: nothing. Those with "log" may train if they are kept.
QuerySplit = Literal["train", "dev", "test", "gap", "log", "judge"]
#: The style of questions that people asked, and how their ids begin.
ASKED = "asked"
DocumentStatus = Literal["ok", "partial", "duplicate", "skipped"]
#: The value of a field of metadata.
Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that was given to ingest, read or not.

    pages: number of pages, 0 if the format has none. characters: number of characters of the text that was read.
    reason: why status is not "ok"; empty otherwise. role: "train" for DOCS, "eval" for --eval-docs.
    """

    document_id: str
    path: str
    sha256: str
    pages: int = 0
    characters: int = 0
    status: DocumentStatus = "ok"
    reason: str = ""
    role: Literal["train", "eval"] = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document that fits the model's window.

    title: the heading path, or the title of a BEIR record; it is encoded before the text.
    page: 1-based page of the first character, 0 if the format has no pages.
    start, end: character offsets into the document's cleaned text.
    """

    passage_id: str
    document_id: str
    title: str
    text: str
    page: int = 0
    start: int = 0
    end: int = 0
    split: Split = "train"

    @property
    def content(self) -> str:
        """The text that a model encodes and BM25 indexes: title, a space, text, as in BEIR and FlagEmbedding."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Facts about a document, or about one of its passages, that are not in the text. No model reads them.

    passage_id: the one passage that has these facts, which replace those of its document; "" for facts of the whole
    document. values: by field. A list's items are texts.
    """

    document_id: str
    passage_id: str = ""
    values: dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedPassage:
    """A piece of a document that did not become a passage, with the reason."""

    document_id: str
    page: int
    start: int
    end: int
    reason: str
    preview: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query that a language model wrote of one passage, or a question that people asked.

    written() leaves out those that people asked. An asked question has no passage (passage_id is empty) unless its
    file names answers: the first is passage_id, the others are in also_relevant.

    kept: whether it passed the filters; reason: the filter that dropped it, empty if kept.
    call_id: the ledger's key of the call that wrote it.
    also_relevant: further passages that answer it (near-duplicates of the source), never negatives.
    judged: how well the passage answers it in the judge's opinion, 0 to 1; None if no judge was asked.
    judge_call_id: the ledger's key of the call that judged it, if a language model did.
    times: how often the log has it.
    """

    query_id: str
    passage_id: str
    text: str
    style: str
    split: QuerySplit
    kept: bool
    reason: str = ""
    call_id: str = ""
    also_relevant: tuple[str, ...] = ()
    judged: float | None = None
    judge_call_id: str = ""
    times: int = 1

    @property
    def is_asked(self) -> bool:
        """Whether people asked it. If so, it is no written query."""
        return self.split in ("log", "judge")


def written(queries: Iterable[Query]) -> list[Query]:
    """The queries that a language model wrote."""
    return [query for query in queries if not query.is_asked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The judge's score of one query and one candidate passage, from the stage that makes training rows.

    score: 0 to 1, None if it gave none, with the reason. role: the passage's role for the query. kept: false for a
    candidate that was dropped as a false negative. call_id: the ledger's key of the call, if a language model judged.
    """

    query_id: str
    passage_id: str
    role: Literal["positive", "negative"]
    score: float | None
    kept: bool
    reason: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """A question that somebody asked, and the passages that the candidate retrievers found for it, in random order."""

    query_id: str
    query: str
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """How well a passage answers a question that somebody asked, by a judge or a person.

    grade: 3 in full, 2 in part, 1 the same subject, 0 unrelated; None if the judge gave none, with the reason.
    judge: the model's id, "recorded", or "person". call_id: the ledger's key of the call.
    """

    query_id: str
    query: str
    passage_id: str
    grade: int | None
    reason: str = ""
    judge: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """A row of FlagEmbedding's JSONL.

    neg may be empty. pos_scores and neg_scores, a teacher's, are any real numbers; either every positive and negative
    has one, or none has. prompt: the query instruction, None for the model's own.
    """

    query: str
    pos: tuple[str, ...]
    neg: tuple[str, ...] = ()
    pos_scores: tuple[float, ...] = ()
    neg_scores: tuple[float, ...] = ()
    prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one query under one system. rank: 1-based rank of the first relevant passage, 0 if not found."""

    system: str
    query_id: str
    metric: str
    value: float
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The inputs, settings and outputs of a finished stage. It is written last.

    code: version of the stage. settings: those that decide its result, by dotted name; None in the manifests of
    embedfit 0.1, which held a hash of them in `config`. inputs, outputs: name of each file → SHA-256 of its content.
    opened: files of the run that the stage read although its entry in the table of stages does not name them.
    stopped_at: the --max-cost that ended it early, None if it did all its work. seconds: wall time, summed over
    interrupted attempts if known. versions: those of Python and of the packages that numbers may depend on; a
    different version makes nothing stale.
    """

    stage: str
    schema: int
    code: str
    seed: int
    config: str = ""
    settings: dict[str, JsonValue] | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    opened: tuple[str, ...] = ()
    stopped_at: float | None = None
    seconds: float = 0.0
    finished: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """One step of a training. seconds: its duration. tokens: the number encoded, without padding."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    tokens: int


# --- files of one JSON value


#: The low and the high end of an interval.
Interval: TypeAlias = tuple[float, float]
#: The model that ships: the merge, the fine-tuned model alone, or the base if neither is better.
Ship = Literal["merged", "finetuned", "base"]
#: The model that a retriever ships over: the result of the merge, or the base.
ShippedModel = Literal["merged", "base"]
#: The metric that decides what ships.
METRIC = "ndcg@10"
Schema: TypeAlias = Annotated[int, Field(alias="schema")]


class Whole(BaseModel):
    """A file of one JSON value, or a part of one. A field that an older embedfit did not write has a default."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class SweepPoint(Whole):
    """One weight that the merge tried. dev: metric → score; retention: nDCG@10 on text outside the corpus."""

    alpha: float
    dev: Mapping[str, float] = {}
    retention: float | None = None


class MergeDecision(Whole):
    """The model that ships. alpha: the weight of the fine-tuned model in the merge. why: the reason, in a sentence."""

    ship: Ship = "merged"
    alpha: float | None = None
    why: str = "merge.json holds no decision"


class MergeEvidence(Whole):
    """The comparison of the mixture that ships with the base, on dev queries.

    pool: the number of passages that were ranked. retention_set: a description of the general queries. The other
    fields are as in Comparison.
    """

    delta: float = 0.0
    ci95: Interval | None = None
    p_value: float | None = None
    dev_queries: int = 0
    clusters: int = 0
    cluster_by: str = ""
    detectable: float | None = None
    pool: int = 0
    retention_set: str = ""
    retention_queries: int = 0


class MergeSweep(Whole):
    """merge.json."""

    alphas: tuple[SweepPoint, ...] = ()
    decision: MergeDecision = MergeDecision()
    evidence: MergeEvidence = MergeEvidence()


class Separation(Whole):
    """Cosines of similar and different pairs under one model.

    auc: the chance that a similar pair scores higher than a different one.
    """

    similar: tuple[float, ...]
    different: tuple[float, ...]
    mean_similar: float
    mean_different: float
    auc: float


class CheckedPair(Whole):
    """A query and a passage, whether they belong together, and their cosine under the base and the merged model."""

    query: str
    passage: str
    similar: bool
    base: float
    merged: float


class CheckResult(Whole):
    """check.json.

    passed: None if there were no pairs to check. source: the split whose queries were drawn, or the name of the file of
    pairs. systems: "base" and "merged". pairs: the first ones.
    """

    edition: Schema = 1
    passed: bool | None
    verdict: str
    source: str = ""
    systems: Mapping[str, Separation] = {}
    pairs: tuple[CheckedPair, ...] = ()


class DevScore(Whole):
    """The nDCG@10 of the dev queries after so many steps."""

    step: int
    ndcg10: float


class DevScores(Whole):
    """Dev scores of the base and of the training."""

    base: float | None = None
    after: tuple[DevScore, ...] = ()


class TrainingLog(Whole):
    """finetuned/training.json.

    steps: the number of steps done; best_step: the one whose weights were kept. dropped_rows: numbers of lines of
    train.jsonl, from 1. empty_texts: the number left out. padding_share: the share of padding in all encoded tokens.
    retained_share: the least share of a step that was encoded only once, because memory for its graphs sufficed.
    config: the section `train` of the settings.
    """

    steps: int = 0
    best_step: int | None = None
    stopped_early: bool = False
    rows: int = 0
    dropped_rows: tuple[int, ...] = ()
    empty_texts: int = 0
    dev_ndcg10: DevScores = DevScores()
    seconds: float = 0.0
    tokens: int = 0
    tokens_per_second: float | None = None
    padding_share: float | None = None
    retained_share: float | None = None
    peak_memory_mb: int = 0
    precision: str = ""
    device: str = ""
    threads: int = 0
    config: Mapping[str, JsonValue] = {}


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


class AdaptDecision(Whole):
    """Whether a result of `embedfit adapt` is worth using, and why. share: the weight of the map, or of the queries."""

    ship: bool = False
    share: float = 0.0
    why: str = ""


class AdaptEvidence(Whole):
    """The held-out questions that decided on the map, whose answers no teacher named.

    The difference is that of the map against the frozen vectors. tried: nDCG by weight of the map.
    """

    kind: Literal["labelled", "graded", "written", "none"] = "none"
    questions: int = 0
    metric: str = METRIC
    delta: float | None = None
    ci95: Interval | None = None
    tried: Mapping[str, float] = {}


class AdaptData(Whole):
    """Numbers of passages and questions.

    asked, written: questions that trained. with_queries: passages that written queries moved. covered: the share of a
    question's words that BM25's best passage holds, averaged over the questions that trained.
    """

    passages: int = 0
    width: int = 0
    asked: int = 0
    written: int = 0
    with_queries: int = 0
    covered: float = 0.0
    eval_queries: int = 0
    eval_kind: Literal["synthetic", "human", "none"] = "none"


class Adapted(Whole):
    """adapt/adapt.json: the results of `embedfit adapt`.

    vectors: the embedder of the index. systems: "frozen", "mapped", "moved", "mapped_moved" and "bm25"; empty if no
    question with a known answer was there to measure on.
    """

    edition: Schema = 1
    vectors: str = ""
    map: AdaptDecision = AdaptDecision()
    move: AdaptDecision = AdaptDecision()
    evidence: AdaptEvidence = AdaptEvidence()
    data: AdaptData = AdaptData()
    systems: Mapping[str, System] = {}
    comparisons: tuple[Comparison, ...] = ()
    cluster_by: str = ""
    notes: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = {}
    cost: Cost = Cost()


class GoldenText(Whole):
    """A text with its vector, (D,), as its tower gives it. The text that is encoded is `text`, `times` times over."""

    role: Literal["query", "document"]
    text: str
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    vector: tuple[float, ...]


class GoldenVectors(Whole):
    """embedfit.json in a model folder: vectors that whoever loads the folder can compare with.

    queries, passages: the folder of the tower that encodes queries, and of the one that indexes; ".": the model folder
    itself, which has one tower for both.
    """

    edition: Schema = 1
    queries: str = "."
    passages: str = "."
    texts: tuple[GoldenText, ...]
