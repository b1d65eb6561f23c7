"""Advice in the report: findings beside the verdict, and the next steps."""

from __future__ import annotations

import shlex

from embedfit.generators import generator
from embedfit.path.artefacts import Summary
from embedfit.reporting.evidence import Evidence
from embedfit.reporting.wording import count, difference, headline, plural, points, score

#: With fewer clusters than this, a bootstrap interval is known to be too narrow.
FEW_CLUSTERS = 20
#: If a smaller share of the queries is kept, the generator is the bottleneck.
FEW_KEPT = 0.4

#: Sentences on pairs of systems, by the verdict on their difference.
_PAIRS = {
    ("chosen", "default"): {
        "better": "The retriever that was chosen finds more than the safe default: {difference}.",
        "unsure": "Between the retriever that was chosen and the safe default these questions show no difference "
        "({difference}).",
        "worse": "On these questions the safe default finds more than what was chosen: {difference}.",
    },
    ("default", "bm25"): {
        "better": "",
        "unsure": "No difference was seen between words alone and the retriever (the safe default against BM25, which "
        "needs no model: {difference}).",
        "worse": "Words alone find more here (the safe default against BM25, which needs no model: {difference}): BM25 "
        "is the one to beat.",
    },
    ("rrf", "default"): {
        "better": "Against the safe default, reciprocal rank fusion of one vector and BM25, which most databases "
        "offer: {difference}. It finds more here.",
        "unsure": "No difference was seen between the safe default and reciprocal rank fusion of one vector and BM25, "
        "which most databases offer: {difference}.",
        "worse": "Against the safe default, reciprocal rank fusion of one vector and BM25, which most databases "
        "offer: {difference}.",
    },
}


def findings(evidence: Evidence) -> list[str]:
    """Sentences on the weak points of the evaluation and on further comparisons."""
    summary = evidence.summary
    said = []
    for pair, sentences in _PAIRS.items():
        comparison = summary.comparison(*pair)
        if comparison is not None and not (pair[0] == "chosen" and summary.same_as_default):
            said.append(sentences[comparison.verdict].format(difference=difference(comparison)))
    said.append(_model_alone(summary))
    first = headline(summary).comparison
    if first is not None and 0 < first.clusters < FEW_CLUSTERS:
        said.append(
            f"The interval rests on only {plural(first.clusters, 'cluster')} of questions; read it as a rough guide, "
            "and evaluate on more documents to be sure."
        )
    if not summary.human:
        said.append(
            "The evaluation questions were written by a language model. Such a test flatters models trained on "
            "questions of the same writer; questions that people asked are the real test."
        )
    if summary.data.without_written_queries:
        said.append(
            "The index that ships holds the written queries. It was measured without them, because the questions of "
            "this evaluation are of the same writer."
        )
    if evidence.check.passed is False:
        said.append(f"The quick check of similar and different pairs failed: {evidence.check.verdict}")
    return [sentence for sentence in said if sentence]


def _model_alone(summary: Summary) -> str:
    """A sentence on the gain by tuning if a passage is one vector and nothing else is searched."""
    comparison, systems = summary.comparison("merged"), summary.systems
    if comparison is None or summary.decision.over == "base" or not {"base", "merged"} <= systems.keys():
        return ""
    before, after = (systems[name].metrics.get(comparison.metric) for name in ("base", "merged"))
    said = f"{score(before)} → {score(after)}: {difference(comparison)}"
    in_default = summary.comparison("default", "default_base")
    more = " more:" if in_default is not None and comparison.delta > in_default.delta else ""
    return {
        "better": f"With one vector a passage and nothing else, tuning added{more} {said}.",
        "unsure": f"With one vector a passage and nothing else, no difference by tuning was seen ({said}).",
        "worse": f"With one vector a passage and nothing else, tuning took away: {said}.",
    }[comparison.verdict]


def next_steps(evidence: Evidence) -> list[str]:
    """The steps that would most likely help, the most useful first."""
    run = shlex.quote(evidence.root)
    steps = [
        f'Build the index and search it: embedfit index --run {run}, then embedfit search --run {run} "…". '
        f"embedfit serve {run} puts up a page and an API.",
    ]
    decision = evidence.summary.decision
    if decision.retriever is None or decision.retriever.evidence.kind in ("none", "written"):
        steps.append(
            "Let questions that people really asked choose the retriever, fifty or more, without labels: "
            f"embedfit run --run {run} --queries FILE --judge SPEC, or, graded by a person, embedfit grade --run {run}."
        )
    if not evidence.summary.human:
        steps.append(
            "Collect a hundred or more questions with the passages that answer them, and evaluate on those: "
            "embedfit run … --eval-beir DIR."
        )
    if decision.ship == "base":
        steps.extend(_when_kept(evidence))
    return steps


def _when_kept(evidence: Evidence) -> list[str]:
    steps = []
    comparison = evidence.summary.comparison("finetuned") or evidence.summary.comparison("merged")
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
