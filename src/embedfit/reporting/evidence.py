"""The facts of a run folder, read once. They are the only source of the report and of the model card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from embedfit.config import Config
from embedfit.errors import ModelError
from embedfit.models.architecture import Architecture
from embedfit.models.layout.reading import read_architecture
from embedfit.path.artefacts import (
    CheckResult,
    Document,
    DroppedPassage,
    Evaluation,
    Manifest,
    MergeSweep,
    Passage,
    Query,
    Summary,
    TrainingLog,
    TrainingStep,
    Whole,
    written,
)
from embedfit.path.stages import STAGES
from embedfit.path.workspace import FILES, Workspace, decode_record

_EXAMPLE = 100  # characters of a dropped text that are shown
_DETAIL = re.compile(r"\s*\([^()]*\)$")

T = TypeVar("T")
W = TypeVar("W", bound=Whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """Numbers of documents, passages and queries, and the reasons why others were dropped.

    passage_reasons, query_reasons: (reason, number, example). splits: passages of each. styles: (style, written, kept).
    """

    documents_given: int
    documents_read: int
    unread: tuple[Document, ...]
    passages_kept: int
    passages_dropped: int
    passage_reasons: tuple[tuple[str, int, str], ...]
    splits: Mapping[str, int]
    queries_written: int
    queries_kept: int
    query_reasons: tuple[tuple[str, int, str], ...]
    styles: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All facts that the report may show. A fact whose file is missing is empty, and `missing` names the file.

    losses: (step, loss). layout: None if merged/ is not a whole model folder.
    """

    root: str
    config: Config
    summary: Summary
    evaluation: Evaluation
    merge: MergeSweep
    check: CheckResult
    training: TrainingLog
    losses: tuple[tuple[float, float], ...]
    funnel: Funnel
    document_names: Mapping[str, str]
    manifests: tuple[Manifest, ...]
    layout: Architecture | None
    missing: tuple[str, ...]

    @property
    def dev_scores(self) -> tuple[tuple[float, float], ...]:
        """(step, nDCG@10) on the dev questions; step 0 is the base."""
        scores = self.training.dev_ndcg10
        first = () if scores.base is None else ((0, scores.base),)
        return (*first, *((one.step, one.ndcg10) for one in scores.after))


class _Reader:
    """Reads a run folder's files and remembers which are missing."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.missing: list[str] = []

    def has(self, record_type: type) -> bool:
        found = self.workspace.has(record_type)
        if not found:
            self.missing.append(FILES[record_type])
        return found

    def whole(self, empty: W) -> W:
        return self.workspace.load(type(empty)) if self.has(type(empty)) else empty

    def records(self, record_type: type[T]) -> list[T]:
        return self.workspace.read(record_type) if self.has(record_type) else []

    def losses(self) -> Iterable[tuple[float, float]]:
        """(step, loss) of the training log. A line that a killed run cut is skipped."""
        path = FILES[TrainingStep]
        for line in self.workspace.existing(path).read_bytes().split(b"\n") if self.has(TrainingStep) else ():
            try:
                step = decode_record(line, TrainingStep)
            except ValidationError:
                continue
            yield step.step, step.loss

    def layout(self) -> Architecture | None:
        try:
            return read_architecture(self.workspace.path("merged"))
        except ModelError:
            self.missing.append("merged")
            return None


def gather(workspace: Workspace, config: Config) -> Evidence:
    """Read a run folder. Raises ArtifactMissing without summary.json, the only file that must be there."""
    summary = workspace.load(Summary)
    reader = _Reader(workspace)
    documents = reader.records(Document)
    funnel = _funnel(documents, reader.records(Passage), reader.records(DroppedPassage), written(reader.records(Query)))
    return Evidence(
        root=workspace.root.as_posix(),
        config=config,
        summary=summary,
        funnel=funnel,
        document_names=_document_names(documents),
        merge=reader.whole(MergeSweep()),
        check=reader.whole(CheckResult(passed=None, verdict="")),
        evaluation=reader.whole(Evaluation()),
        losses=tuple(reader.losses()),
        training=reader.whole(TrainingLog()),
        # The report's own manifest is written after the report.
        manifests=tuple(m for stage in STAGES[:-1] if (m := workspace.read_manifest(stage.name)) is not None),
        layout=reader.layout(),
        missing=tuple(reader.missing),
    )


def _document_names(documents: list[Document]) -> dict[str, str]:
    """Document id → name for people: the file's name, or the id if documents share a file, as in a BEIR corpus."""
    sharing = Counter(document.path for document in documents)
    return {
        d.document_id: d.document_id if sharing[d.path] > 1 else d.path.replace("\\", "/").rsplit("/", 1)[-1]
        for d in documents
    }


def ranked(dropped: Iterable[tuple[str, str]]) -> tuple[tuple[str, int, str], ...]:
    """(reason, number, the beginning of an example) from pairs (reason, text), the most frequent reason first."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for reason, text in dropped:
        # "running header (12 pages)" and "running header (3 pages)" count as one reason.
        name = _DETAIL.sub("", reason) or "no reason recorded"
        counts[name] += 1
        if text and name not in examples:
            examples[name] = text if len(text) <= _EXAMPLE else text[: _EXAMPLE - 1] + "…"
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((reason, number, examples.get(reason, "")) for reason, number in order)


def _funnel(
    documents: list[Document], passages: list[Passage], dropped: list[DroppedPassage], queries: list[Query]
) -> Funnel:
    kept_by_style = Counter(query.style for query in queries if query.kept)
    by_style = Counter(query.style for query in queries).most_common()
    return Funnel(
        documents_given=len(documents),
        documents_read=sum(d.status in ("ok", "partial") for d in documents),
        unread=tuple(d for d in documents if d.status != "ok"),
        passages_kept=len(passages),
        passages_dropped=len(dropped),
        passage_reasons=ranked((piece.reason, piece.preview) for piece in dropped),
        splits=Counter(p.split for p in passages),
        queries_written=len(queries),
        queries_kept=kept_by_style.total(),
        query_reasons=ranked((q.reason, q.text) for q in queries if not q.kept),
        styles=tuple((style, count, kept_by_style[style]) for style, count in by_style),
    )
