"""The ingest stage: documents → documents.jsonl, passages.jsonl, metadata.jsonl, dropped_passages.jsonl."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from embedfit.config import Config
from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.chunking import Window
from embedfit.corpus.cleaning import clean_record
from embedfit.corpus.coverage import unknown_language
from embedfit.corpus.duplicates import clusters
from embedfit.corpus.grouping import group_records
from embedfit.corpus.quality import reason_to_drop
from embedfit.corpus.readers.isolation import Limits
from embedfit.corpus.readers.registry import by_extension, readers
from embedfit.corpus.reading import CutDocument, File, Reading, unreadable
from embedfit.corpus.sources import metadata
from embedfit.corpus.sources.discover import Source, discover
from embedfit.corpus.sources.kinds import BEIR
from embedfit.corpus.split import Item, TooFew, assign
from embedfit.errors import InputError
from embedfit.files.beir import read_corpus
from embedfit.files.hashes import sha256_file
from embedfit.files.places import located
from embedfit.models.layout.prompts import open_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.path.artefacts import Document, DroppedPassage, Metadata, Passage, Value
from embedfit.path.forgotten import Forgotten, read_forgotten
from embedfit.path.workspace import Workspace
from embedfit.progress import Reporter
from embedfit.runtime import Runtime

#: A passage is at most this long where the configuration leaves it open: longer ones blur what they are about.
DEFAULT_TOKENS = 256
_MIN_TOKENS = 16
_PREVIEW = 120


@dataclass(slots=True)
class Corpus:
    """What ingest has gathered so far.

    contents: the first file of a content. records: ids of BEIR records. known: what is said of each document, and
    under the id of a passage of it alone. cut: what of that was left out, with how often.
    """

    documents: list[Document] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    dropped: list[DroppedPassage] = field(default_factory=list)
    contents: dict[str, Source] = field(default_factory=dict)
    records: set[str] = field(default_factory=set)
    known: dict[tuple[str, str], dict[str, Value]] = field(default_factory=dict)
    cut: Counter[str] = field(default_factory=Counter)
    forgotten: Forgotten = field(default_factory=Forgotten)
    left_out: int = 0

    def groups(self, document_id: str, passage_id: str) -> Value:
        """Who may read a passage; () where nothing says it."""
        for key in ((document_id, passage_id), (document_id, "")):
            found = self.known.get(key, {}).get(metadata.GROUPS)
            if found is not None:
                return found
        return ()


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Read every document, cut it into passages, and decide the split."""
    sources = [replace(source, stored=source.stored_path(workspace)) for source in _sources(config)]
    window = _window(config, runtime.report)
    corpus = Corpus(forgotten=read_forgotten(workspace))
    _read_all(sources, corpus, window, config, runtime)
    if corpus.left_out:
        runtime.report.log(f"{corpus.left_out:,} documents or records are left out, as `embedfit forget` asked")
    _report_problems(corpus, workspace.root, runtime.report)
    if not corpus.passages:
        raise _nothing_readable(corpus)
    passages = _split(_without_copies(corpus), corpus, config, runtime.report)
    _report_outcome(passages, corpus, window, runtime.report)
    if note := unknown_language([passage.content for passage in passages], window.tokenizer, config.model):
        runtime.report.log(note)
    workspace.write(Document, corpus.documents)
    workspace.write(DroppedPassage, corpus.dropped)
    workspace.write(Passage, passages)
    workspace.write(Metadata, _metadata(passages, corpus, runtime.report))


# --- what to read, and how long a passage may be


def _sources(config: Config) -> list[Source]:
    if not config.docs:
        raise InputError("No documents were named.", remedy="For example: embedfit run DOCS --run runs/mine")
    links = config.ingest.follow_links
    train = discover(config.docs, follow_links=links)
    taken = [source.document_id for source in train]
    evaluation = discover(config.eval_docs, role="eval", taken=taken, follow_links=links)
    both = _real(train) & _real(evaluation)
    if both:
        raise _in_both(min(both), min(both))
    if not train:
        raise InputError(
            f"There is no file in {', '.join(config.docs)}.", remedy="Name a folder or files with documents."
        )
    if config.eval_docs and not evaluation:
        raise InputError(
            f"There is no file in {', '.join(config.eval_docs)}.", remedy="Name documents after --eval-docs."
        )
    return [*train, *evaluation]


def _real(sources: Sequence[Source]) -> set[str]:
    return {os.path.realpath(source.path) for source in sources if not source.problem}


def _in_both(first: str, second: str) -> InputError:
    what = first if first == second else f"{second}, a copy of {first},"
    return InputError(
        f"{what} is both among the documents to train on and among --eval-docs.",
        remedy="A model must be measured on text that it was not trained on: take it out of one of the two.",
    )


def _window(config: Config, report: Reporter) -> Window:
    """The passage size for the model: its window or the setting, without special tokens and the prompt."""
    folder, layout = open_model(config.model)
    tokenizer = load_tokenizer(folder)
    asked = config.ingest.max_tokens
    size = asked or min(layout.max_tokens, DEFAULT_TOKENS)
    if asked > layout.max_tokens:
        report.log(
            f"Note: passages of up to {asked} tokens were asked for, but {config.model} reads only the first "
            f"{layout.max_tokens} of a passage."
        )
    prompt = layout.document_instruction
    taken = tokenizer.num_special_tokens_to_add(is_pair=False) + len(
        tokenizer.encode(prompt, add_special_tokens=False).ids
    )
    if size - taken < _MIN_TOKENS:
        raise InputError(
            f"Passages of {size} tokens leave {max(size - taken, 0)} for text; at least {_MIN_TOKENS} are needed.",
            remedy=f"For example: --set ingest.max_tokens={_MIN_TOKENS + taken}",
        )
    return Window(tokenizer, size - taken)


# --- reading


@dataclass(slots=True)
class _Listed:
    """A file on its way into the corpus.

    digest: "" where its content is not of interest, because it is left out or has no reader. outcome: what it is
    listed as, its document or the reason why it can't be read; None until its reader says it.
    """

    source: Source
    digest: str = ""
    outcome: Document | CutDocument | str | None = None
    asked: bool = False
    told: float = 0.0


def _read_all(sources: Sequence[Source], corpus: Corpus, window: Window, config: Config, runtime: Runtime) -> None:
    """Add every file's documents and passages, or the reason why there are none, in the order of the files."""
    waiting: deque[_Listed] = deque()
    asked: list[_Listed] = []

    def files() -> Iterator[File]:
        for source in sources:
            one = _listed(source, corpus, config)
            waiting.append(one)
            if one.digest and one.outcome is None and source.kind != BEIR:
                one.asked = True
                asked.append(one)
                yield File(path=source.path, kind=source.kind)

    with runtime.report.task("Reading documents", len(sources), "documents") as task:

        def tell(number: int, share: float) -> None:
            one = asked[number]
            if share > one.told:
                task.advance(share - one.told, one.source.document_id)
                one.told = share

        def gather() -> None:
            while waiting and (not waiting[0].asked or waiting[0].outcome is not None):
                one = waiting.popleft()
                _add(one, corpus, config)
                task.advance(1 - one.told, one.source.document_id)

        limits = Limits(seconds=config.ingest.max_seconds, memory=config.ingest.max_memory_mb)
        with closing(runtime.executor.map(Reading(limits, window), files(), tell)) as outcomes:
            for number, outcome in outcomes:
                asked[number].outcome = outcome
                gather()
        gather()


def _listed(source: Source, corpus: Corpus, config: Config) -> _Listed:
    """A file with what is known of it before it is read."""
    if corpus.forgotten.has_document(source.document_id):
        corpus.left_out += 1
        return _Listed(source)
    if source.problem:
        return _Listed(source, outcome=source.problem)
    registered = readers().get(source.kind)
    try:
        if registered is not None and registered.record.in_memory:
            _check_size(source.path, config.ingest.max_file_mb)
        digest = sha256_file(source.path)
    except UnreadableDocument as error:
        return _Listed(source, outcome=str(error))
    except OSError as error:
        return _Listed(source, outcome=unreadable(error))
    if digest in corpus.forgotten.contents:
        corpus.left_out += 1
        return _Listed(source)
    copy = _copy(source, digest, digest, corpus)
    return _Listed(source, digest if registered is not None or source.kind == BEIR else "", copy)


def _add(one: _Listed, corpus: Corpus, config: Config) -> None:
    """Add a file's documents and passages, or the reason why there are none."""
    source, outcome = one.source, one.outcome
    try:
        if isinstance(outcome, CutDocument):
            _add_document(source, one.digest, outcome, corpus, config)
        elif isinstance(outcome, Document):
            corpus.documents.append(outcome)
        elif outcome is not None:
            raise UnreadableDocument(outcome)
        elif one.digest:
            _read_beir(source, one.digest, corpus)
    except UnreadableDocument as error:
        corpus.documents.append(_document(source, status="skipped", reason=str(error)))
    except OSError as error:
        corpus.documents.append(_document(source, status="skipped", reason=unreadable(error)))


def _check_size(path: Path, most: int) -> None:
    megabytes = path.stat().st_size / (1 << 20)
    if megabytes > most:
        raise UnreadableDocument(f"{megabytes:,.0f} MiB is larger than ingest.max_file_mb={most}")


def _document(source: Source, *, sha256: str = "", status: str, reason: str = "") -> Document:
    return Document(
        document_id=source.document_id,
        path=source.stored,
        sha256=sha256,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        role=source.role,
    )


def _copy(source: Source, content: str, sha256: str, corpus: Corpus) -> Document | None:
    """What a file is listed as whose content was there before, for the same groups; None for a new content."""
    first = corpus.contents.setdefault(content, source)
    if first is source:
        return None
    if first.role != source.role:
        raise _in_both(str(first.path), str(source.path))
    reason = f"a copy of {first.document_id}"
    return _document(source, sha256=sha256, status="duplicate", reason=reason)


def _add_document(source: Source, digest: str, document: CutDocument, corpus: Corpus, config: Config) -> None:
    parsed, text = document.parsed, document.text
    words = " ".join(text.lower().split())
    groups = parsed.fields.get(metadata.GROUPS, ())
    content = hashlib.sha256(f"{groups} {words}".encode("utf-8", "replace")).hexdigest()
    if copy := _copy(source, f"text:{content}", digest, corpus):
        corpus.documents.append(copy)
        return
    corpus.known[source.document_id, ""] = {**parsed.fields, **metadata.of_file(source.name)}
    corpus.cut.update(parsed.cut)
    corpus.documents.append(
        replace(
            _document(source, sha256=digest, status="partial" if parsed.note else "ok", reason=parsed.note),
            pages=parsed.pages,
            characters=len(text),
        )
    )
    corpus.dropped += [
        DroppedPassage(
            document_id=source.document_id,
            page=one.page,
            start=0,
            end=0,
            reason=one.reason,
            preview=one.preview[:_PREVIEW],
        )
        for one in parsed.removed
    ]
    for number, piece in enumerate(document.chunks, 1):
        passage = Passage(
            passage_id=f"{source.document_id}#{number:04d}",
            document_id=source.document_id,
            title=piece.title,
            text=piece.text,
            page=piece.page,
            start=piece.start,
            end=piece.end,
        )
        reason = reason_to_drop(piece.text, min_characters=config.ingest.min_characters)
        if reason:
            corpus.dropped.append(_dropped(passage, reason))
        else:
            corpus.passages.append(passage)


def _dropped(passage: Passage, reason: str) -> DroppedPassage:
    return DroppedPassage(
        document_id=passage.document_id,
        page=passage.page,
        start=passage.start,
        end=passage.end,
        reason=reason,
        preview=passage.text[:_PREVIEW],
    )


def _read_beir(source: Source, digest: str, corpus: Corpus) -> None:
    """Each record is one passage under its own id. Records of one document are grouped under a document id."""
    records: list[tuple[str, str, str]] = []
    fields: list[dict[str, Value]] = []
    for identifier, entry in read_corpus(source.path):
        if identifier in corpus.records:
            raise InputError(
                f"{source.path}: the _id {identifier!r} is also in another of the given files.",
                remedy="Give every record of all corpora an _id of its own.",
            )
        records.append((identifier, clean_record(entry.title), clean_record(entry.text)))
        values, cut = metadata.bounded(entry.fields)
        fields.append(values)
        corpus.cut.update(cut)
    if not records:
        raise UnreadableDocument("no records in it")
    corpus.records.update(identifier for identifier, _, _ in records)
    groups = group_records([identifier for identifier, _, _ in records], [title for _, title, _ in records])
    taken = {document.document_id for document in corpus.documents}
    if taken & set(groups):
        groups = [f"{source.document_id}:{group}" for group in groups]
    characters: Counter[str] = Counter()
    for (identifier, title, text), group, values in zip(records, groups, fields, strict=True):
        if corpus.forgotten.has_record(identifier) or corpus.forgotten.has_document(group):
            corpus.left_out += 1
            continue
        corpus.known[group, ""] = metadata.of_file(source.name)
        if values:
            corpus.known[group, identifier] = values
        passage = Passage(passage_id=identifier, document_id=group, title=title, text=text, end=len(text))
        characters[group] += len(text)
        if any(char.isalnum() for char in text + title):
            corpus.passages.append(passage)
        else:
            corpus.dropped.append(_dropped(passage, "the record is empty"))
    corpus.documents += [
        replace(_document(source, sha256=digest, status="ok"), document_id=group, characters=count)
        for group, count in characters.items()
    ]


# --- copies and the split


def _without_copies(corpus: Corpus) -> list[Passage]:
    """Passages, of equal ones of a role and for the same groups the first.

    Records of a BEIR corpus all stay: their ids may be judged.
    """
    roles = {document.document_id: document.role for document in corpus.documents}
    first: dict[tuple[str, Value, str], str] = {}
    kept = []
    for passage in corpus.passages:
        groups = corpus.groups(passage.document_id, passage.passage_id)
        key = (roles[passage.document_id], groups, " ".join(passage.text.lower().split()))
        original = first.setdefault(key, passage.passage_id)
        if original != passage.passage_id and passage.passage_id not in corpus.records:
            corpus.dropped.append(_dropped(passage, f"a copy of {original}"))
        else:
            kept.append(passage)
    return kept


def _split(passages: list[Passage], corpus: Corpus, config: Config, report: Reporter) -> list[Passage]:
    """Passages with their parts. Those that can't be split are all "train": they can be searched, but not tuned on."""
    held_out = {document.document_id for document in corpus.documents if document.role == "eval"}
    together = clusters([passage.text for passage in passages])
    items = [
        Item(document_id=one.document_id, title=one.title, cluster=cluster, held_out=one.document_id in held_out)
        for one, cluster in zip(passages, together, strict=True)
    ]
    measured_elsewhere = bool(config.eval_docs or config.eval_beir)
    try:
        parts = assign(
            items,
            dev_share=config.generate.dev_share,
            test_share=0.0 if measured_elsewhere else config.generate.test_share,
            seed=config.seed,
        )
    except TooFew as error:
        report.log(f"Note: {error.message} They can be searched all the same: embedfit index. {error.remedy}")
        parts = ["test" if item.held_out else "train" for item in items]
    if config.eval_docs and "test" not in parts:
        raise InputError("The documents of --eval-docs gave no passages.", remedy="Name documents that hold text.")
    return [replace(passage, split=part) for passage, part in zip(passages, parts, strict=True)]


def _metadata(passages: Sequence[Passage], corpus: Corpus, report: Reporter) -> list[Metadata]:
    """What is known of the passages, by document and then by passage."""
    rows = []
    for passage in passages:
        for key in ((passage.document_id, ""), (passage.document_id, passage.passage_id)):
            values = corpus.known.pop(key, None)
            if values is not None:
                rows.append(Metadata(document_id=key[0], passage_id=key[1], values=values))
    kept, left = metadata.of_corpus(rows)
    corpus.cut.update(left)
    if corpus.cut:
        report.log(f"metadata: {metadata.said(corpus.cut)}")
    return kept


# --- what people are told


def _report_problems(corpus: Corpus, root: Path, report: Reporter) -> None:
    for document in corpus.documents:
        if document.status != "ok":
            line = f"{document.status}: {located(document.path, root, {})}: {document.reason}"
            report.log(line.replace("\n", "\\n"))  # which a file's name may hold


def _nothing_readable(corpus: Corpus) -> InputError:
    reasons = Counter(document.reason for document in corpus.documents if document.reason)
    reasons.update(f"passage dropped: {dropped.reason}" for dropped in corpus.dropped)
    listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    return InputError(
        f"None of the {len(corpus.documents)} files gave a passage: {listed}.",
        remedy=f"Readable are {', '.join(sorted(by_extension()))} and BEIR's corpus.jsonl.",
    )


def _report_outcome(passages: list[Passage], corpus: Corpus, window: Window, report: Reporter) -> None:
    statuses = Counter(document.status for document in corpus.documents)
    parts = Counter(passage.split for passage in passages)
    report.log(
        f"{statuses['ok'] + statuses['partial']:,} documents read"
        + "".join(f", {statuses[name]:,} {name}" for name in ("partial", "duplicate", "skipped") if statuses[name])
        + f"; {len(passages):,} passages ("
        + ", ".join(f"{parts[name]:,} {name}" for name in ("train", "dev", "test", "gap") if parts[name])
        + f"), {len(corpus.dropped):,} dropped"
    )
    records = [passage.content for passage in passages if passage.passage_id in corpus.records]
    longer = sum(tokens > window.size for tokens in window.tokens_of(records))
    if longer:
        report.log(
            f"Note: {longer:,} of {len(records):,} records are longer than {window.size} tokens; "
            "they are kept whole, and the model reads as much as its window holds."
        )
