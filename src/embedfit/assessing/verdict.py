"""What an assessment advises: a model, a retriever over it, and whether tuning is likely to help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedfit.assessing.measuring import SUM, Key
from embedfit.choosing.decision import LABELS, points
from embedfit.choosing.estimates import plain
from embedfit.choosing.gate import FEWEST, best, compared
from embedfit.numerics.arrays import Doubles, Ints
from embedfit.path.artefacts import Against, Outlook
from embedfit.retrieval.significance import Difference, compare

Kind = Literal["labelled", "graded", "written"]
#: What windows and words must surely add to one vector for tuning to be likely to help, and the most that they may
#: surely add for it to be unlikely; in nDCG, by people's questions. docs/recipe.md has the corpora on both sides.
LIKELY_GAP, UNLIKELY_GAP = 0.07, 0.05
#: With fewer passages than this no corpus was measured.
FEWEST_PASSAGES = 150
#: One vector that finds this much leaves too little to gain.
CEILING = 0.93
LABEL = {**LABELS, "default": "the default", "base": "one vector", "sum": "the default without its second stage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The metric of every question and row. values: (Q, R); clusters: (Q,); keys: of the rows, in order."""

    kind: Kind
    keys: Sequence[Key]
    values: Doubles
    clusters: Ints
    seed: int

    def place(self, retriever: str, model: str) -> int | None:
        """The number of a row, None if it was not measured."""
        key = (retriever, "" if retriever == "bm25" else model)
        return self.keys.index(key) if key in self.keys else None

    def default(self, model: str) -> int:
        """The number of the safe default's row."""
        return next(number for number, (name, of) in enumerate(self.keys) if name == "default" and of == model)

    def against(self, start: int, others: Sequence[int]) -> list[Against]:
        """Rows against the one of number `start`, by intervals that hold for all at once."""
        if not others:
            return []
        differences = self.values[:, list(others)] - self.values[:, [start]]
        return compared(plain(differences, self.clusters, rng=np.random.default_rng(self.seed)))

    def difference(self, a: int, b: int, draws: int) -> Difference:
        """Row a minus row b."""
        columns = self.values[:, [a]], self.values[:, [b]]
        return compare(*columns, self.clusters, rng=np.random.default_rng(self.seed), draws=draws)[0]


def model_of(values: Values, sizes: Mapping[str, int]) -> tuple[str, str]:
    """(the model to take, why): the smallest, unless a larger one is surely better under the safe default."""
    ordered = sorted(sizes, key=lambda name: sizes[name])
    first, others = ordered[0], ordered[1:]
    if not others:
        return first, "it is the only one"
    if len(values.values) < FEWEST:
        return first, f"it is the smallest, and {len(values.values)} questions are too few to tell models apart"
    found = values.against(values.default(first), [values.default(name) for name in others])
    winner = best(found)
    if winner is not None:
        return others[winner], f"it finds surely more than {first}, the smallest: {points(found[winner])}"
    most = max(range(len(found)), key=lambda number: found[number].delta)
    return first, f"it is the smallest, and no other is surely better ({others[most]}: {points(found[most])})"


def retriever_of(values: Values, model: str) -> tuple[int, str, Against | None]:
    """(the number of the row to take over a model, why, its difference to the safe default).

    Written questions never choose between words and vectors, because they share words with their passages.
    """
    start = values.default(model)
    if values.kind == "written":
        return start, "the safe default: written questions can't choose between words and vectors", None
    if len(values.values) < FEWEST:
        return start, f"the safe default: {len(values.values)} questions are too few to choose another retriever", None
    others = [
        number
        for number, (name, of) in enumerate(values.keys)
        if of in (model, "") and number != start and name not in ("rrf", SUM.name)
    ]
    found = values.against(start, others)
    winner = best(found)
    if winner is None:
        return start, "the safe default: no other retriever is surely better", None
    name = LABEL[values.keys[others[winner]][0]]
    return others[winner], f"{name}: it gains {points(found[winner])} over the safe default", found[winner]


def outlook(values: Values, model: str, *, passages: int, covered: float, draws: int) -> Outlook:
    """Whether tuning is likely to help, by what windows and words add to one vector: that is what a teacher can teach.

    The rule was read off the corpora of docs/recipe.md and says no more than they do.
    """
    one = values.place("base", model)
    fused = values.place(SUM.name, model)
    fused = values.default(model) if fused is None else fused
    assert one is not None  # it is always measured
    gap = values.difference(fused, one, draws)
    low, high = gap.ci95
    base = float(values.values[:, one].mean())
    verdict, why = _judged(values.kind, gap, base, passages)
    return Outlook(verdict=verdict, why=why, gap=gap.delta, gap_ci95=(low, high), covered=round(covered, 4))


def _judged(
    kind: Kind, gap: Difference, base: float, passages: int
) -> tuple[Literal["likely", "not likely", "can't tell"], str]:
    low, high = gap.ci95
    shown = f"{100 * gap.delta:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    adds = f"windows and words add {shown} to one vector"
    if passages < FEWEST_PASSAGES:
        return "not likely", f"{passages:,} passages give too few questions to learn from (at least {FEWEST_PASSAGES})"
    if gap.queries < FEWEST:
        return "can't tell", f"{gap.queries} questions are too few"
    if kind == "written":
        return "can't tell", (
            f"{adds} on written questions, and those look alike where tuning helped (from +4.1 on) and where it did "
            "not (+3.5). Fifty of people's questions tell: --queries FILE --judge SPEC"
        )
    if base >= CEILING:
        return "not likely", f"one vector already has {base:.3f}, so little is left to gain"
    if high < UNLIKELY_GAP:
        return "not likely", f"{adds}: one vector already knows what a teacher could teach it"
    if low >= LIKELY_GAP:
        return "likely", (
            f"{adds}, which a teacher can teach it. On measured corpora with such a gap one vector gained 3 to 7 "
            "points by written queries, the whole retriever 1 to 3"
        )
    return "can't tell", f"{adds}; of such a gap no measured corpus says enough"
