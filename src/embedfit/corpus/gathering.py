"""The documents that ingest gathers: their passages, their metadata, and the parts left out, with reasons."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace

from embedfit.config.writing import IngestConfig
from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.cleaning import clean_record
from embedfit.corpus.grouping import group_records
from embedfit.corpus.quality import reason_to_drop
from embedfit.corpus.readers.registry import readers
from embedfit.corpus.reading import CutDocument, unreadable
from embedfit.corpus.sources import metadata
from embedfit.corpus.sources.discover import Source
from embedfit.corpus.sources.kinds import BEIR
from embedfit.errors import InputError
from embedfit.files.beir import read_corpus
from embedfit.files.hashes import sha256_file
from embedfit.path.artefacts import Document, DocumentStatus, DroppedPassage, Passage, Value
from embedfit.path.forgotten import Forgotten

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

    contents: the first file of each content. records: ids of BEIR records. known: the metadata of each document, and of
    single passages under their ids. cut: the metadata left out, each with its count. left_out: how many documents and
    records `embedfit forget` named.
    """

    settings: IngestConfig
    forgotten: Forgotten = field(default_factory=Forgotten)
    documents: list[Document] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    dropped: list[DroppedPassage] = field(default_factory=list)
    contents: dict[str, Source] = field(default_factory=dict)
    records: set[str] = field(default_factory=set)
    known: dict[tuple[str, str], dict[str, Value]] = field(default_factory=dict)
    cut: Counter[str] = field(default_factory=Counter)
    left_out: int = 0

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
            self.documents.append(outcome)
        elif outcome is not None:
            self.documents.append(_document(source, status="skipped", reason=outcome))
        elif one.digest:
            try:
                self._add_records(source, one.digest)
            except (UnreadableDocument, OSError) as error:
                reason = unreadable(error) if isinstance(error, OSError) else str(error)
                self.documents.append(_document(source, status="skipped", reason=reason))

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
            self.documents.append(copy)
            return
        self.known[name, ""] = {**parsed.fields, **metadata.of_file(source.name)}
        self.cut.update(parsed.cut)
        entry = _document(source, sha256=digest, status="partial" if parsed.note else "ok", reason=parsed.note)
        self.documents.append(replace(entry, pages=parsed.pages, characters=len(document.text)))
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
            self._keep(passage, reason_to_drop(piece.text, min_characters=self.settings.min_characters))

    def _add_records(self, source: Source, digest: str) -> None:
        """Each record is one passage under its own id. Records of one document are grouped under a document id."""
        records = {}
        for identifier, entry in read_corpus(source.path):
            if identifier in self.records:
                raise InputError(
                    f"{source.path}: the _id {identifier!r} is also in another of the given files.",
                    remedy="Give every record of all corpora an _id of its own.",
                )
            values, cut = metadata.bounded(entry.fields)
            self.cut.update(cut)
            records[identifier] = clean_record(entry.title), clean_record(entry.text), values
        if not records:
            raise UnreadableDocument("no records in it")
        self.records.update(records)
        groups = group_records(list(records), [title for title, _, _ in records.values()])
        if not set(groups).isdisjoint(document.document_id for document in self.documents):
            groups = [f"{source.document_id}:{group}" for group in groups]
        characters: Counter[str] = Counter()
        for group, (identifier, (title, text, values)) in zip(groups, records.items(), strict=True):
            if self.forgotten.has_record(identifier) or self.forgotten.has_document(group):
                self.left_out += 1
                continue
            self.known[group, ""] = metadata.of_file(source.name)
            if values:
                self.known[group, identifier] = values
            characters[group] += len(text)
            is_empty = not any(char.isalnum() for char in text + title)
            passage = Passage(passage_id=identifier, document_id=group, title=title, text=text, end=len(text))
            self._keep(passage, "the record is empty" if is_empty else "")
        listed = _document(source, sha256=digest, status="ok")
        self.documents += [replace(listed, document_id=group, characters=count) for group, count in characters.items()]

    def _keep(self, passage: Passage, reason: str) -> None:
        if reason:
            self.drop(passage, reason)
        else:
            self.passages.append(passage)

    def drop(self, passage: Passage, reason: str) -> None:
        """List a passage as left out."""
        self.dropped.append(
            DroppedPassage(
                document_id=passage.document_id,
                page=passage.page,
                start=passage.start,
                end=passage.end,
                reason=reason,
                preview=passage.text[:_PREVIEW],
            )
        )

    def without_copies(self) -> list[Passage]:
        """The passages without copies: the first of equal ones with the same role and groups stays.

        All records of a BEIR corpus stay, because judgements may name their ids.
        """
        roles = {document.document_id: document.role for document in self.documents}
        first: dict[tuple[str, Value, str], str] = {}
        kept = []
        for passage in self.passages:
            key = roles[passage.document_id], self._groups(passage), _normal(passage.text)
            original = first.setdefault(key, passage.passage_id)
            if original != passage.passage_id and passage.passage_id not in self.records:
                self.drop(passage, f"a copy of {original}")
            else:
                kept.append(passage)
        return kept

    def _groups(self, passage: Passage) -> Value:
        """The groups that may read a passage; () if no metadata names any."""
        for key in ((passage.document_id, passage.passage_id), (passage.document_id, "")):
            if (found := self.known.get(key, {}).get(metadata.GROUPS)) is not None:
                return found
        return ()


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
