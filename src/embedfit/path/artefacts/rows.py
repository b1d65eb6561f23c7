"""The lines of JSONL files, and the manifest of a stage: frozen dataclasses, because there may be millions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

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
