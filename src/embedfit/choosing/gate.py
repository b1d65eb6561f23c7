"""Whether a candidate is surely better than the retriever that would ship without it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from embedfit.choosing.estimates import Estimate
from embedfit.retrieval.significance import student_quantile

Verdict = Literal["better", "no difference", "worse"]

#: Chance that any candidate that is no better passes the gate. Its interval is of twice that: 90%.
ERROR = 0.05
#: Questions that can tell candidates apart, below which nothing is chosen by them.
FEWEST = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A candidate against the default. ci: the interval that decides. p: one-sided, corrected as the interval is."""

    delta: float
    ci: tuple[float, float]
    p: float

    @property
    def verdict(self) -> Verdict:
        """Better or worse where the interval leaves zero out."""
        return "better" if self.ci[0] > 0 else "worse" if self.ci[1] < 0 else "no difference"


def compared(estimate: Estimate) -> list[Compared]:
    """Every candidate against the default, by intervals that hold for all of them at once.

    The largest of the candidates' studentised deviations in each resample says how far the luckiest of them goes by
    chance (White's reality check, Econometrica 2000, studentised as Romano and Wolf 2005 do). It asks for less than
    Holm's correction because candidates that share parts win and lose together. The critical value is widened for few
    questions as Student's t is.
    """
    delta, draws, count = estimate.delta, estimate.draws, estimate.clusters
    if count < 2:
        return [Compared(delta=float(one), ci=(-1.0, 1.0), p=1.0) for one in delta]
    error = draws.std(0) * np.sqrt(count / (count - 1))
    moved = error > 1e-9  # a candidate that ranks as the default does has no chance to be better
    if not moved.any():
        return [Compared(delta=float(one), ci=(float(one), float(one)), p=1.0) for one in delta]
    highest = ((draws[:, moved] - delta[moved]) / error[moved]).max(1)
    few = student_quantile(1 - ERROR, count - 1) / NormalDist().inv_cdf(1 - ERROR)
    reach = float(np.quantile(highest, 1 - ERROR)) * few
    found = []
    for one, spread, moves in zip(delta.tolist(), error.tolist(), moved.tolist(), strict=True):
        p = float((1 + (highest * few * spread >= one).sum()) / (1 + len(highest))) if moves else 1.0
        ci = (max(-1.0, one - reach * spread), min(1.0, one + reach * spread)) if moves else (one, one)
        found.append(Compared(delta=one, ci=ci, p=p))
    return found


def best(found: list[Compared]) -> int | None:
    """The candidate, by number, that gains most among those that are surely better; None: the default stays."""
    passing = [number for number, one in enumerate(found) if one.verdict == "better"]
    return max(passing, key=lambda number: found[number].delta) if passing else None
