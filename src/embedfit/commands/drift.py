"""Whether new questions or new passages still look like those that a run was tuned on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from typing_extensions import TypedDict

from embedfit.asked.log import read_log
from embedfit.commands import runs
from embedfit.commands.indexing import load_or_build
from embedfit.errors import ArtifactMissing, InputError
from embedfit.index.search import Index
from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.retrieval.drift import Lower, lower, two_sample_p
from embedfit.runtime import Runtime

#: A p-value below this says that two samples differ. Three things are looked at, so it is a third of 5%.
ALPHA = 0.05 / 3
#: Texts of each side that are compared: enough to see small changes, few enough for a minute.
MOST = 500
#: Fewer questions or passages on a side say nothing.
LEAST = 10
#: Below so many, only large changes are seen.
_FEW = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Old and new texts of a kind. p: of the test that both come from one distribution."""

    kind: str
    old: int
    new: int
    p: float

    @property
    def differs(self) -> bool:
        """Whether the samples differ."""
        return self.p < ALPHA


class DriftResult(TypedDict):
    """What `embedfit drift --json` prints. drifted: whether anything differs. passages: None without --documents."""

    drifted: bool
    by_people: bool
    questions: Compared
    found: Lower
    passages: Compared | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What was compared. by_people: the run's own questions are of people, and not written by a model."""

    by_people: bool
    questions: Compared
    found: Lower
    passages: Compared | None = None

    @property
    def has_drifted(self) -> bool:
        """Whether anything differs."""
        parts = [self.questions.differs, self.found.has_fallen, self.passages is not None and self.passages.differs]
        return any(parts)

    def as_json(self) -> DriftResult:
        """The result as JSON values."""
        return cast("DriftResult", {"drifted": self.has_drifted, **asdict(self)})

    def sentences(self) -> Iterator[str]:
        """The result in plain words."""
        yield _compared(self.questions)
        low, high = (100 * bound for bound in self.found.interval)
        fallen = self.found.has_fallen
        yield (
            f"For {self.found.share:.0%} of the new questions the nearest passage is farther than for all but "
            f"{self.found.old_share:.0%} of the old ones: {low:+.0f} to {high:+.0f} points (98%). "
            f"{'The passages answer the new ones less well.' if fallen else 'That is no clear change.'}"
        )
        if self.passages is not None:
            yield _compared(self.passages)
        if not self.by_people:
            yield (
                "The run has no questions of people, so the new ones were compared with those that a model wrote: "
                "people ask in other words, which alone is a difference. Run with --queries to compare with people's."
            )
        sides = [self.questions, *([self.passages] if self.passages else [])]
        if min(min(one.old, one.new) for one in sides) < _FEW:
            yield f"With fewer than {_FEW} on a side only large changes are seen: no difference is no proof of none."
        if self.has_drifted:
            yield "Next: tune again with the new questions and documents: embedfit run … --queries FILE"


def _compared(one: Compared) -> str:
    differ, alike = f"The new {one.kind} differ from the old", f"No difference of the new {one.kind} was seen"
    verdict = differ if one.differs else alike
    return f"{verdict} ({one.new:,} new, {one.old:,} old; p = {one.p:.3f}, a difference below {ALPHA:.3f})."


def drift(
    run: str | Path,
    *,
    queries: Sequence[str | Path],
    documents: Sequence[str | Path] = (),
    runtime: Runtime | None = None,
    seed: int = 0,
) -> Drift:
    """Compare new questions, and new documents, with those of a run, by the vectors of the model that it ships.

    Raises ArtifactMissing for a folder that is no finished run, InputError for too few questions or passages.
    """
    runtime = runtime or Runtime()
    workspace, rng = Workspace(Path(run)), np.random.default_rng(seed)
    known = [one for one in workspace.read(Query) if one.kept] if workspace.path("queries.jsonl").exists() else []
    if not known:
        raise ArtifactMissing(f"{run} holds no questions.", remedy=f"Run: embedfit run DOCS... --run {run}")
    asked = [one.text for one in known if one.is_asked]
    old = _some(asked if len(asked) >= LEAST else [one.text for one in known], rng)
    log = read_log(queries, runtime.report, seed=seed)
    new = [question.text for question in list(log.questions.values())[:MOST]]
    _enough("questions", f"{run}", old)
    _enough("questions", ", ".join(map(str, queries)), new)
    index = load_or_build(run, runtime)
    runtime.report.log(f"drift: {len(new):,} new questions beside {len(old):,} old ones")
    vectors = [_vectors(index, texts) for texts in (old, new)]
    p = two_sample_p(*vectors, rng=rng)
    return Drift(
        by_people=len(asked) >= LEAST,
        questions=Compared(kind="questions", old=len(old), new=len(new), p=p),
        found=lower(*(_nearest(index, rows) for rows in vectors)),
        passages=_passages(index, documents, rng, runtime) if documents else None,
    )


def _some(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    distinct = list(dict.fromkeys(texts))
    return [distinct[place] for place in rng.permutation(len(distinct))[:MOST]]


def _enough(kind: str, where: str, found: Sequence[str]) -> None:
    if len(found) < LEAST:
        raise InputError(
            f"{where} holds {len(found)} different {kind}; a comparison needs {LEAST} at least.",
            remedy="Wait until there are more, or name more files.",
        )


def _vectors(index: Index, texts: Sequence[str]) -> Floats:
    return np.concatenate([index.asker.ask(texts[start : start + 64]).vectors for start in range(0, len(texts), 64)])


def _nearest(index: Index, vectors: Floats) -> Floats:
    """The best cosine of each question with a passage: (Q,)."""
    passages = index.base.parts.one if index.parts.one is None else index.parts.one
    assert passages is not None
    best: Floats = np.concatenate(
        [(vectors[start : start + 64] @ passages.astype(np.float32).T).max(1) for start in range(0, len(vectors), 64)]
    )
    return best


def _passages(index: Index, documents: Sequence[str | Path], rng: np.random.Generator, runtime: Runtime) -> Compared:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"model": str(index.asker.folder)}
        runs.run(documents, run=folder, preset="offline", settings=settings, until="ingest", runtime=runtime)
        new = _some([one.content for one in Workspace(Path(folder)).read(Passage)], rng)
    old = _some([one.content for one in index.passages()], rng)
    _enough("passages", ", ".join(map(str, documents)), new)
    _enough("passages", str(index.stored.folder), old)
    embed = index.asker.passages
    return Compared(kind="passages", old=len(old), new=len(new), p=two_sample_p(embed(old), embed(new), rng=rng))
