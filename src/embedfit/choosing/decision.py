"""Decides from measurements what ships: first the model, under the safe default, then the retriever over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedfit.choosing.candidates import CandidateRetriever
from embedfit.choosing.evidence import Measurement
from embedfit.choosing.gate import FEWEST, against, best, compared
from embedfit.path.artefacts import Against, ChosenCandidate, ChosenRetriever, ShippedModel, TuningEvidence

#: The name of each retriever in a sentence.
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
#: The name of the questions of each kind of evidence.
_QUESTIONS = {
    "labelled": "questions whose passages people named",
    "graded": "graded questions",
    "written": "written dev queries",
}


def decide(measured: Measurement, models: Sequence[ShippedModel], default: str, *, seed: int) -> ChosenRetriever:
    """The choice among candidates over `models`, the first of which ships by default.

    default: the name of the safe default. A tuned model costs no more than the untuned one, so it ships unless it is
    surely worse under the same retriever. Another retriever ships only if it is surely better than the default over
    the same model, by intervals that hold for all candidates at once.
    """
    model, untuned = models[0], ""
    if len(models) > 1:
        tuned = between_models(measured, default, seed)
        if tuned.verdict == "worse":
            model = models[1]
            untuned = f"the tuned model is surely worse than the untuned one ({points(tuned)}); "
    candidates = measured.candidates
    start = measured.place(model, default)
    others = [n for n, one in enumerate(candidates) if one.ships and one.model == model and n != start]
    found = _to(measured, start, others, seed)
    winner = best(found)
    chosen = candidates[start if winner is None else others[winner]]
    tuning = None
    if len(models) > 1:
        one = between_models(measured, chosen.name, seed)
        tuning = TuningEvidence(retriever=chosen.name, **dict(one))
    on = f"{measured.questions:,} {_QUESTIONS[measured.about.kind]}"
    compared_with = [candidates[n] for n in others]
    return ChosenRetriever(
        model=chosen.model,
        retriever=chosen.retriever,
        verdict=max(found, key=lambda one: one.delta).verdict or "no evidence" if found else "no evidence",
        why=f"On {on}, {untuned}{_why(compared_with, found, winner, measured.about.metric)}",
        evidence=measured.about.model_copy(update={"tuning": tuning}),
        default=candidates[start].retriever,
        candidates=_rows(measured, start, dict(zip(others, found, strict=True)), seed),
    )


def between_models(measured: Measurement, retriever: str, seed: int) -> Against:
    """The merged model against the base under one retriever."""
    return _to(measured, measured.place("base", retriever), [measured.place("merged", retriever)], seed)[0]


def enough(measured: Measurement | None) -> bool:
    """Whether there are enough questions to choose by."""
    return measured is not None and measured.questions >= FEWEST


def points(one: Against) -> str:
    """A difference with its interval, in points."""
    low, high = one.ci
    return f"{100 * one.delta:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _to(measured: Measurement, start: int, others: Sequence[int], seed: int) -> list[Against]:
    """Comparisons of candidates with the one of number `start`, with intervals that hold for all at once."""
    return compared(measured.against(start, others, rng=np.random.default_rng(seed))) if others else []


def _why(others: Sequence[CandidateRetriever], found: Sequence[Against], winner: int | None, metric: str | None) -> str:
    if not found:
        return "there is no other candidate than the safe default, which ships."
    number = max(range(len(found)), key=lambda one: found[one].delta) if winner is None else winner
    label, gain = LABELS[others[number].name], f"{points(found[number])} of {metric}"
    if winner is not None:
        return f"{label} gains {gain} over the safe default, and ships."
    none, how = ("every", "worse than") if found[number].verdict == "worse" else ("no", "better than")
    return f"{none} other candidate is surely {how} the safe default, which ships (the best of them, {label}: {gain})."


def _rows(measured: Measurement, start: int, found: dict[int, Against], seed: int) -> tuple[ChosenCandidate, ...]:
    """Every candidate with its mean and its comparison with the safe default, which has the number `start`."""
    itself = against(0.0, (0.0, 0.0), 1.0).model_copy(update={"verdict": None})
    rows = []
    for n, (one, mean) in enumerate(zip(measured.candidates, measured.means().tolist(), strict=True)):
        other = itself if n == start else found.get(n) or _to(measured, start, [n], seed)[0]
        rows.append(
            ChosenCandidate(
                name=one.name,
                model=one.model,
                retriever=one.retriever,
                may_ship=one.ships,
                ndcg=mean,
                ungraded=None if measured.blind is None else float(measured.blind[n]),
                **dict(other),
            )
        )
    return tuple(rows)
