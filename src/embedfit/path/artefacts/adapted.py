"""adapt/adapt.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from embedfit.path.artefacts.results import Comparison, Cost, System
from embedfit.path.artefacts.whole import METRIC, Interval, Schema, Whole


class AdaptDecision(Whole):
    """Whether a result of `embedfit adapt` is worth using, and why. share: the weight of the map, or of the queries."""

    ship: bool = False
    share: float = 0.0
    why: str = ""


class AdaptEvidence(Whole):
    """The held-out questions that decided on the map, whose answers no teacher named.

    The difference is that of the map against the frozen vectors. tried: nDCG by weight of the map.
    """

    kind: Literal["labelled", "graded", "written", "none"] = "none"
    questions: int = 0
    metric: str = METRIC
    delta: float | None = None
    ci95: Interval | None = None
    tried: Mapping[str, float] = {}


class AdaptData(Whole):
    """Numbers of passages and questions.

    asked, written: questions that trained. with_queries: passages that written queries moved. covered: the share of a
    question's words that BM25's best passage holds, averaged over the questions that trained.
    """

    passages: int = 0
    width: int = 0
    asked: int = 0
    written: int = 0
    with_queries: int = 0
    covered: float = 0.0
    eval_queries: int = 0
    eval_kind: Literal["synthetic", "human", "none"] = "none"


class Adapted(Whole):
    """adapt/adapt.json: the results of `embedfit adapt`.

    vectors: the embedder of the index. systems: "frozen", "mapped", "moved", "mapped_moved" and "bm25"; empty if no
    question with a known answer was there to measure on.
    """

    edition: Schema = 1
    vectors: str = ""
    map: AdaptDecision = AdaptDecision()
    move: AdaptDecision = AdaptDecision()
    evidence: AdaptEvidence = AdaptEvidence()
    data: AdaptData = AdaptData()
    systems: Mapping[str, System] = {}
    comparisons: tuple[Comparison, ...] = ()
    cluster_by: str = ""
    notes: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = {}
    cost: Cost = Cost()
