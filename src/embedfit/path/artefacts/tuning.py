"""merge.json, check.json and training.json."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from embedfit.path.artefacts.whole import Interval, Schema, Ship, Whole


class SweepPoint(Whole):
    """One weight that the merge tried. dev: metric → score; retention: nDCG@10 on text outside the corpus."""

    alpha: float
    dev: Mapping[str, float] = {}
    retention: float | None = None


class MergeDecision(Whole):
    """The model that ships. alpha: the weight of the fine-tuned model in the merge. why: the reason, in a sentence."""

    ship: Ship = "merged"
    alpha: float | None = None
    why: str = "merge.json holds no decision"


class MergeEvidence(Whole):
    """The comparison of the mixture that ships with the base, on dev queries.

    pool: the number of passages that were ranked. retention_set: a description of the general queries. covered: the
    share of people's questions that passages cover, if a map learned from them. The other fields are as in Comparison.
    """

    delta: float = 0.0
    ci95: Interval | None = None
    p_value: float | None = None
    dev_queries: int = 0
    clusters: int = 0
    cluster_by: str = ""
    detectable: float | None = None
    pool: int = 0
    retention_set: str = ""
    retention_queries: int = 0
    covered: float | None = None


class MergeSweep(Whole):
    """merge.json."""

    alphas: tuple[SweepPoint, ...] = ()
    decision: MergeDecision = MergeDecision()
    evidence: MergeEvidence = MergeEvidence()


class Separation(Whole):
    """Cosines of similar and different pairs under one model.

    auc: the chance that a similar pair scores higher than a different one.
    """

    similar: tuple[float, ...]
    different: tuple[float, ...]
    mean_similar: float
    mean_different: float
    auc: float


class CheckedPair(Whole):
    """A query and a passage, whether they belong together, and their cosine under the base and the merged model."""

    query: str
    passage: str
    similar: bool
    base: float
    merged: float


class CheckResult(Whole):
    """check.json.

    passed: None if there were no pairs to check. source: the split whose queries were drawn, or the name of the file of
    pairs. systems: "base" and "merged". pairs: the first ones.
    """

    edition: Schema = 1
    passed: bool | None
    verdict: str
    source: str = ""
    systems: Mapping[str, Separation] = {}
    pairs: tuple[CheckedPair, ...] = ()


class DevScore(Whole):
    """The nDCG@10 of the dev queries after so many steps."""

    step: int
    ndcg10: float


class DevScores(Whole):
    """Dev scores of the base and of the training."""

    base: float | None = None
    after: tuple[DevScore, ...] = ()


class TrainingLog(Whole):
    """finetuned/training.json.

    steps: the number of steps done; best_step: the one whose weights were kept. dropped_rows: numbers of lines of
    train.jsonl, from 1. empty_texts: the number left out. padding_share: the share of padding in all encoded tokens.
    retained_share: the least share of a step that was encoded only once, because memory for its graphs sufficed.
    config: the section `train` of the settings.
    """

    steps: int = 0
    best_step: int | None = None
    stopped_early: bool = False
    rows: int = 0
    dropped_rows: tuple[int, ...] = ()
    empty_texts: int = 0
    dev_ndcg10: DevScores = DevScores()
    seconds: float = 0.0
    tokens: int = 0
    tokens_per_second: float | None = None
    padding_share: float | None = None
    retained_share: float | None = None
    peak_memory_mb: int = 0
    precision: str = ""
    device: str = ""
    threads: int = 0
    config: Mapping[str, JsonValue] = {}
