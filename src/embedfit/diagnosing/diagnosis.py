"""Whether tuning helped, and if not, which parts are to blame, the likeliest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from embedfit.diagnosing.causes import CAUSES, LEAST, Part
from embedfit.diagnosing.facts import Facts
from embedfit.path.artefacts import Comparison, Schema, Whole

Outcome = Literal["helped", "no difference", "harmed", "not measured"]


class Blamed(Whole):
    """A part that may be to blame, with its evidence from the run and a command to try."""

    part: Part
    weight: float
    evidence: str
    command: str


class Diagnosis(Whole):
    """The result of `embedfit diagnose`. It prints as sentences.

    sentence: what tuning did, with its interval. blamed: the likeliest part first; none if tuning helped.
    """

    edition: Schema = 1
    run: str
    outcome: Outcome
    sentence: str
    blamed: tuple[Blamed, ...] = ()

    def __str__(self) -> str:
        """The diagnosis in lines."""
        lines = [self.sentence]
        if self.outcome == "helped":
            return "\n".join(lines)
        if not self.blamed:
            lines.append(
                "No part of the run stands out. The likeliest gain is questions that people asked: "
                f"embedfit run --run {self.run} --queries FILE"
            )
        for number, one in enumerate(self.blamed, 1):
            lines += [f"{number}. {one.part}: {one.evidence}.", f"   Try: {one.command}"]
        return "\n".join(lines)


def diagnose(facts: Facts) -> Diagnosis:
    """What tuning did in a run, and why it did not help."""
    pairs = (("default", "default_base"), ("merged", "base"), ("finetuned", "base"))
    found = [one for one in (facts.comparison(pair) for pair in pairs) if one is not None]
    outcome, sentence = _outcome(found, ships=facts.evidence.summary.decision.ship != "base")
    blamed: list[Blamed] = []
    if outcome != "helped":
        causes = [cause for look in CAUSES if (cause := look(facts)) is not None and cause.weight >= LEAST]
        for cause in sorted(causes, key=lambda one: -one.weight):
            blamed.append(
                Blamed(
                    part=cause.part,
                    weight=round(cause.weight, 3),
                    evidence=cause.evidence.rstrip("."),
                    command=cause.command,
                )
            )
    return Diagnosis(run=facts.run, outcome=outcome, sentence=sentence, blamed=tuple(blamed))


def _outcome(found: Sequence[Comparison], *, ships: bool) -> tuple[Outcome, str]:
    """The verdict by the same retriever tuned and untuned; without that, by one vector a passage."""
    if not found:
        return "not measured", "The run has no comparison of the tuned model with its base: run embedfit evaluate."
    first = found[0]
    against = {
        "default": "under the same retriever",
        "merged": "with one vector a passage",
        "finetuned": "with one vector a passage and all of the tuned model",
    }[first.a]
    low, high = first.ci95 or (-1.0, 1.0)
    shown = f"{100 * first.delta:+.1f} points of nDCG@10 [{100 * low:+.1f}, {100 * high:+.1f}] {against}"
    on = f"on {first.queries:,} questions"
    if not ships:
        return "no difference", f"The tuned model does not ship, so the base stays ({shown}, {on})."
    if first.better:
        return "helped", f"Tuning helped: {shown}, {on}."
    alone = next((one for one in found[1:] if one.a == "merged"), None)
    more = ""
    if alone is not None and alone.better:
        more = (
            f" With one vector a passage it gained {100 * alone.delta:+.1f} points, which the retriever has without it."
        )
    if first.verdict == "worse":
        return "harmed", f"Tuning harmed: {shown}, {on}.{more}"
    return "no difference", f"Tuning made no difference that {first.queries:,} questions show: {shown}.{more}"
