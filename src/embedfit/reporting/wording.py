"""Words for numbers and verdicts that people understand without a manual."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from embedfit.path.artefacts import METRIC, Comparison, Interval, Summary
from embedfit.path.systems import label_of

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"

METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "hit": "Hit", "recall": "Recall", "precision": "Precision"}


def metric_name(metric: str) -> str:
    """A metric's name as papers write it: "ndcg@10" → "nDCG@10"."""
    kind, at, cutoff = metric.partition("@")
    return METRIC_NAMES.get(kind, kind) + at + cutoff


def score(value: float | None) -> str:
    """A metric between 0 and 1, three decimals."""
    return "–" if value is None else f"{value:.3f}".replace("-", MINUS)


def points(delta: float | None) -> str:
    """A difference of metrics in points (hundredths), with sign and one decimal. A rounded zero has no sign."""
    if delta is None:
        return "–"
    text = f"{100 * delta:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def points_between(interval: Interval | None) -> str:
    """An interval of differences: "+5.4 to +8.5"."""
    return "–" if interval is None else f"{points(interval[0])} to{NBSP}{points(interval[1])}"


def p_value(value: float | None) -> str:
    """A p-value; it is never shown as zero."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """An amount with thousands separated."""
    return "–" if value is None else f"{value:,.0f}"


def plural(number: float, noun: str) -> str:
    """An amount with its noun: "1 query", "2 queries"."""
    if number != 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count(number)} {noun}"


def money(usd: float) -> str:
    """US dollars, with cents if they matter."""
    if usd == 0:
        return "$0"
    return f"${usd:,.2f}" if usd >= 0.01 else "under $0.01"


def size(number: float | None) -> str:
    """Bytes: "768 B", "13.1 kB"."""
    if number is None:
        return "–"
    return f"{number:,.0f}{NBSP}B" if number < 1000 else f"{number / 1000:,.1f}{NBSP}kB"


def milliseconds(value: float | None) -> str:
    """A duration such as "1.4 ms", with tenths only if they matter."""
    if value is None:
        return "–"
    return f"{value:.1f}{NBSP}ms" if value < 10 else f"{value:,.0f}{NBSP}ms"


Tone = Literal["better", "unsure", "worse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The report's first sentence. action: the advice; sentence: its evidence."""

    tone: Tone
    action: str
    sentence: str
    comparison: Comparison | None


def headline(summary: Summary) -> Headline:
    """One sentence to quote: the retriever to search with, its gain, and how sure the gain is."""
    found = summary.comparison(summary.lead)
    shown = _measured(summary, found) if found and {"base", summary.lead} <= summary.systems.keys() else ""
    tone = tone_of(found)
    against = "one vector a passage of the untuned base"
    sentences = {
        "better": f"it finds more on your documents than {against}, by {shown}",
        "unsure": f"whether it finds more than {against} this test can’t tell: {shown}",
        "worse": f"on these questions it finds less than {against}: {shown}",
    }
    return Headline(
        tone=tone,
        action=f"Search with {retriever_name(summary)}",
        sentence=sentences[tone] if shown else "no comparison with the base was made",
        comparison=found,
    )


def _measured(summary: Summary, comparison: Comparison) -> str:
    before, after = (summary.systems[name].metrics.get(METRIC) for name in ("base", comparison.a))
    interval = f"; 95% interval {points_between(comparison.ci95)}" if comparison.ci95 else ""
    return (
        f"{points(comparison.delta)}{NBSP}points of {metric_name(METRIC)} "
        f"({score(before)} →{NBSP}{score(after)}{interval}), on {questions(summary)}"
    )


def tone_of(comparison: Comparison | None) -> Tone:
    """The verdict on a difference, which is none if it was not measured."""
    return "unsure" if comparison is None else comparison.verdict


def questions(summary: Summary) -> str:
    """The number of the evaluation's queries, and who wrote them."""
    who = "that people asked" if summary.human else "written by a language model and held out from training"
    return f"{plural(summary.data.eval_queries, 'question')} {who}"


def difference(comparison: Comparison) -> str:
    """A comparison's difference, such as "+1.4 points, 95% interval +0.2 to +2.5"."""
    interval = f", 95% interval {points_between(comparison.ci95)}" if comparison.ci95 else ""
    return f"{points(comparison.delta)}{NBSP}points{interval}"


def retriever_name(summary: Summary) -> str:
    """The retriever that ships, in words."""
    lead, decision = summary.lead, summary.decision
    if lead not in ("default", "chosen"):
        return f"the {label_of(lead).lower()} model"
    if lead == "default":
        what = "the safe default retriever"
    elif decision.retriever and decision.retriever.evidence.kind in ("labelled", "graded"):
        what = "the retriever that people’s questions chose,"
    else:
        what = "the retriever of this run’s index,"
    model = "the tuned model" if decision.over == "merged" else "the untuned base"
    row = summary.retrievers.get(lead)
    return f"{what} over {model}" + (" and the written queries" if row and row.retriever.reads_queries else "")


def tuning(summary: Summary) -> str:
    """A sentence on the gain by tuning, against the same retriever over the base. Empty if it was not measured."""
    if summary.decision.over == "base":
        return "Nothing of the tuning ships: no tuned model was found to be surely better than the base."
    chosen = "chosen_base" in summary.systems
    found = summary.comparison(*(("chosen", "chosen_base") if chosen else ("default", "default_base")))
    if found is None:
        return ""
    said = difference(found)
    return {
        "better": f"Tuning added {said}, to the same retriever over the untuned base.",
        "unsure": f"Tuning: no difference seen against the same retriever over the untuned base ({said}).",
        "worse": f"Tuning took away: {said}, against the same retriever over the untuned base.",
    }[found.verdict]


def lead_lines(summary: Summary, run: str) -> list[str]:
    """A run's result for the terminal: the retriever to use, the gain by tuning, the next step. run: its folder."""
    first, word = headline(summary), shlex.quote(run)
    lines = [
        f"{first.action}: {first.sentence}.",
        tuning(summary),
        f'Next: embedfit index --run {word}; embedfit search --run {word} "…"; embedfit serve {word}',
    ]
    return [line for line in lines if line]
