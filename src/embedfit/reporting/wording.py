"""Numbers and verdicts in words that people read without a manual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embedfit.reporting.evidence import Comparison, Evidence, Interval

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"

METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "hit": "Hit", "recall": "Recall", "precision": "Precision"}
SYSTEM_NAMES = {
    "base": "Base",
    "finetuned": "Fine-tuned",
    "merged": "Merged",
    "bm25": "BM25",
    "bm25_full": "BM25, uncut passages",
    "bm25_cut": "BM25, cut passages",
    "hybrid_base": "Base + BM25",
    "hybrid_finetuned": "Fine-tuned + BM25",
    "hybrid_merged": "Merged + BM25",
    "base_windowed": "Base, windowed",
    "merged_windowed": "Merged, windowed",
    "hybrid_merged_windowed": "Windowed + BM25",
}


def metric_name(metric: str) -> str:
    """As papers write it: "ndcg@10" → "nDCG@10"."""
    kind, at, cutoff = metric.partition("@")
    return METRIC_NAMES.get(kind, kind) + at + cutoff


def system_name(system: str) -> str:
    """A system's name for people; an unknown one (a hub id) stays as it is."""
    return SYSTEM_NAMES.get(system, system)


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


Tone = Literal["better", "kept", "unsure", "worse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The report's first sentence. action: what to do; sentence: with its evidence."""

    tone: Tone
    action: str
    sentence: str
    comparison: Comparison | None


def questions(evidence: Evidence) -> str:
    """How many queries the evaluation asked and who wrote them."""
    number = int(evidence.data.get("eval_queries", 0))
    who = "that people asked" if evidence.human else "written by a language model and held out from training"
    return f"{plural(number, 'question')} {who}"


def candidate(evidence: Evidence) -> str:
    """The tuned system whose comparison with the base tells most: a merge at weight 0 is the base itself."""
    if evidence.decision.ship not in ("base", "merged"):
        return evidence.decision.ship
    return "finetuned" if evidence.decision.alpha == 0 and "finetuned" in evidence.systems else "merged"


def tone_of(comparison: Comparison | None) -> Tone:
    """What an interval allows to say about a difference."""
    if comparison is None or comparison.ci95 is None:
        return "unsure"
    low, high = comparison.ci95
    return "better" if low > 0 else "worse" if high < 0 else "unsure"


def verdict(evidence: Evidence, metric: str = "ndcg@10") -> Verdict:
    """One sentence that a colleague can quote: what ships, by how much it is better, how sure that is."""
    tuned = candidate(evidence)
    comparison = evidence.comparison(tuned, "base", metric)
    shown = _measured(evidence, tuned, comparison, metric)
    if evidence.decision.ship == "base":
        reasons: dict[Tone, str] = {
            "better": f"the {system_name(tuned).lower()} model scores higher here, but did not pass the gate: {shown}",
            "unsure": f"tuning brought no gain that this test can tell from chance: {shown}",
            "worse": f"tuning made it worse: {shown}",
            "kept": "",
        }
        sentence = reasons[tone_of(comparison)] if shown else "no tuned model was measured against it"
        return Verdict(tone="kept", action="Keep the base model", sentence=sentence, comparison=comparison)
    tone = tone_of(comparison)
    sentences = {
        "better": f"it is better than the base on your documents, by {shown}",
        "unsure": f"whether it is better than the base this test can’t tell: {shown}",
        "worse": f"the settings say so, but it is worse than the base: {shown}",
    }
    sentence = sentences[tone] if shown else "no comparison with the base was made"
    return Verdict(
        tone=tone,
        action=f"Ship the {system_name(evidence.decision.ship).lower()} model",
        sentence=sentence,
        comparison=comparison,
    )


def indexed(evidence: Evidence, metric: str = "ndcg@10") -> str:
    """What several vectors a passage and the training bring together, and which part is whose; empty if not sure."""
    both = evidence.comparison("merged_windowed", "base", metric)
    training = evidence.comparison("merged_windowed", "base_windowed", metric)
    if both is None or both.ci95 is None or both.ci95[0] <= 0 or evidence.decision.ship == "base":
        return ""
    part = f", of which {points(training.delta)} are the training’s" if training is not None else ""
    return (
        f"Indexed with a vector for every window of {evidence.config.evaluate.windows} tokens of a passage, it scores "
        f"{score(evidence.systems['merged_windowed'].metrics.get(metric))}: {points(both.delta)}{NBSP}points over the "
        f"base with one vector a passage (95% interval {points_between(both.ci95)}){part}."
    )


def _measured(evidence: Evidence, tuned: str, comparison: Comparison | None, metric: str) -> str:
    if comparison is None or "base" not in evidence.systems or tuned not in evidence.systems:
        return ""
    before, after = (evidence.systems[name].metrics.get(metric) for name in ("base", tuned))
    interval = f"; 95% interval {points_between(comparison.ci95)}" if comparison.ci95 else ""
    return (
        f"{points(comparison.delta)}{NBSP}points of {metric_name(metric)} "
        f"({score(before)} →{NBSP}{score(after)}{interval}), on {questions(evidence)}"
    )
