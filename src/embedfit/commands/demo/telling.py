"""What the demo tells: a few rows of scores, the verdict, the cost, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedfit.commands.demo.result import FIRST, DemoResult
from embedfit.path.artefacts import METRIC, Comparison, Summary, System
from embedfit.progress import duration
from embedfit.reporting.wording import difference, headline, money, tuning

_ROWS = {
    "base": "plain vector search: one vector a passage",
    "bm25": "words alone (BM25)",
    "default_base": "embedfit's retriever, nothing trained",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """rows: (system, nDCG@10, 95% interval, hit@5). facts: (name, text)."""

    rows: Sequence[tuple[str, str, str, str]]
    verdict: Sequence[str]
    beside: str
    facts: Sequence[tuple[str, str]]


def first_verdict(systems: Mapping[str, System], gain: Comparison) -> str:
    """A sentence on the retriever without training."""
    base, found = (systems[name].metrics[METRIC] for name in ("base", "default_base"))
    said = {
        "better": "finds more than one vector a passage, which is what a plain vector search has",
        "unsure": "is not surely better than one vector a passage",
        "worse": "finds less than one vector a passage",
    }[gain.verdict]
    return f"Without training, embedfit's retriever {said}: nDCG@10 {base:.3f} → {found:.3f}, {difference(gain)}."


def gains(summary: Summary) -> list[str]:
    """Sentences on what tuning added to the retriever, and to one vector a passage alone."""
    said = [tuning(summary)]
    alone = summary.comparison("merged", "base")
    if summary.decision.ship != "base" and alone is not None:
        added = {"better": "added", "unsure": "made no difference that this test sees:", "worse": "took away:"}
        said.append(
            f"To plain vector search, if you can have no more, tuning {added[alone.verdict]} {difference(alone)}."
        )
    return [one for one in said if one]


def story(result: DemoResult) -> Story:
    """The end of the demo in words and numbers."""
    rows = [_row(_ROWS[name], result.systems[name]) for name in _ROWS]
    verdict = [first_verdict(result.systems, result.untrained)]
    if result.run is not None:
        summary = result.run.results
        if summary.decision.over == "merged":
            rows.append(_row("the same retriever, tuned", summary.systems[summary.lead]))
        verdict = [_sentence(summary), *gains(summary)]
    compared = result.compared
    beside = (
        f"The winner's first passage answers {compared.gained:,} of {result.questions:,} questions that none of the "
        f"base's first {FIRST} answers; the other way round it is {compared.lost:,}."
    )
    return Story(rows=rows, verdict=verdict, beside=beside, facts=_facts(result))


def _row(name: str, system: System) -> tuple[str, str, str, str]:
    low, high = system.ci95[METRIC]
    return name, f"{system.metrics[METRIC]:.3f}", f"{low:.3f}–{high:.3f}", f"{system.metrics['hit@5']:.3f}"


def _sentence(summary: Summary) -> str:
    first = headline(summary)
    return f"{first.action}: {first.sentence}."


def _facts(result: DemoResult) -> list[tuple[str, str]]:
    parts = ", ".join(f"{title.split(',')[0].lower()} {duration(took)}" for title, took in result.seconds.items())
    spent = result.run.results.cost.usd if result.run else 0.0
    facts = [("Cost", f"{money(spent)}; {duration(sum(result.seconds.values()))} on this machine ({parts})")]
    if result.run is not None:
        facts += [("Report", str(result.run.report)), ("Model", str(result.run.model))]
    return [*facts, ("Details", str(result.folder / "demo.log"))]


def next_steps(program: str) -> Sequence[tuple[str, str]]:
    """(command, what it does) for the user's own documents. program: what to type for embedfit."""
    return (
        (f"{program} index DOCS... --model minilm --to-folder my-index", "the retriever without training"),
        (f"{program} run DOCS... --preset offline --run runs/mine", "queries, tuning, measurement and report"),
    )
