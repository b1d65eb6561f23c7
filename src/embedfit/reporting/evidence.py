"""What a run folder says, read once and typed: the only source of the report and of the model card."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from embedfit.config import Config
from embedfit.errors import ModelError
from embedfit.models.architecture import Architecture, read_architecture
from embedfit.path.artefacts import Document, DroppedPassage, Manifest, Passage, Query, written
from embedfit.path.workspace import FILES, Workspace

#: In the order of the path; the report's own manifest is written after it.
STAGES = ("ingest", "generate", "mine", "train", "merge", "check", "choose", "evaluate")

Interval = tuple[float, float]
_EXAMPLE = 100  # characters of a dropped text that are shown
_DETAIL = re.compile(r"\s*\([^()]*\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A retrieval system's means over the evaluation queries. ci95: metric → (low, high)."""

    name: str
    metrics: Mapping[str, float]
    ci95: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """System a minus system b, on one metric. minimum_detectable: the smallest difference the test would find."""

    a: str
    b: str
    metric: str
    delta: float
    ci95: Interval | None = None
    p_value: float | None = None
    queries: int = 0
    clusters: int = 0
    minimum_detectable: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What ships.

    ship, alpha, why: the model, with the weight of the fine-tuned one in the merge. over: the model that the retriever
    searches with, "merged" or "base". verdict, chosen, evidence: the retriever's verdict, its reason in a sentence, and
    what it rests on, as the stage `choose` wrote them.
    """

    ship: str
    alpha: float | None
    why: str
    over: str = "merged"
    verdict: str = ""
    chosen: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A system as a retriever. model: what its vectors are of, None for words alone. retriever: its JSON value."""

    model: str | None
    retriever: Mapping[str, Any]
    bytes_a_passage: float | None = None
    ms_a_query: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A way to store one vector a passage.

    on_disk: bytes that only rescoring reads. trained: of fewer dimensions, whether the model was trained for so many.
    score: nDCG@10; delta: to float32.
    """

    name: str
    dimensions: int
    bytes_a_passage: float
    on_disk: int
    trained: bool | None
    score: float
    ci95: Interval
    delta: float
    delta_ci95: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One weight that the merge tried. dev: metric → score; retention: agreement with the base elsewhere."""

    alpha: float
    dev: Mapping[str, float]
    retention: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosines:
    """Cosines of similar and different pairs under one system. auc: chance that a similar pair scores higher."""

    system: str
    similar: tuple[float, ...]
    different: tuple[float, ...]
    auc: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A group of evaluation queries. base, tuned, delta: on the metric the evaluation slices by."""

    value: str
    queries: int
    base: float
    tuned: float
    delta: float
    ci95: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many documents, passages and queries there were, and why the others are not there.

    passage_reasons, query_reasons: (reason, number, example). styles: (style, written, kept).
    """

    documents_given: int = 0
    documents_read: int = 0
    unread: tuple[Document, ...] = ()
    passages_kept: int = 0
    passages_dropped: int = 0
    passage_reasons: tuple[tuple[str, int, str], ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    queries_written: int = 0
    queries_kept: int = 0
    query_reasons: tuple[tuple[str, int, str], ...] = ()
    styles: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What summary.json says."""

    systems: Mapping[str, System]
    comparisons: tuple[Comparison, ...]
    decision: Decision
    data: Mapping[str, Any]
    timings_s: Mapping[str, float]
    cost: Mapping[str, float]
    cluster_by: str
    rows: Mapping[str, Row]
    storage: tuple[Storage, ...]

    @property
    def human(self) -> bool:
        """Whether people, not a language model, asked the evaluation queries."""
        return self.data.get("eval_kind") == "human"

    @property
    def same_as_default(self) -> bool:
        """Whether the retriever that was chosen is the safe default."""
        return self.rows.get("chosen") == self.rows.get("default")

    @property
    def lead(self) -> str:
        """The system that ships. Runs of embedfit 0.1 have no retriever: there it is the model."""
        names = ("default", "chosen") if self.same_as_default else ("chosen", "default")
        return next((name for name in names if name in self.systems), self.decision.ship)

    def comparison(self, a: str, b: str = "base", metric: str = "ndcg@10") -> Comparison | None:
        """The comparison of two systems on a metric, or None where it was not made."""
        return next((c for c in self.comparisons if (c.a, c.b, c.metric) == (a, b, metric)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(Results):
    """Everything the report may say.

    tuned: the system that slices and outcomes hold against the base. missing: files that were not there,
    with the stage that writes each.
    """

    root: str
    config: Config
    funnel: Funnel
    document_names: Mapping[str, str]
    sweep: tuple[SweepPoint, ...]
    cosines: tuple[Cosines, ...]
    check_verdict: str
    check_passed: bool | None
    tuned: str
    slices: Mapping[str, tuple[Slice, ...]]
    outcomes: tuple[Mapping[str, Any], ...]
    outcome_counts: Mapping[str, int]
    passages: Mapping[str, Mapping[str, Any]]
    losses: tuple[tuple[float, float], ...]
    dev_scores: tuple[tuple[float, float], ...]
    training: Mapping[str, Any]
    manifests: tuple[Manifest, ...]
    layout: Architecture | None
    missing: tuple[str, ...]


class _Reader:
    """Reads a run folder's files and remembers which are missing."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.missing: list[str] = []

    def json(self, name: str) -> dict[str, Any]:
        if not self.workspace.path(name).exists():
            self.missing.append(name)
            return {}
        value = self.workspace.read_json(name)
        return value if isinstance(value, dict) else {}

    def records(self, record_type: type[Any]) -> list[Any]:
        name = FILES[record_type]
        if not self.workspace.path(name).exists():
            self.missing.append(name)
            return []
        return self.workspace.read(record_type)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """JSON objects of a log that a killed run may have cut in the middle of a line."""
        path = self.workspace.path(name)
        if not path.exists():
            self.missing.append(name)
            return []
        rows = []
        for line in self.workspace.existing(name).read_text("utf-8", errors="replace").split("\n"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                rows.append(value)
        return rows


def gather(workspace: Workspace, config: Config) -> Evidence:
    """Read a run folder. Only summary.json must be there; raises ArtifactMissing without it."""
    summary = workspace.read_json("summary.json")
    reader = _Reader(workspace)
    documents = reader.records(Document)
    passages = reader.records(Passage)
    funnel = _funnel(documents, passages, reader.records(DroppedPassage), written(reader.records(Query)))
    merge, check = reader.json("merge.json"), reader.json("check.json")
    evaluation = reader.json("evaluation.json")
    losses = reader.lines("finetuned/losses.jsonl")
    training = reader.json("finetuned/training.json")
    results = results_of(summary)
    tuned = evaluation.get("tuned", "merged")
    return Evidence(
        root=workspace.root.as_posix(),
        config=config,
        **{field.name: getattr(results, field.name) for field in fields(Results)},
        funnel=funnel,
        document_names=_document_names(documents),
        sweep=tuple(
            SweepPoint(alpha=point["alpha"], dev=point.get("dev", {}), retention=point.get("retention"))
            for point in merge.get("alphas", ())
        ),
        cosines=tuple(
            Cosines(
                system=name,
                similar=tuple(value.get("similar", ())),
                different=tuple(value.get("different", ())),
                auc=value.get("auc"),
            )
            for name, value in check.get("systems", {}).items()
        ),
        check_verdict=check.get("verdict", ""),
        check_passed=check.get("passed"),
        tuned=tuned,
        slices={name: tuple(_slice(row, tuned) for row in rows) for name, rows in evaluation.get("slices", {}).items()},
        outcomes=tuple((*evaluation.get("wins", ()), *evaluation.get("losses", ()))),
        outcome_counts=evaluation.get("counts", {}),
        passages=evaluation.get("passages", {}),
        losses=tuple((row["step"], row["loss"]) for row in losses if _numbers(row, "step", "loss")),
        dev_scores=_dev_scores(training),
        training=training,
        manifests=tuple(m for name in STAGES if (m := workspace.read_manifest(name)) is not None),
        layout=_layout(workspace, reader),
        missing=tuple(reader.missing),
    )


def results_of(summary: Mapping[str, Any]) -> Results:
    """The typed form of summary.json; what an older one lacks is empty."""
    return Results(
        systems={name: _system(name, value) for name, value in summary["systems"].items()},
        comparisons=tuple(_comparison(value) for value in summary.get("comparisons", ())),
        decision=_decision(summary["decision"]),
        data=summary.get("data", {}),
        timings_s=summary.get("timings_s", {}),
        cost=summary.get("cost", {}),
        cluster_by=summary.get("cluster_by", ""),
        rows={name: Row(**value) for name, value in summary.get("retrievers", {}).items()},
        storage=tuple(_storage(value) for value in summary.get("storage", ())),
    )


def _decision(value: Mapping[str, Any]) -> Decision:
    chosen = value.get("retriever") or {}
    return Decision(
        ship=value["ship"],
        alpha=value.get("alpha"),
        why=value.get("why", ""),
        over=chosen.get("model", "base" if value["ship"] == "base" else "merged"),
        verdict=chosen.get("verdict", ""),
        chosen=chosen.get("why", ""),
        evidence=(chosen.get("evidence") or {}).get("kind", ""),
    )


def _storage(value: Mapping[str, Any]) -> Storage:
    names = ("name", "dimensions", "bytes_a_passage", "on_disk", "trained", "delta")
    (low, high), (delta_low, delta_high) = value["ci95"], value["delta_ci95"]
    return Storage(
        **{name: value[name] for name in names},
        score=value["ndcg@10"],
        ci95=(low, high),
        delta_ci95=(delta_low, delta_high),
    )


def _document_names(documents: list[Document]) -> dict[str, str]:
    """File names; where documents share a file, as those of a BEIR corpus do, their ids."""
    sharing = Counter(document.path for document in documents)
    return {
        d.document_id: d.document_id if sharing[d.path] > 1 else d.path.replace("\\", "/").rsplit("/", 1)[-1]
        for d in documents
    }


def _numbers(row: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(row.get(name), (int, float)) for name in names)


def _system(name: str, value: Mapping[str, Any]) -> System:
    ci95 = {metric: (low, high) for metric, (low, high) in value.get("ci95", {}).items()}
    return System(name=name, metrics=value["metrics"], ci95=ci95)


def _interval(value: Any) -> Interval | None:  # noqa: ANN401 - JSON
    return (float(value[0]), float(value[1])) if value else None


def _comparison(value: Mapping[str, Any]) -> Comparison:
    return Comparison(
        a=value["a"],
        b=value["b"],
        metric=value["metric"],
        delta=value["delta"],
        ci95=_interval(value.get("ci95")),
        p_value=value.get("p_value"),
        queries=value.get("queries", 0),
        clusters=value.get("clusters", 0),
        minimum_detectable=value.get("minimum_detectable"),
    )


def _slice(row: Mapping[str, Any], tuned: str) -> Slice:
    return Slice(
        value=str(row["value"]),
        queries=row["queries"],
        base=row["base"],
        tuned=row[tuned],
        delta=row["delta"],
        ci95=_interval(row.get("ci95")),
    )


def _dev_scores(training: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """(step, nDCG@10) of the dev questions, the base's at step 0."""
    scores = training.get("dev_ndcg10") or {}
    base = scores.get("base")
    after = [(row["step"], row["ndcg10"]) for row in scores.get("after", ()) if _numbers(row, "step", "ndcg10")]
    return (((0, base),) if base is not None else ()) + tuple(after)


def _layout(workspace: Workspace, reader: _Reader) -> Architecture | None:
    try:
        return read_architecture(workspace.path("merged"))
    except ModelError:
        reader.missing.append("merged")
        return None


def _ranked(dropped: Iterable[tuple[str, str]]) -> tuple[tuple[str, int, str], ...]:
    """(reason, number, an example) of (reason, text) pairs, the most frequent reason first."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for reason, text in dropped:
        # "running header (12 pages)" and "running header (3 pages)" are one reason.
        name = _DETAIL.sub("", reason) or "no reason recorded"
        counts[name] += 1
        if text and name not in examples:
            examples[name] = text if len(text) <= _EXAMPLE else text[: _EXAMPLE - 1] + "…"
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((reason, number, examples.get(reason, "")) for reason, number in order)


def _funnel(
    documents: list[Document], passages: list[Passage], dropped: list[DroppedPassage], queries: list[Query]
) -> Funnel:
    kept = [query for query in queries if query.kept]
    written_by_style, kept_by_style = Counter(q.style for q in queries), Counter(q.style for q in kept)
    return Funnel(
        documents_given=len(documents),
        documents_read=sum(d.status in ("ok", "partial") for d in documents),
        unread=tuple(d for d in documents if d.status != "ok"),
        passages_kept=len(passages),
        passages_dropped=len(dropped),
        passage_reasons=_ranked((piece.reason, piece.preview) for piece in dropped),
        splits=dict(Counter(p.split for p in passages)),
        queries_written=len(queries),
        queries_kept=len(kept),
        query_reasons=_ranked((q.reason, q.text) for q in queries if not q.kept),
        styles=tuple((style, count, kept_by_style[style]) for style, count in written_by_style.most_common()),
    )
