"""A run of the real stages, and what tests change in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from embedfit.config import Config
from embedfit.index.retriever import Retriever
from embedfit.path.artefacts import Comparison, Interval, Summary
from embedfit.path.workspace import Workspace
from embedfit.reporting.evidence import Evidence, gather

#: What is set in the run that tests quote numbers of.
NDCG = {"base": 0.489, "merged": 0.557, "bm25": 0.623, "default": 0.719}
COMPARED = (
    ("merged", "base", 0.0684, (0.0534, 0.0834)),
    ("default", "base", 0.23, (0.215, 0.245)),
    ("default", "default_base", 0.017, (0.002, 0.032)),
    ("finetuned", "base", 0.06, (0.045, 0.075)),
)


def summarised(evidence: Evidence, **fields: object) -> Evidence:
    """The evidence with other values in summary.json, checked as the file's are."""
    value = {**evidence.summary.model_dump(by_alias=True), **fields}
    return replace(evidence, summary=Summary.model_validate(value))


def decided(evidence: Evidence, *, kind: str | None = None, **fields: object) -> Evidence:
    """The evidence with another decision. kind: what chose the retriever."""
    decision = evidence.summary.decision.model_dump(by_alias=True)
    if kind is not None:
        decision["retriever"]["evidence"]["kind"] = kind
    return summarised(evidence, decision={**decision, **fields})


def told(evidence: Evidence, a: str, b: str, delta: float, ci95: Interval | None) -> Evidence:
    """The evidence with another comparison of a and b, before all others."""
    others = [one for one in evidence.summary.comparisons if (one.a, one.b) != (a, b)]
    made = Comparison(
        a=a, b=b, metric="ndcg@10", delta=delta, ci95=ci95, p_value=0.0005, queries=240, clusters=84,
        minimum_detectable=0.021,
    )  # fmt: skip
    return summarised(evidence, comparisons=[one.model_dump() for one in (made, *others)])


def with_retrievers(evidence: Evidence, **rows: Retriever) -> Evidence:
    """The evidence with other retrievers, by system."""
    summary = evidence.summary
    new = {name: summary.retrievers[name].model_copy(update={"retriever": one}) for name, one in rows.items()}
    return replace(evidence, summary=summary.model_copy(update={"retrievers": {**summary.retrievers, **new}}))


def with_numbers(evidence: Evidence) -> Evidence:
    """The evidence with round numbers where tests quote them."""
    systems = {name: one.model_dump() for name, one in evidence.summary.systems.items()}
    for name, value in NDCG.items():
        metrics = {"ndcg@10": value, "hit@5": round(value + 0.11, 4)}
        systems[name]["metrics"] |= metrics
        systems[name]["ci95"] |= {metric: (low - 0.027, low + 0.027) for metric, low in metrics.items()}
    evidence = summarised(evidence, systems=systems, data={**evidence.summary.data.model_dump(), "eval_queries": 240})
    for a, b, delta, ci95 in COMPARED:
        evidence = told(evidence, a, b, delta, ci95)
    return evidence


@pytest.fixture
def evidence(run_copy: Callable[..., tuple[Workspace, Config]]) -> Evidence:
    """What a run that ships its merged model says, with round numbers where tests quote them."""
    return with_numbers(gather(*run_copy()))


@pytest.fixture
def kept(run_copy: Callable[..., tuple[Workspace, Config]]) -> Evidence:
    """What a run says that keeps its base and asks written questions."""
    return gather(*run_copy("kept", human=False, ship=False))
