"""From evidence to what ships: first the model, under the safe default; then the retriever over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from embedfit.choosing.candidates import Candidate
from embedfit.choosing.evidence import Evidence
from embedfit.choosing.gate import FEWEST, Compared, best, compared
from embedfit.choosing.models import Ships

Verdict = Literal["better", "no difference", "worse", "no evidence"]

#: What a retriever is called in a sentence.
LABELS = {
    "default": "the sum without written queries",
    "expanded": "the sum with written queries in the index",
    "one": "one vector",
    "windows": "windows",
    "one_words": "one vector and words",
    "windows_words": "windows and words",
    "bm25": "words alone",
    "rrf": "reciprocal rank fusion",
}
#: What a question of each kind of evidence is called.
_QUESTIONS = {
    "labelled": "questions whose passages people named",
    "graded": "graded questions",
    "written": "written dev queries",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What ships and why. rows: one of each candidate, as retriever.json holds them."""

    candidate: Candidate
    default: Candidate
    verdict: Verdict
    why: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    tuning: dict[str, Any] | None = None


def decide(evidence: Evidence, models: Sequence[Ships], default: str, *, seed: int) -> Choice:
    """The choice among candidates over `models`, of which the first would ship.

    default: the name of the safe default. A tuned model ships unless it is surely worse than the untuned one under the
    same retriever: it costs as much. Another retriever ships only where it is surely better than the default over the
    same model, by intervals that hold for all candidates at once.
    """
    model, before = models[0], None
    if len(models) > 1:
        before = _one(evidence, (models[0], default), (models[1], default), seed)
        model = models[1] if before.verdict == "worse" else models[0]
    start = evidence.place(model, default)
    others = [n for n, one in enumerate(evidence.candidates) if one.ships and one.model == model and n != start]
    found = compared(evidence.against(start, others, rng=np.random.default_rng(seed))) if others else []
    winner = best(found)
    chosen = evidence.candidates[start if winner is None else others[winner]]
    by_place = dict(zip(others, found, strict=True))
    for n in range(len(evidence.candidates)):
        if n not in by_place and n != start:
            by_place[n] = _one(evidence, evidence.candidates[n].key, (model, default), seed)
    tuning = None
    if len(models) > 1:
        one = _one(evidence, (models[0], chosen.name), (models[1], chosen.name), seed)
        tuning = {"retriever": chosen.name, **_numbers(one), "verdict": one.verdict}
    leader = max(found, key=lambda one: one.delta) if found else None
    return Choice(
        candidate=chosen,
        default=evidence.candidates[start],
        verdict=leader.verdict if leader else "no evidence",
        why=_why(evidence, chosen, others, found, winner, before if model != models[0] else None),
        rows=_rows(evidence, by_place),
        tuning=tuning,
    )


def _one(evidence: Evidence, a: tuple[str, str], b: tuple[str, str], seed: int) -> Compared:
    places = evidence.place(*b), [evidence.place(*a)]
    return compared(evidence.against(*places, rng=np.random.default_rng(seed)))[0]


def enough(evidence: Evidence | None) -> bool:
    """Whether there are questions enough to choose by."""
    return evidence is not None and evidence.questions >= FEWEST


def worse_under(evidence: Evidence, default: str, seed: int) -> Compared:
    """The merged model against the base under one retriever."""
    return _one(evidence, ("merged", default), ("base", default), seed)


def _why(
    evidence: Evidence,
    chosen: Candidate,
    others: Sequence[int],
    found: Sequence[Compared],
    winner: int | None,
    before: Compared | None,
) -> str:
    on = f"on {evidence.questions:,} {_QUESTIONS[evidence.kind]}"
    untuned = f"the tuned model is surely worse than the untuned one ({points(before)}); " if before else ""
    if winner is not None:
        gain = f"{points(found[winner])} of {evidence.metric}"
        said = f"{LABELS[chosen.name]} gains {gain} over the safe default, and ships."
    elif not found:
        said = "there is no other candidate than the safe default, which ships."
    else:
        number = max(range(len(found)), key=lambda one: found[one].delta)
        leader = LABELS[evidence.candidates[others[number]].name]
        none = "every" if found[number].verdict == "worse" else "no"
        how = "worse than" if none == "every" else "better than"
        best_of = f"the best of them, {leader}: {points(found[number])} of {evidence.metric}"
        said = f"{none} other candidate is surely {how} the safe default, which ships ({best_of})."
    text = f"{on}, {untuned}{said}"
    return text[0].upper() + text[1:]


def points(one: Compared) -> str:
    """A difference with its interval, in points."""
    low, high = one.ci
    return f"{100 * one.delta:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _numbers(one: Compared) -> dict[str, Any]:
    return {"delta": one.delta, "ci": list(one.ci), "p": one.p}


def _rows(evidence: Evidence, compared_to: dict[int, Compared]) -> list[dict[str, Any]]:
    rows = []
    for n, (one, mean) in enumerate(zip(evidence.candidates, evidence.means().tolist(), strict=True)):
        other = compared_to.get(n)
        row = {
            "name": one.name,
            "model": one.model,
            "retriever": one.retriever.as_json(),
            "may_ship": one.ships,
            "ndcg": mean,
            **(_numbers(other) if other else {"delta": 0.0, "ci": [0.0, 0.0], "p": 1.0}),
            "verdict": other.verdict if other else None,
        }
        if evidence.blind is not None:
            row["ungraded"] = float(evidence.blind[n])
        rows.append(row)
    return rows
