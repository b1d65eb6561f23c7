"""The ingest stage: documents → documents.jsonl, passages.jsonl, metadata.jsonl, dropped_passages.jsonl."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedfit.config import Config
from embedfit.corpus.chunking import Window
from embedfit.corpus.coverage import unknown_language
from embedfit.corpus.gathering import Arrival, Corpus, in_both
from embedfit.corpus.readers.isolation import Limits
from embedfit.corpus.readers.registry import by_extension
from embedfit.corpus.reading import File, Readers, read
from embedfit.corpus.sources import metadata
from embedfit.corpus.sources.discover import Source, discover
from embedfit.corpus.split import Items, TooFew, as_before, assign
from embedfit.errors import InputError
from embedfit.files.places import located
from embedfit.models.layout.prompts import open_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.numerics.arrays import Ints
from embedfit.path.artefacts import Document, DroppedPassage, Metadata, Passage, Split
from embedfit.path.forgotten import read_forgotten
from embedfit.path.lines import Lines
from embedfit.path.workspace import Workspace, passages_of_model, read_jsonl
from embedfit.progress import Reporter
from embedfit.runtime import Runtime

#: The default limit of a passage's tokens, because the vector of a longer one blurs its subject.
DEFAULT_TOKENS = 256
_MIN_TOKENS = 16


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Read every document, cut it into passages, and decide the split."""
    report = runtime.report
    sources = [replace(source, stored=source.stored_path(workspace)) for source in _sources(config)]
    window = _window(config, report)
    with ExitStack() as files:
        corpus = Corpus(config.ingest, lambda: files.enter_context(workspace.unnamed()), read_forgotten(workspace))
        _gather(sources, corpus, window, workspace, config, runtime)


def _gather(
    sources: Sequence[Source], corpus: Corpus, window: Window, workspace: Workspace, config: Config, runtime: Runtime
) -> None:
    """Read the documents and write the stage's files."""
    report = runtime.report
    _read_all(sources, corpus, window, config, runtime)
    if corpus.left_out:
        report.log(f"{corpus.left_out:,} documents or records are left out, as `embedfit forget` asked")
    statuses = _report_problems(corpus, workspace.root, report)
    if not len(corpus.passages):
        raise _nothing_readable(corpus)
    kept = corpus.without_copies()
    passages = corpus.passages.lines().at(kept)
    parts = _split(passages, corpus.passages.items(kept), config, report)
    _report_outcome(statuses, parts, len(corpus.dropped), report)
    _report_longer(passages.at(np.flatnonzero(corpus.passages.is_record[kept])), window, report)
    if note := unknown_language(passages.map(_content), window.tokenizer, config.model):
        report.log(note)
    workspace.write(Document, corpus.documents.lines())
    workspace.write(DroppedPassage, corpus.dropped.lines())
    workspace.write(Passage, (replace(one, split=part) for one, part in zip(passages, parts, strict=True)))
    workspace.write(Metadata, _metadata(corpus, kept, report))


def _content(passage: Passage) -> str:
    return passage.content


# --- the files to read, and the length of passages


def _sources(config: Config) -> list[Source]:
    if not config.docs:
        raise InputError("No documents were named.", remedy="For example: embedfit run DOCS --run runs/mine")
    links = config.ingest.follow_links
    train = discover(config.docs, follow_links=links)
    taken = [source.document_id for source in train]
    evaluation = discover(config.eval_docs, role="eval", taken=taken, follow_links=links)
    if both := _real(train) & _real(evaluation):
        raise in_both(min(both), min(both))
    for found, named, remedy in (
        (train, config.docs, "Name a folder or files with documents."),
        (evaluation, config.eval_docs, "Name documents after --eval-docs."),
    ):
        if named and not found:
            raise InputError(f"There is no file in {', '.join(named)}.", remedy=remedy)
    return [*train, *evaluation]


def _real(sources: Sequence[Source]) -> set[str]:
    return {os.path.realpath(source.path) for source in sources if not source.problem}


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


def _read_all(sources: Sequence[Source], corpus: Corpus, window: Window, config: Config, runtime: Runtime) -> None:
    """Add every file's documents and passages, or the reason why there are none, in the order of the files."""
    waiting: deque[Arrival] = deque()
    asked: list[Arrival] = []

    def files() -> Iterator[File]:
        for source in sources:
            one = corpus.arrival(source)
            waiting.append(one)
            if one.needs_reader:
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
                corpus.add(one)
                task.advance(1 - one.told, one.source.document_id)

        limits = Limits(seconds=config.ingest.max_seconds, memory=config.ingest.max_memory_mb)
        work = runtime.executor.map(read, files(), state=Readers(limits, window), tell=tell)
        with closing(work) as outcomes:
            for number, outcome in outcomes:
                asked[number].outcome = outcome
                gather()
        gather()


# --- the split, and the passages' metadata


def _split(passages: Lines[Passage], items: Items, config: Config, report: Reporter) -> list[Split]:
    """The passages' parts. Those that can't be split are all "train": they can be searched, but not tuned on."""
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
        parts = ["test" if held_out else "train" for held_out in items.held_out]
    else:
        parts = _kept_split(passages, items, parts, config, report)
    if config.eval_docs and "test" not in parts:
        raise InputError("The documents of --eval-docs gave no passages.", remedy="Name documents that hold text.")
    return parts


def _kept_split(
    passages: Sequence[Passage], items: Items, parts: list[Split], config: Config, report: Reporter
) -> list[Split]:
    """The parts, those of passages that a run made the model of (--model RUN/merged) as they were in that run."""
    last = passages_of_model(config.model)
    before = {} if last is None else {one.content: one.split for one in read_jsonl(last, Passage)}
    known = [before.get(one.content) for one in passages]
    if last is None or not any(known):
        return parts
    kept = as_before(items, parts, known)
    if kept is None:
        report.log(
            f"Note: too few passages are new to keep those apart that {config.model} learned from. It is measured on "
            "them too, so it looks better than it is."
        )
        return parts
    report.log(
        f"{sum(map(bool, known)):,} passages are known from {last.parent} and keep their part: train, dev or test"
    )
    return kept


def _metadata(corpus: Corpus, kept: Ints, report: Reporter) -> Iterable[Metadata]:
    """The metadata of the passages that are kept, by document and then by passage."""
    rows, left = metadata.of_corpus(corpus.passages.metadata(kept))
    corpus.cut.update(left)
    if corpus.cut:
        report.log(f"metadata: {metadata.said(corpus.cut)}")
    return rows


# --- the report


def _report_problems(corpus: Corpus, root: Path, report: Reporter) -> Counter[str]:
    """Tell of documents that were not read in whole. Returns the number of documents of each status."""
    statuses: Counter[str] = Counter()
    for document in corpus.documents.lines():
        statuses[document.status] += 1
        if document.status != "ok":
            line = f"{document.status}: {located(document.path, root, {})}: {document.reason}"
            report.log(line.replace("\n", "\\n"))  # a file's name may hold markup
    return statuses


def _nothing_readable(corpus: Corpus) -> InputError:
    reasons = Counter(document.reason for document in corpus.documents.lines() if document.reason)
    reasons.update(f"passage dropped: {dropped.reason}" for dropped in corpus.dropped.lines())
    listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    return InputError(
        f"None of the {len(corpus.documents)} files gave a passage: {listed}.",
        remedy=f"Readable are {', '.join(sorted(by_extension()))} and BEIR's corpus.jsonl.",
    )


def _report_outcome(statuses: Counter[str], split: Sequence[Split], dropped: int, report: Reporter) -> None:
    parts = Counter(split)
    report.log(
        f"{statuses['ok'] + statuses['partial']:,} documents read"
        + "".join(f", {statuses[name]:,} {name}" for name in ("partial", "duplicate", "skipped") if statuses[name])
        + f"; {len(split):,} passages ("
        + ", ".join(f"{parts[name]:,} {name}" for name in ("train", "dev", "test", "gap") if parts[name])
        + f"), {dropped:,} dropped"
    )


def _report_longer(records: Lines[Passage], window: Window, report: Reporter) -> None:
    longer = sum(tokens > window.size for tokens in window.tokens_of(records.map(_content)))
    if longer:
        report.log(
            f"Note: {longer:,} of {len(records):,} records are longer than {window.size} tokens; "
            "they are kept whole, and the model reads as much as its window holds."
        )
