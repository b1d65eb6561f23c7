"""What the demo found, with the questions that the base misses and the winner answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from embedfit.commands.runs import RunResult
from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import Measured
from embedfit.index.highlight import Highlighter, snippet
from embedfit.numerics.arrays import Ints
from embedfit.path.artefacts import Comparison, Summary, System
from embedfit.retrieval.words import Analysis

#: Questions that are shown.
SHOWN = 3
#: A retriever misses a question if the answer is not among so many of its first passages.
FIRST = 10
#: Characters of a passage that are shown.
CHARACTERS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A question that the base misses. found: of its first passage. answer: of the winner's; rank: its in the base."""

    question: str
    found: str
    answer: str
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """gained: questions that the base misses and the winner answers first; lost: the other way round."""

    gained: int
    lost: int
    shown: tuple[Shown, ...]


class DemoRecord(TypedDict):
    """What `embedfit demo --json` prints: DemoResult's fields. summary: that of the run; None with --untrained."""

    folder: str
    questions: int
    systems: dict[str, System]
    untrained: Comparison
    compared: SideBySide
    seconds: dict[str, float]
    summary: Summary | None


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo found.

    questions: people's questions that judged. systems: one vector of the untuned base ("base"), words ("bm25") and the
    retriever without training ("default_base"). untrained: the gain of the latter. compared: the base beside the
    winner. seconds: of each part by its title. run: the whole run; None if the demo ended after its first part.
    """

    folder: Path
    questions: int
    systems: Mapping[str, System]
    untrained: Comparison
    compared: SideBySide
    seconds: Mapping[str, float] = field(default_factory=dict)
    run: RunResult | None = None

    def as_dict(self) -> dict[str, object]:
        """For --json: the values of a DemoRecord."""
        return {
            "folder": str(self.folder),
            "questions": self.questions,
            "systems": {name: one.model_dump() for name, one in self.systems.items()},
            "untrained": self.untrained.model_dump(),
            "compared": asdict(self.compared),
            "seconds": dict(self.seconds),
            "summary": self.run.summary if self.run else None,
        }


def side_by_side(eval_set: EvalSet, base: Measured, winner: Ints) -> SideBySide:
    """Compare the rankings of the base with the winner's ranks of the first answer. winner: (Q,), 0 for none.

    Shown are the questions whose answer the base ranks lowest, each with another answer.
    """
    missed, others = _missed(base.ranks), _missed(winner)
    gained = np.flatnonzero(missed & (winner == 1))
    lowest = sorted(gained.tolist(), key=lambda query: (-_depth(int(base.ranks[query])), eval_set.query_ids[query]))
    shown: dict[int, Shown] = {}
    highlighter = Highlighter(Analysis.of(eval_set.contents))
    for query in lowest:
        answer, text = eval_set.answer(query), eval_set.queries[query]
        if answer not in shown and len(shown) < SHOWN:
            shown[answer] = Shown(
                question=text,
                found=_excerpt(eval_set, eval_set.numbers[base.found[query][0]], text, highlighter),
                answer=_excerpt(eval_set, answer, text, highlighter),
                rank=int(base.ranks[query]),
            )
    return SideBySide(gained=len(gained), lost=int((others & (base.ranks == 1)).sum()), shown=tuple(shown.values()))


def _missed(ranks: Ints) -> npt.NDArray[np.bool_]:
    return np.asarray((ranks == 0) | (ranks > FIRST))


def _depth(rank: int) -> int:
    return rank or 1_000_000


def _excerpt(eval_set: EvalSet, number: int, question: str, highlighter: Highlighter) -> str:
    """A passage's headings, and the stretch of its text that has most of the question's words."""
    text = " ".join(eval_set.texts[number].split())
    marked = highlighter.spans(question, text)
    begins = [start for start, _ in marked]
    most = max(range(len(marked)), key=lambda n: sum(b < begins[n] + CHARACTERS for b in begins[n:]), default=0)
    shown, _ = snippet(text, marked[most:], CHARACTERS)
    title = eval_set.titles[number]
    return f"{title}: {shown}" if title else shown


def ranks_of(scores: Mapping[str, int], eval_set: EvalSet) -> Ints:
    """(Q,) ranks in the order of the evaluation set. scores: rank by query id."""
    return np.array([scores[query] for query in eval_set.query_ids], np.int64)
