"""The gate: whether a candidate is surely better than the safe default."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from embedfit.choosing.estimates import Differences
from embedfit.path.artefacts import Against, Verdict
from embedfit.retrieval.significance import student_quantile

#: The chance that a candidate passes although none is better. The interval has this chance on each side, so it is 90%.
ERROR = 0.05
#: The fewest questions with usable grades or labels that may choose a candidate.
FEWEST = 15


def against(delta: float, ci: tuple[float, float], p: float) -> Against:
    """A candidate's comparison with the default: better or worse if the interval leaves zero out."""
    verdict: Verdict = "better" if ci[0] > 0 else "worse" if ci[1] < 0 else "no difference"
    return Against(delta=delta, ci=ci, p=p, verdict=verdict)


def compared(found: Differences) -> list[Against]:
    """Every candidate's comparison with the default, by intervals that hold for all of them at once.

    The largest of the candidates' studentised deviations in each resample shows how far the luckiest of them gets by
    chance (White's reality check, Econometrica 2000, studentised as Romano and Wolf 2005 do). It is less strict than
    Holm's correction, because candidates that share parts win and lose together. For few questions the critical value
    is widened as Student's t is.
    """
    delta, draws, count = found.delta, found.draws, found.clusters
    if count < 2:
        return [against(one, (-1.0, 1.0), 1.0) for one in delta.tolist()]
    error = draws.std(0) * np.sqrt(count / (count - 1))
    moved = error > 1e-9  # a candidate with the default's rankings has no error to divide by
    if not moved.any():
        return [against(one, (one, one), 1.0) for one in delta.tolist()]
    highest = ((draws[:, moved] - delta[moved]) / error[moved]).max(1)
    few = student_quantile(1 - ERROR, count - 1) / NormalDist().inv_cdf(1 - ERROR)
    reach = float(np.quantile(highest, 1 - ERROR)) * few
    rows = []
    for one, spread, moves in zip(delta.tolist(), error.tolist(), moved.tolist(), strict=True):
        p = float((1 + (highest * few * spread >= one).sum()) / (1 + len(highest))) if moves else 1.0
        ci = (max(-1.0, one - reach * spread), min(1.0, one + reach * spread)) if moves else (one, one)
        rows.append(against(one, ci, p))
    return rows


def best(found: list[Against]) -> int | None:
    """The number of the candidate that gains most among those that are surely better; None if the default stays."""
    passing = [number for number, one in enumerate(found) if one.verdict == "better"]
    return max(passing, key=lambda number: found[number].delta) if passing else None
