"""One frozen record per file format of a run folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

#: "gap": a passage on the border of two parts, or a near-duplicate of an eval document's. It belongs to the
#: searchable corpus, but no query is written of it and nothing is trained on it.
Split = Literal["train", "dev", "test", "gap"]
#: "log" and "judge": a question that people asked. Those with "judge" may choose the retriever.
QuerySplit = Literal["train", "dev", "test", "gap", "log", "judge"]
#: The style of questions that people asked, and how their ids begin.
ASKED = "asked"
DocumentStatus = Literal["ok", "partial", "duplicate", "skipped"]
#: Of a field of metadata.
Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that was given to ingest, read or not.

    pages: number of pages, 0 where the format has none. characters: of the text that was read.
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
    page: 1-based page of the first character, 0 where the format has none.
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
        """What a model encodes and BM25 indexes: title, a space, text (BEIR's and FlagEmbedding's convention)."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What is known of a document beside its text, or of one passage of it. No model reads it.

    passage_id: the passage of which it holds alone, over what holds of its document; "" for all of the document's.
    values: by field. A list's items are texts.
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

    Whoever wants written queries leaves out those with `is_asked`, as written() does. An asked one has no passage
    (passage_id is empty) unless its file names answers; the others then stand in also_relevant.

    kept: whether it passed the filters; reason: the filter that dropped it, empty where kept.
    call_id: the ledger's key of the call that wrote it.
    also_relevant: further passages that answer it (near-duplicates of the source), never negatives.
    judged: how well the judge finds that the passage answers it, 0 to 1; None where none was asked.
    judge_call_id: the ledger's key of the call that judged it, where a language model did.
    times: how often it was asked, as far as was counted.
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
        """Whether people asked it: nothing is trained on it, and it is no written query."""
        return self.split in ("log", "judge")


def written(queries: Iterable[Query]) -> list[Query]:
    """The queries that a language model wrote."""
    return [query for query in queries if not query.is_asked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge said of one query and one candidate passage while training rows were made.

    score: 0 to 1, None where it gave none, with the reason. role: what the passage was to the query.
    kept: false for a candidate that was dropped as a false negative. call_id: the ledger's key of the
    call, where a language model judged.
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

    grade: 3 in full, 2 in part, 1 the same subject, 0 unrelated; None where the judge gave none, with the reason.
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

    neg may be empty; pos_scores and neg_scores (a teacher's, any real numbers) are there for every
    positive and negative or not at all. prompt: the query instruction, None for the model's own.
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
    """What a finished stage read, under which settings, and what it wrote. Written last.

    code: version of the stage. settings: those that decide its result, by dotted name; None in the manifests of
    embedfit 0.1, which held a hash of them in `config`. inputs, outputs: name of each file → SHA-256 of its content.
    opened: files of the run that the stage was seen to read beyond those that it is known to. stopped_at: the
    --max-cost that ended it early, None where it did all its work. seconds: wall time, summed over interrupted
    attempts where known. versions: of Python and of the packages that numbers may depend on; another one makes
    nothing stale.
    """

    stage: str
    schema: int
    code: str
    seed: int
    config: str = ""
    settings: dict[str, Any] | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    opened: tuple[str, ...] = ()
    stopped_at: float | None = None
    seconds: float = 0.0
    finished: str = ""
    versions: dict[str, str] = field(default_factory=dict)
