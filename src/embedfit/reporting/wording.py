"""Numbers and verdicts in words that people read without a manual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embedfit.path.systems import label_of
from embedfit.reporting.evidence import Comparison, Interval, Results

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"

METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "hit": "Hit", "recall": "Recall", "precision": "Precision"}


def metric_name(metric: str) -> str:
    """As papers write it: "ndcg@10" → "nDCG@10"."""
    kind, at, cutoff = metric.partition("@")
    return METRIC_NAMES.get(kind, kind) + at + cutoff


def score(value: float | None) -> str:
    """A metric between 0 and 1, three decimals."""
    return "–" if value is None else f"{value:.3f}".replace("-", MINUS)


def points(delta: float | None) -> str:
    """A difference of metrics in points (hundredths), signed, one decimal; what rounds to zero has no sign."""
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


def share(part: float, whole: float) -> str:
    """A part of a whole as a percentage."""
    return f"{100 * part / whole:.0f}%" if whole else "–"


def money(usd: float) -> str:
    """US dollars; cents where they matter."""
    if usd == 0:
        return "$0"
    return f"${usd:,.2f}" if usd >= 0.01 else "under $0.01"


def size(number: float | None) -> str:
    """Bytes: "768 B", "13.1 kB"."""
    if number is None:
        return "–"
    return f"{number:,.0f}{NBSP}B" if number < 1000 else f"{number / 1000:,.1f}{NBSP}kB"


def milliseconds(value: float | None) -> str:
    """As "1.4 ms"; tenths only where they matter."""
    if value is None:
        return "–"
    return f"{value:.1f}{NBSP}ms" if value < 10 else f"{value:,.0f}{NBSP}ms"


Tone = Literal["better", "unsure", "worse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The report's first sentence. action: what to do; sentence: with its evidence."""

    tone: Tone
    action: str
    sentence: str
    comparison: Comparison | None


def questions(results: Results) -> str:
    """How many queries the evaluation asked and who wrote them."""
    number = int(results.data.get("eval_queries", 0))
    who = "that people asked" if results.human else "written by a language model and held out from training"
    return f"{plural(number, 'question')} {who}"


def tone_of(comparison: Comparison | None) -> Tone:
    """What an interval allows to say about a difference."""
    if comparison is None or comparison.ci95 is None:
        return "unsure"
    low, high = comparison.ci95
    return "better" if low > 0 else "worse" if high < 0 else "unsure"


def difference(comparison: Comparison) -> str:
    """As "+1.4 points, 95% interval +0.2 to +2.5"."""
    interval = f", 95% interval {points_between(comparison.ci95)}" if comparison.ci95 else ""
    return f"{points(comparison.delta)}{NBSP}points{interval}"


def retriever_name(results: Results) -> str:
    """What ships, in words."""
    model = "the tuned model" if results.decision.over == "merged" else "the untuned base"
    if results.lead not in ("default", "chosen"):
        return f"the {label_of(results.lead).lower()} model"
    row = results.rows.get(results.lead)
    if results.lead == "default":
        what = "the safe default retriever"
    elif results.decision.evidence in ("labelled", "graded"):
        what = "the retriever that people’s questions chose,"
    else:
        what = "the retriever of this run’s index,"
    queries = row is not None and any("queries" in part["name"] for part in row.retriever["parts"])
    return f"{what} over {model}" + (" and the written queries" if queries else "")


def verdict(results: Results, metric: str = "ndcg@10") -> Verdict:
    """One sentence that a colleague can quote: what to search with, by how much it is better, how sure that is."""
    comparison = results.comparison(results.lead, "base", metric)
    shown = _measured(results, results.lead, comparison, metric)
    tone = tone_of(comparison)
    against = "one vector a passage of the untuned base"
    sentences: dict[Tone, str] = {
        "better": f"it finds more on your documents than {against}, by {shown}",
        "unsure": f"whether it finds more than {against} this test can’t tell: {shown}",
        "worse": f"on these questions it finds less than {against}: {shown}",
    }
    return Verdict(
        tone=tone,
        action=f"Search with {retriever_name(results)}",
        sentence=sentences[tone] if shown else "no comparison with the base was made",
        comparison=comparison,
    )


def tuning(results: Results, metric: str = "ndcg@10") -> str:
    """What tuning added, told against the same retriever over the untuned base. Empty where it was not measured."""
    tuned, untuned = ("chosen", "chosen_base") if "chosen_base" in results.systems else ("default", "default_base")
    if results.decision.over == "base":
        return "Nothing of the tuning ships: no tuned model was found to be surely better than the base."
    comparison = results.comparison(tuned, untuned, metric)
    if comparison is None:
        return ""
    said = difference(comparison)
    return {
        "better": f"Tuning added {said}, to the same retriever over the untuned base.",
        "unsure": f"Tuning: no difference seen against the same retriever over the untuned base ({said}).",
        "worse": f"Tuning took away: {said}, against the same retriever over the untuned base.",
    }[tone_of(comparison)]


def _measured(results: Results, name: str, comparison: Comparison | None, metric: str) -> str:
    if comparison is None or "base" not in results.systems or name not in results.systems:
        return ""
    before, after = (results.systems[system].metrics.get(metric) for system in ("base", name))
    interval = f"; 95% interval {points_between(comparison.ci95)}" if comparison.ci95 else ""
    return (
        f"{points(comparison.delta)}{NBSP}points of {metric_name(metric)} "
        f"({score(before)} →{NBSP}{score(after)}{interval}), on {questions(results)}"
    )
