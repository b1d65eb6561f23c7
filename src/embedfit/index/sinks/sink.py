"""The protocol of a sink, a place that takes everything an index searches, and the table of sinks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from embedfit import plugins
from embedfit.errors import InputError, UsageError
from embedfit.index.retriever import PartName, Retriever
from embedfit.index.store.filters import Filter
from embedfit.index.store.manifest import FieldColumns
from embedfit.numerics.arrays import Bytes, Floats, Ints
from embedfit.path.artefacts import Value
from embedfit.retrieval.bm25 import Sparse

#: Entry points of this group name a SinkKind as "module:NAME"; the entry point's name comes before the colon of --to.
GROUP = "embedfit.sinks"
#: The version of what a sink holds.
SCHEMA = 2
_SECRET = re.compile(r"(?i)([?&][^=&]*(?:pass|token|key|secret)[^=&]*=)[^&]*")


class About(BaseModel):
    """Facts that hold for all rows. A sink keeps them, as JSON, with its rows.

    content: names exactly these rows: an index with another passage, vector or weight has another one. model: the name
    that the user gave. fingerprint: hash of its weights, tokenizer and layout; vectors with different fingerprints
    can't be compared. instruction: the text put before queries. dimensions: of all vectors; 0 if there are none.
    retriever: the sum that ranks, with this index' deviations. holds: the parts in the rows, "tokens" among them.
    terms: for each part of words the number of terms, which is the dimension of its sparse vectors. languages: for each
    part of words the languages whose rules read a query. token_width: numbers of a token vector. fields: of passages.
    """

    model_config = ConfigDict(frozen=True)

    edition: int = SCHEMA
    content: str
    model: str
    fingerprint: str
    instruction: str
    dimensions: int
    passages: int
    retriever: Retriever
    holds: tuple[str, ...]
    terms: Mapping[str, int] = {}
    languages: Mapping[str, tuple[str, ...]] = {}
    token_width: int = 0
    fields: tuple[FieldColumns, ...] = ()

    @property
    def words(self) -> PartName | None:
        """The part of words that the retriever reads, which is at most one."""
        return next((part.name for part in self.retriever.parts if part.name in self.terms), None)


def read_about(text: str, place: str) -> About:
    """Facts from their JSON. Raises InputError; place: whose they are."""
    try:
        about = About.model_validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{place} holds no index that this version of embedfit can read.",
            remedy=f"Hand it over again: embedfit index --run DIR --to {place}",
        ) from error
    if about.edition != SCHEMA:
        raise InputError(
            f"{place} holds an index of version {about.edition}; this embedfit reads version {SCHEMA}.",
            remedy=f"Hand it over again: embedfit index --run DIR --to {place}",
        )
    return about


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A passage of an index.

    number: its place by ascending id, from 0; equal scores rank by it. page: 0 if the document has no pages. vector:
    (H,) of unit length; None in an index of words alone. windows: (W, H), a vector for each window of the passage, at
    least one. queries: (W, H), a vector for each written query, at least one. words: for each part of words BM25's
    weights of the passage's terms. tokens: (L, D) token vectors in one byte a number. A part that the index does not
    hold is None. digest: a hash of all that the passage has of its own, which is all but number and words.
    """

    number: int
    id: str
    document: str
    title: str
    text: str
    page: int
    vector: Floats | None
    windows: Floats | None
    queries: Floats | None
    words: Mapping[str, Sparse]
    tokens: Bytes | None
    metadata: Mapping[str, Value]
    digest: str

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        arrays = (self.vector, self.windows, self.queries, self.tokens)
        size = sum(one.nbytes for one in arrays if one is not None)
        size += sum(12 * len(one.numbers) for one in self.words.values())
        return size + 4 * (len(self.text) + len(self.title)) + 100 * len(self.metadata)


class Digest(NamedTuple):
    """A passage's id and Row.digest."""

    id: str
    digest: str


class Handover(Protocol):
    """An index that goes into a sink."""

    @property
    def about(self) -> About:
        """Facts that hold for all rows."""

    @property
    def questions(self) -> bytes:
        """Bytes that turn a query's text into what the rows are compared with; see questions.Questions.

        A sink keeps them beside the rows.
        """

    def batches(self, start: int = 0) -> Iterator[list[Row]]:
        """The rows from a number on, in bounded batches that are made as they are taken."""

    def digests(self) -> Iterator[Digest]:
        """What tells the passages of one hand-over from those of another, in the order of their ids."""

    def postings(self, part: str) -> tuple[Ints, Ints, Floats]:
        """A part of words by term instead of by passage; see Bm25.postings."""

    def terms(self, part: str) -> list[str]:
        """The terms of a part of words, by their numbers."""

    def field_files(self) -> Sequence[Path]:
        """The files of the passages' fields, which store.columns.Catalogue reads."""

    def log(self, line: str) -> None:
        """Tell the user something."""


class Sink(Protocol):
    """A place for an index."""

    def write(self, handover: Handover) -> None:
        """Put the rows in place of those of an earlier hand-over, in one step: a reader sees the old or the new ones.

        If something fails, the earlier rows stay. A sink that keeps what an interrupted load wrote goes on from there:
        `about.content` says whether the rows are the same.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A query as a store compares it.

    fingerprint: of the model that made it. vector: (H,). words: its sparse vector for each part of words.
    """

    fingerprint: str
    vector: Floats
    words: Mapping[str, Sparse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A passage that the first stage found, with its score there. tokens: (L, D); None if the store holds none."""

    number: int
    score: float
    id: str
    document: str
    title: str
    text: str
    page: int
    metadata: Mapping[str, Value]
    tokens: Bytes | None

    @classmethod
    def of(cls, row: Mapping[str, Any], *, width: int) -> Candidate:
        """A stored row: a mapping of the fields' names.

        Values of metadata that are lists become tuples. tokens: bytes of L × width numbers, None, or not there.
        """
        tokens = row.get("tokens")
        own = {
            "metadata": {
                name: tuple(value) if isinstance(value, list) else value for name, value in row["metadata"].items()
            },
            "tokens": None if tokens is None else np.frombuffer(tokens, np.int8).reshape(-1, width),
        }
        return cls(**{**row, **own})


def holds_no_index(place: str, address: str) -> UsageError:
    """The error for a place where nothing was handed over. address: what --to takes."""
    return UsageError(f"{place} holds no index.", remedy=f"Run: embedfit index --run DIR --to {address}")


class Outdated(InputError):
    """The rows that a store was opened on have been replaced since."""

    def __init__(self, place: object) -> None:
        super().__init__(
            f"Another index has been handed over to {place} since it was opened.",
            remedy="Open it again with connect(), and make the question again.",
        )


class Store(Protocol):
    """What was handed over, opened for queries."""

    about: About
    questions: bytes

    def first(self, question: Question, depth: int, where: Filter) -> list[Candidate]:
        """The best `depth` passages that meet a filter by the first stage, best first, equal scores by number.

        Raises InputError for a field that does not exist, Outdated if the rows were replaced.
        """

    def close(self) -> None:
        """Free its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """One kind of sink.

    Its module imports heavy packages only inside `open` and `read`.

    form: an example of --to. open: makes a sink from the whole text of --to; it raises UsageError for a text of
    another form and MissingDependency that names the extra. read: opens what was handed over for queries; None if
    nothing can be searched there. extra: the extra of embedfit that installs the packages it needs; "" for none.
    """

    form: str
    open: Callable[[str], Sink]
    read: Callable[[str], Store] | None = None
    extra: str = ""


def kind_of(url: str) -> SinkKind:
    """The kind of sink that a URL such as lancedb://DIR names. Raises UsageError that lists the known ones."""
    name, colon, _ = url.partition(":")
    if not colon or name not in plugins.places(GROUP):
        kinds = [one.record for _, one in sorted(plugins.table(GROUP, SinkKind).items())]
        forms = dict.fromkeys(
            f"{kind.form} (needs pip install 'embedfit[{kind.extra}]')" if kind.extra else kind.form for kind in kinds
        )
        raise UsageError(
            f"{shown(url)!r} names no place for an index.",
            remedy=f"Use one of: {', '.join(forms)}; or install the package that brings another.",
        )
    return plugins.find(GROUP, name, SinkKind)


def shown(url: str) -> str:
    """A URL without its secrets. A password may hold any sign, so the last @ ends it."""
    start = url.find("//") + 2
    end = url.rfind("@")
    if 2 <= start <= end:
        user = url[start:end].partition(":")[0]
        url = f"{url[:start]}{user}:***{url[end:]}" if ":" in url[start:end] else url
    return _SECRET.sub(r"\1***", url)


def after_colon(url: str, form: str) -> Path:
    """The folder that NAME:DIR or NAME://DIR names. Raises UsageError if it names none."""
    rest = url.partition(":")[2]
    rest = rest.removeprefix("//")
    if not rest:
        raise UsageError("--to names no folder.", remedy=f"For example: --to {form}")
    return Path(rest).expanduser()
