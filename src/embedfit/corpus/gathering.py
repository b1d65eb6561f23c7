"""The documents that ingest gathers: their passages, their metadata, and the parts left out, with reasons."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO, TypeVar

import numpy as np

from embedfit.config.writing import IngestConfig
from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.cleaning import clean_record
from embedfit.corpus.duplicates import shingles
from embedfit.corpus.grouping import group_records
from embedfit.corpus.quality import reason_to_drop
from embedfit.corpus.readers.registry import readers
from embedfit.corpus.reading import CutDocument, unreadable
from embedfit.corpus.sources import metadata
from embedfit.corpus.sources.discover import Source
from embedfit.corpus.sources.kinds import BEIR
from embedfit.corpus.split import Items
from embedfit.errors import InputError
from embedfit.files.beir import read_corpus
from embedfit.files.hashes import Digests, sha256_file
from embedfit.numerics import near_duplicates
from embedfit.numerics.arrays import Bools, Ints
from embedfit.path.artefacts import Document, DocumentStatus, DroppedPassage, Metadata, Passage, Value
from embedfit.path.forgotten import Forgotten
from embedfit.path.lines import Growing, Lines
from embedfit.path.workspace import decode_record, line_of

T = TypeVar("T")
_PREVIEW = 120


@dataclass(slots=True)
class Arrival:
    """A file on its way into the corpus.

    digest: its content's hash; "" for a file that is left out or has no reader. outcome: its entry in the list of
    documents, its content, or the reason why it can't be read; None until its reader is done. asked: whether a reader
    has it. told: the share of it that was reported as done.
    """

    source: Source
    digest: str = ""
    outcome: Document | CutDocument | str | None = None
    asked: bool = False
    told: float = 0.0

    @property
    def needs_reader(self) -> bool:
        """Whether it is a document that no one has read yet."""
        return bool(self.digest) and self.outcome is None and self.source.kind != BEIR


@dataclass(slots=True)
class Corpus:
    """The documents and passages that were gathered so far.

    contents: the first file of each content. cut: the metadata left out, each with its count. left_out: how many
    documents and records `embedfit forget` named. names: the ids of all documents. records: the ids of the records of
    each BEIR corpus.
    """

    settings: IngestConfig
    unnamed: Callable[[], IO[bytes]]
    forgotten: Forgotten = field(default_factory=Forgotten)
    contents: dict[str, Source] = field(default_factory=dict)
    cut: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    names: Digests = field(default_factory=Digests)
    records: list[Digests] = field(default_factory=list)
    documents: Growing[Document] = field(init=False)
    passages: Passages = field(init=False)
    dropped: Growing[DroppedPassage] = field(init=False)

    def __post_init__(self) -> None:
        self.documents = growing(self.unnamed(), Document)
        self.passages = Passages(self.unnamed)
        self.dropped = growing(self.unnamed(), DroppedPassage)

    def arrival(self, source: Source) -> Arrival:
        """A file with the facts that are known before it is read."""
        if self.forgotten.has_document(source.document_id):
            self.left_out += 1
            return Arrival(source)
        if source.problem:
            return Arrival(source, outcome=source.problem)
        reader = readers().get(source.kind)
        most = self.settings.max_file_mb
        try:
            megabytes = source.path.stat().st_size / (1 << 20)
            if reader is not None and reader.record.in_memory and megabytes > most:
                return Arrival(source, outcome=f"{megabytes:,.0f} MiB is larger than ingest.max_file_mb={most}")
            digest = sha256_file(source.path)
        except OSError as error:
            return Arrival(source, outcome=unreadable(error))
        if digest in self.forgotten.contents:
            self.left_out += 1
            return Arrival(source)
        copy = self._copy(source, digest, digest)
        return Arrival(source, digest if reader is not None or source.kind == BEIR else "", copy)

    def add(self, one: Arrival) -> None:
        """Add a file's documents and passages, or the reason why there are none."""
        source, outcome = one.source, one.outcome
        if isinstance(outcome, CutDocument):
            self._add_document(source, one.digest, outcome)
        elif isinstance(outcome, Document):
            self._list(outcome)
        elif outcome is not None:
            self._list(_document(source, status="skipped", reason=outcome))
        elif one.digest:
            try:
                self._add_records(source, one.digest)
            except (UnreadableDocument, OSError) as error:
                reason = unreadable(error) if isinstance(error, OSError) else str(error)
                self._list(_document(source, status="skipped", reason=reason))

    def _list(self, document: Document) -> None:
        self.names.add(document.document_id)
        self.documents.add(line_of(document))

    def _copy(self, source: Source, content: str, sha256: str) -> Document | None:
        """The entry of a file whose content was there before, for the same groups; None for a new content."""
        first = self.contents.setdefault(content, source)
        if first is source:
            return None
        if first.role != source.role:
            raise in_both(str(first.path), str(source.path))
        return _document(source, sha256=sha256, status="duplicate", reason=f"a copy of {first.document_id}")

    def _add_document(self, source: Source, digest: str, document: CutDocument) -> None:
        parsed, name = document.parsed, source.document_id
        groups = parsed.fields.get(metadata.GROUPS, ())
        content = hashlib.sha256(f"{groups} {_normal(document.text)}".encode("utf-8", "replace")).hexdigest()
        if copy := self._copy(source, f"text:{content}", digest):
            self._list(copy)
            return
        values = {**parsed.fields, **metadata.of_file(source.name)}
        origin = self.passages.origin(name, values, held_out=source.role == "eval")
        self.cut.update(parsed.cut)
        entry = _document(source, sha256=digest, status="partial" if parsed.note else "ok", reason=parsed.note)
        self._list(replace(entry, pages=parsed.pages, characters=len(document.text)))
        for one in parsed.removed:
            self.drop(Passage(passage_id="", document_id=name, title="", text=one.preview, page=one.page), one.reason)
        for number, piece in enumerate(document.chunks, 1):
            passage = Passage(
                passage_id=f"{name}#{number:04d}",
                document_id=name,
                title=piece.title,
                text=piece.text,
                page=piece.page,
                start=piece.start,
                end=piece.end,
            )
            if reason := reason_to_drop(piece.text, min_characters=self.settings.min_characters):
                self.drop(passage, reason)
            else:
                self.passages.add(passage, origin)

    def _add_records(self, source: Source, digest: str) -> None:
        """Each record is one passage under its own id. Records of one document are grouped under a document id."""
        groups, first = self._groups(source), self.passages.count_of_origins
        origins: dict[str, int] = {}
        characters = array("q")
        values_of_file = metadata.of_file(source.name)
        # The file is read a second time, because a group is known when all ids and titles are.
        for group, (identifier, entry) in zip(groups, read_corpus(source.path), strict=True):
            title, text = clean_record(entry.title), clean_record(entry.text)
            values, cut = metadata.bounded(entry.fields)
            self.cut.update(cut)
            if self.forgotten.has_record(identifier) or self.forgotten.has_document(group):
                self.left_out += 1
                continue
            if group not in origins:
                origins[group] = self.passages.origin(group, values_of_file, held_out=source.role == "eval")
                characters.append(0)
            characters[origins[group] - first] += len(text)
            passage = Passage(passage_id=identifier, document_id=group, title=title, text=text, end=len(text))
            if any(char.isalnum() for char in text + title):
                self.passages.add(passage, origins[group], values=values, is_record=True)
            else:
                self.drop(passage, "the record is empty")
        listed = _document(source, sha256=digest, status="ok")
        for group, count in zip(origins, characters, strict=True):
            self._list(replace(listed, document_id=group, characters=count))

    def _groups(self, source: Source) -> list[str]:
        """The document of each record of a BEIR corpus. Raises InputError for an id that another corpus has, too."""
        own, identifiers, titles = Digests(), [], []
        for identifier, entry in read_corpus(source.path):
            own.add(identifier)
            identifiers.append(identifier)
            titles.append(clean_record(entry.title))
        if not identifiers:
            raise UnreadableDocument("no records in it")
        for other in self.records:
            if (again := np.isin(own.array(), other.array())).any():
                raise InputError(
                    f"{source.path}: the _id {identifiers[int(again.argmax())]!r} is also in another of the given "
                    "files.",
                    remedy="Give every record of all corpora an _id of its own.",
                )
        self.records.append(own)
        groups = group_records(identifiers, titles)
        taken = Digests()
        for group in groups:
            taken.add(group)
        if np.isin(taken.array(), self.names.array()).any():
            groups = [f"{source.document_id}:{group}" for group in groups]
        return groups

    def drop(self, passage: Passage, reason: str) -> None:
        """List a passage as left out."""
        self.dropped.add(
            line_of(
                DroppedPassage(
                    document_id=passage.document_id,
                    page=passage.page,
                    start=passage.start,
                    end=passage.end,
                    reason=reason,
                    preview=passage.text[:_PREVIEW],
                )
            )
        )

    def without_copies(self) -> Ints:
        """The places of the passages without copies: the first of equal ones with the same role and groups stays.

        All records of a BEIR corpus stay, because judgements may name their ids.
        """
        firsts = self.passages.same.firsts()
        copies = (firsts != np.arange(len(firsts))) & ~self.passages.is_record
        passages = self.passages.lines()
        for place in np.flatnonzero(copies).tolist():
            self.drop(passages[place], f"a copy of {passages[int(firsts[place])].passage_id}")
        return np.flatnonzero(~copies)


class Passages:
    """Passages that were gathered: their text in a file, what decides about them in arrays, 70 bytes a passage.

    same: equal for passages with the same words, role and groups. origins: the ids of the documents that they come
    from. A document, or a record that has metadata of its own, has a place in the file of metadata.
    """

    def __init__(self, unnamed: Callable[[], IO[bytes]]) -> None:
        """unnamed: opens a file that nobody else needs."""
        self.same, self.origins = Digests(), Digests()
        self._passages, self._metadata = growing(unnamed(), Passage), growing(unnamed(), Metadata)
        self._bands = unnamed()
        self._of_origin, self._is_held_out = array("q"), array("b")
        self._groups: dict[int, Value] = {}
        self._origin, self._own, self._title, self._record = array("q"), array("q"), array("q"), array("b")

    def __len__(self) -> int:
        return len(self._origin)

    @property
    def count_of_origins(self) -> int:
        """The number of documents so far."""
        return len(self._of_origin)

    def origin(self, document_id: str, values: dict[str, Value], *, held_out: bool) -> int:
        """The number of a document whose passages will be added."""
        number = self.count_of_origins
        self.origins.add(document_id)
        self._of_origin.append(len(self._metadata))
        self._metadata.add(line_of(Metadata(document_id=document_id, values=values)))
        self._is_held_out.append(held_out)
        if metadata.GROUPS in values:
            self._groups[number] = values[metadata.GROUPS]
        return number

    def add(
        self, passage: Passage, origin: int, *, values: dict[str, Value] | None = None, is_record: bool = False
    ) -> None:
        """Add a passage of a document. values: metadata of its own."""
        groups = (values or {}).get(metadata.GROUPS, self._groups.get(origin, ()))
        self.same.add(f"{self._is_held_out[origin]} {groups!r} {_normal(passage.text)}")
        self._passages.add(line_of(passage))
        self._bands.write(near_duplicates.bands(shingles(passage.text)).tobytes())
        self._origin.append(origin)
        self._own.append(len(self._metadata) if values else -1)
        if values:
            own = Metadata(document_id=passage.document_id, passage_id=passage.passage_id, values=values)
            self._metadata.add(line_of(own))
        self._title.append(hash(passage.title))
        self._record.append(is_record)

    def lines(self) -> Lines[Passage]:
        """The passages, before the split."""
        return self._passages.lines()

    @property
    def is_record(self) -> Bools:
        """(N,) whether each is a record of a BEIR corpus."""
        return np.array(self._record, np.bool_)

    def items(self, kept: Ints) -> Items:
        """The passages at some places as the split sees them."""
        self._bands.flush()
        table = np.memmap(self._bands, np.uint64, "r").reshape(-1, near_duplicates.BANDS) if len(self) else None
        passages = self.lines().at(kept)
        columns = () if table is None else (table[:, band][kept] for band in range(near_duplicates.BANDS))
        clusters = near_duplicates.linked(len(kept), columns, lambda place: shingles(passages[place].text))
        origin = np.array(self._origin, np.int64)[kept]
        return Items(
            documents=self.origins.firsts()[origin],
            titles=np.array(self._title, np.int64)[kept],
            clusters=clusters,
            held_out=np.array(self._is_held_out, np.bool_)[origin],
        )

    def metadata(self, kept: Ints) -> Lines[Metadata]:
        """The metadata of the documents and passages at some places: a document's before its first passage's."""
        origin = np.array(self._origin, np.int64)[kept]
        places = np.full((len(kept), 2), -1, np.int64)
        _, firsts = np.unique(origin, return_index=True)
        places[firsts, 0] = np.array(self._of_origin, np.int64)[origin[firsts]]
        places[:, 1] = np.array(self._own, np.int64)[kept]
        return self._metadata.lines().at(places[places >= 0])


def growing(file: IO[bytes], record_type: type[T]) -> Growing[T]:
    """An empty file of records of a type."""
    return Growing(file, lambda line: decode_record(line, record_type))


def in_both(first: str, second: str) -> InputError:
    """The error for a file that is to be trained on and measured with."""
    what = first if first == second else f"{second}, a copy of {first},"
    return InputError(
        f"{what} is both among the documents to train on and among --eval-docs.",
        remedy="A model must be measured on text that it was not trained on: take it out of one of the two.",
    )


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _document(source: Source, *, sha256: str = "", status: DocumentStatus, reason: str = "") -> Document:
    return Document(
        document_id=source.document_id,
        path=source.stored,
        sha256=sha256,
        status=status,
        reason=reason,
        role=source.role,
    )
