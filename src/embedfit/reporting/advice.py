"""What the numbers mean for the reader: findings beside the verdict, and what to do next."""

from __future__ import annotations

from embedfit.generators import generator
from embedfit.reporting.evidence import Comparison, Evidence
from embedfit.reporting.wording import (
    candidate,
    count,
    metric_name,
    plural,
    points,
    points_between,
    score,
    system_name,
    verdict,
)

#: Below this many clusters a bootstrap interval is known to be too narrow.
FEW_CLUSTERS = 20
#: Below this rate of kept queries, the generator is the bottleneck.
FEW_KEPT = 0.4
HYBRIDS = ("hybrid_base", "hybrid_finetuned", "hybrid_merged", "hybrid_merged_windowed")


def findings(evidence: Evidence, metric: str = "ndcg@10") -> list[str]:
    """Sentences that a sceptic would otherwise have to find alone."""
    said = [
        _windowed(evidence, metric),
        _lexical(evidence, metric),
        _hybrid(evidence, metric),
        _interval_quality(verdict(evidence).comparison),
    ]
    if not evidence.human:
        said.append(
            "The evaluation questions were written by a language model. Such a test flatters models trained on "
            "questions of the same writer; questions that people asked are the real test."
        )
    if evidence.check_passed is False:
        said.append(f"The quick check of similar and different pairs failed: {evidence.check_verdict}")
    return [sentence for sentence in said if sentence]


def _best(evidence: Evidence, metric: str, names: tuple[str, ...]) -> tuple[str, float] | None:
    measured = [
        (name, value)
        for name in names
        if name in evidence.systems and (value := evidence.systems[name].metrics.get(metric)) is not None
    ]
    return max(measured, key=lambda item: item[1]) if measured else None


def _windowed(evidence: Evidence, metric: str) -> str:
    """What several vectors a passage bring beyond the model, of either sign."""
    comparison = evidence.comparison("merged_windowed", "merged", metric)
    measured = _best(evidence, metric, ("merged_windowed",))
    if comparison is None or comparison.ci95 is None or measured is None:
        return ""
    found = f"{points(comparison.delta)} points, 95% interval {points_between(comparison.ci95)}"
    if comparison.ci95[1] < 0:
        return f"Keep one vector a passage: a vector for every window of it finds less here ({found})."
    if comparison.ci95[0] <= 0:
        return f"A vector for every window of a passage makes no sure difference here ({found}): one a passage will do."
    return (
        f"Index a vector for every window of a passage and not one a passage: the same model then scores "
        f"{score(measured[1])} {metric_name(metric)} ({found}). Use it, below, has the command."
    )


def _lexical(evidence: Evidence, metric: str) -> str:
    shipped = _best(evidence, metric, (evidence.decision.ship,))
    lexical = _best(evidence, metric, ("bm25",))
    if not shipped or not lexical or lexical[1] <= shipped[1]:
        return ""
    said = (
        f"BM25, which needs no model, scores {score(lexical[1])} {metric_name(metric)} here, above the "
        f"{system_name(shipped[0]).lower()} model alone ({score(shipped[1])})"
    )
    hybrid = _best(evidence, metric, HYBRIDS)
    if hybrid is None or hybrid[1] > lexical[1]:
        return f"{said}: use both together."
    comparison = evidence.comparison(hybrid[0], "bm25", metric)
    interval = f"; 95% interval of the difference {points_between(comparison.ci95)}" if comparison else ""
    return f"{said}, and no lower than {system_name(hybrid[0])} ({score(hybrid[1])}{interval}): it is the one to beat."


def _hybrid(evidence: Evidence, metric: str) -> str:
    everything = tuple(evidence.systems)
    best = _best(evidence, metric, everything)
    single = _best(evidence, metric, tuple(name for name in everything if not name.startswith("hybrid")))
    if not best or not single or not best[0].startswith("hybrid"):
        return ""
    gain = points(best[1] - single[1]).lstrip("+")
    return (
        f"The best system measured is {system_name(best[0])}, at {score(best[1])}: "
        f"{gain} points above the best single system ({system_name(single[0])})."
    )


def _interval_quality(comparison: Comparison | None) -> str:
    if comparison is None or not 0 < comparison.clusters < FEW_CLUSTERS:
        return ""
    return (
        f"The interval rests on only {plural(comparison.clusters, 'cluster')} of questions; "
        "read it as a rough guide, and evaluate on more documents to be sure."
    )


def next_steps(evidence: Evidence) -> list[str]:
    """What would most likely help, most useful first."""
    steps = []
    comparison = evidence.comparison(candidate(evidence))
    shipped = evidence.decision.ship != "base"
    if shipped:
        steps.append("Load the model, or serve or deploy it, with the commands under “Use it”.")
    if not evidence.human:
        steps.append(
            "Collect a hundred or more questions that people really asked, with the passages that answer them, "
            "and evaluate on those: embedfit run … --eval-beir DIR."
        )
    if not shipped:
        steps.extend(_when_kept(evidence, comparison))
    steps.extend(_with_bm25(evidence, "ndcg@10"))
    return steps


def _with_bm25(evidence: Evidence, metric: str) -> list[str]:
    """Whether to search with BM25 beside the model, by what was measured."""
    best, hybrid = _best(evidence, metric, tuple(evidence.systems)), _best(evidence, metric, HYBRIDS)
    if best is None or hybrid is None:
        return []
    if _hybrid(evidence, metric):
        return ["Search with the model and BM25 together; the snippet is under “Use it”."]
    if best[0].startswith("bm25"):
        return ["Try BM25 alone, and BM25 with the model (the snippet is under “Use it”), on queries of your own."]
    lost = points(best[1] - hybrid[1]).lstrip("+")
    return [f"Search with the model alone: on these questions BM25 beside it takes {lost} points away."]


def _when_kept(evidence: Evidence, comparison: Comparison | None) -> list[str]:
    steps = []
    if comparison and comparison.minimum_detectable:
        steps.append(
            f"This test can see differences from about {points(comparison.minimum_detectable).lstrip('+')} points on; "
            f"with more than its {count(comparison.queries)} questions it would see smaller ones."
        )
    written, kept = evidence.funnel.queries_written, evidence.funnel.queries_kept
    if not generator(evidence.config.generate.generator).strong:
        steps.append(
            "Let a larger language model write the questions: --generator bedrock or --generator openai. "
            "The small offline writer is the weakest part of this run."
        )
    if written and kept / written < FEW_KEPT:
        steps.append(
            f"Only {count(kept)} of {count(written)} questions passed the filters. "
            "Give the writer a few of your own with --set generate.examples=FILE."
        )
    elif evidence.config.generate.examples is None:
        steps.append("Show the writer how your users ask: --set generate.examples=FILE, one question a line.")
    return steps
