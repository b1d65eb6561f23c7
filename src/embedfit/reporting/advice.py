"""What the numbers mean for the reader: findings beside the verdict, and what to do next."""

from __future__ import annotations

import shlex

from embedfit.generators import generator
from embedfit.reporting.evidence import Comparison, Evidence
from embedfit.reporting.wording import count, difference, plural, points, score, tone_of, verdict

#: Below this many clusters a bootstrap interval is known to be too narrow.
FEW_CLUSTERS = 20
#: Below this rate of kept queries, the generator is the bottleneck.
FEW_KEPT = 0.4


def findings(evidence: Evidence) -> list[str]:
    """Sentences that a sceptic would otherwise have to find alone."""
    said = [
        _chosen(evidence),
        _lexical(evidence),
        _rank_fusion(evidence),
        _model_alone(evidence),
        _interval_quality(verdict(evidence).comparison),
    ]
    if not evidence.human:
        said.append(
            "The evaluation questions were written by a language model. Such a test flatters models trained on "
            "questions of the same writer; questions that people asked are the real test."
        )
    if evidence.data.get("without_written_queries"):
        said.append(
            "The index that ships holds the written queries. It was measured without them, because the questions of "
            "this evaluation are of the same writer."
        )
    if evidence.check_passed is False:
        said.append(f"The quick check of similar and different pairs failed: {evidence.check_verdict}")
    return [sentence for sentence in said if sentence]


def _chosen(evidence: Evidence) -> str:
    comparison = None if evidence.same_as_default else evidence.comparison("chosen", "default")
    if comparison is None:
        return ""
    return {
        "better": f"The retriever that was chosen finds more than the safe default: {difference(comparison)}.",
        "unsure": "Between the retriever that was chosen and the safe default these questions show no difference "
        f"({difference(comparison)}).",
        "worse": f"On these questions the safe default finds more than what was chosen: {difference(comparison)}.",
    }[tone_of(comparison)]


def _lexical(evidence: Evidence) -> str:
    """BM25 beside the retriever, where that does not surely find more."""
    comparison = evidence.comparison("default", "bm25")
    if comparison is None or tone_of(comparison) == "better":
        return ""
    said = f"the safe default against BM25, which needs no model: {difference(comparison)}"
    if tone_of(comparison) == "worse":
        return f"Words alone find more here ({said}): BM25 is the one to beat."
    return f"No difference was seen between words alone and the retriever ({said})."


def _rank_fusion(evidence: Evidence) -> str:
    comparison = evidence.comparison("rrf", "default")
    if comparison is None:
        return ""
    said = f"reciprocal rank fusion of one vector and BM25, which most databases offer: {difference(comparison)}"
    return {
        "better": f"Against the safe default, {said}. It finds more here.",
        "unsure": f"No difference was seen between the safe default and {said}.",
        "worse": f"Against the safe default, {said}.",
    }[tone_of(comparison)]


def _model_alone(evidence: Evidence) -> str:
    """What tuning is worth where a passage is one vector and nothing else is searched."""
    comparison = evidence.comparison("merged", "base")
    systems = evidence.systems
    if comparison is None or evidence.decision.over == "base" or not {"base", "merged"} <= set(systems):
        return ""
    before, after = (systems[name].metrics.get(comparison.metric) for name in ("base", "merged"))
    said = f"{score(before)} → {score(after)}: {difference(comparison)}"
    return {
        "better": f"With one vector a passage and nothing else, tuning added more: {said}."
        if comparison.delta > _added(evidence)
        else f"With one vector a passage and nothing else, tuning added {said}.",
        "unsure": f"With one vector a passage and nothing else, no difference by tuning was seen ({said}).",
        "worse": f"With one vector a passage and nothing else, tuning took away: {said}.",
    }[tone_of(comparison)]


def _added(evidence: Evidence) -> float:
    comparison = evidence.comparison("default", "default_base")
    return comparison.delta if comparison else 1.0


def _interval_quality(comparison: Comparison | None) -> str:
    if comparison is None or not 0 < comparison.clusters < FEW_CLUSTERS:
        return ""
    return (
        f"The interval rests on only {plural(comparison.clusters, 'cluster')} of questions; "
        "read it as a rough guide, and evaluate on more documents to be sure."
    )


def next_steps(evidence: Evidence) -> list[str]:
    """What would most likely help, most useful first."""
    run = shlex.quote(evidence.root)
    steps = [
        f'Build the index and search it: embedfit index --run {run}, then embedfit search --run {run} "…". '
        f"embedfit serve {run} puts up a page and an API.",
    ]
    if evidence.decision.evidence in ("", "none", "written"):
        steps.append(
            "Let questions that people really asked choose the retriever, fifty or more, without labels: "
            f"embedfit run --run {run} --queries FILE --judge SPEC, or, graded by a person, embedfit grade --run {run}."
        )
    if not evidence.human:
        steps.append(
            "Collect a hundred or more questions with the passages that answer them, and evaluate on those: "
            "embedfit run … --eval-beir DIR."
        )
    if evidence.decision.ship == "base":
        steps.extend(_when_kept(evidence))
    return steps


def _when_kept(evidence: Evidence) -> list[str]:
    steps = []
    comparison = evidence.comparison("finetuned") or evidence.comparison("merged")
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
