"""The merge stage: it mixes the fine-tuned model and the base. Dev queries choose the weight α and what ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedfit.config import Config, MergeConfig
from embedfit.errors import InputError
from embedfit.files.beir import read_beir
from embedfit.index.plan import has_tokens
from embedfit.merging.gate import Mixture, decide, ship_anyway
from embedfit.merging.general import Retention, built_in
from embedfit.merging.mixtures import Mixtures, mixtures_of
from embedfit.merging.task import RetrievalTask
from embedfit.models import query_map
from embedfit.models.layout.golden import prove_changed
from embedfit.models.layout.towers import copy_whole
from embedfit.models.local import base_model
from embedfit.models.query_map import QueryMap
from embedfit.numerics.arrays import Ints
from embedfit.path.artefacts import (
    METRIC,
    MergeDecision,
    MergeEvidence,
    MergeSweep,
    Passage,
    Query,
    SweepPoint,
    written,
)
from embedfit.path.workspace import Workspace
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.own import own_passages
from embedfit.retrieval.significance import clusters_of
from embedfit.retrieval.topk import top_k
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import largest_weight

#: Candidates for each dev query from each of base, the mixture of the highest α and BM25. A mixture ranks their union.
POOL_DEPTH = 15
#: The least number of steps of α with a map that learned from people's questions: if the whole of it forgets too much
#: or harms dev queries, the next smaller part ships, and not nothing.
LOG_STEPS = 4
#: The largest weight of a map that learned from questions in other words than the passages'. It is smaller than that
#: of `embedfit adapt`, because a run's default retriever has words of its own (docs/recipe.md).
OTHER_WORDS = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class DevPool(RetrievalTask):
    """The dev queries, searched in a pool of candidates.

    clusters: (Q,) the document or passage of each query, as cluster_by says.
    """

    clusters: Ints
    cluster_by: str


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write merged/ and merge.json."""
    base, tunes_passages = base_model(config), config.training.tuned == "both"
    passages, queries = workspace.read(Passage), written(workspace.read(Query))
    general = retention_set(config, [passage.content for passage in passages])
    covered = covered_by(workspace, config)
    alphas, highest = sweep_of(sweep_settings(config, covered), must_encode=tunes_passages)
    # The highest α most often ships, and the stages after this one need its passages' tokens.
    tokens_of = highest if has_tokens(len(passages), config.index.tokens) else None
    models = mixtures_of(workspace, config, base, runtime, tokens_of=tokens_of)
    dev = dev_pool(passages, queries, models, highest)
    mixtures = []
    with runtime.report.task("merge: sweep of α", len(alphas), "mixtures") as task:
        for alpha in alphas:
            mixtures.append(_measured(alpha, models, dev, general))
            task.advance(note=f"α {alpha:g}: dev {mixtures[-1].dev.mean():.3f}")
    decision = decide(
        mixtures,
        dev.clusters,
        max_retention_loss=config.merge.max_retention_loss,
        rng=np.random.default_rng(config.seed),
        max_alpha=highest,
        max_dev_loss=config.merge.max_dev_loss,
        must_gain=tunes_passages,
    )
    if config.merge.always_ship:
        decision = ship_anyway(mixtures, decision, highest)
    runtime.report.log(f"merge: ship {decision.ship}. {decision.why}")
    with workspace.writing_folder("merged") as merged:
        if decision.alpha == 0:
            copy_whole(merged, base=base.folder, layout=base.layout)
        else:
            models.save(decision.alpha, merged)
            prove_changed(merged, base.folder, base.layout)
    against_base = decision.comparison
    workspace.store(
        MergeSweep(
            alphas=tuple(
                SweepPoint(alpha=m.alpha, dev={METRIC: float(m.dev.mean())}, retention=m.retention) for m in mixtures
            ),
            decision=MergeDecision(ship=decision.ship, alpha=decision.alpha, why=decision.why),
            evidence=MergeEvidence(
                delta=against_base.delta,
                ci95=against_base.ci95,
                p_value=against_base.p_value,
                dev_queries=against_base.queries,
                clusters=against_base.clusters,
                cluster_by=dev.cluster_by,
                detectable=against_base.detectable,
                pool=len(dev.passages),
                retention_set=general.source,
                retention_queries=len(general.queries),
                covered=covered,
            ),
        )
    )


def covered_by(workspace: Workspace, config: Config) -> float | None:
    """The share of people's questions that passages cover, as the card of a run's map has it. None without any."""
    if config.training.tuned != "map":
        return None
    share = QueryMap.load(workspace.existing(query_map.FILE)).card.made.get("covered")
    return float(share) if isinstance(share, float | int) else None


def sweep_settings(config: Config, covered: float | None) -> MergeConfig:
    """The settings of the sweep. How much of a map ships that learned from people's questions depends on their words.

    covered: see covered_by(). merge.alpha names the weight of any map.
    """
    if covered is None:
        return config.merge
    highest = largest_weight(covered, careful=min(OTHER_WORDS, config.merge.max_alpha))
    return config.merge.model_copy(update={"max_alpha": highest, "steps": max(LOG_STEPS, config.merge.steps)})


def sweep_of(settings: MergeConfig, *, must_encode: bool) -> tuple[list[float], float]:
    """(the α to try, rising, the highest that may ship).

    must_encode: whether each α encodes the passages anew. Otherwise α 1 is tried too, to show the whole of what was
    learned.
    """
    if settings.alpha is not None:
        return sorted({0.0, settings.alpha}), settings.alpha
    steps = (round(settings.max_alpha * n / settings.steps, 4) for n in range(settings.steps + 1))
    whole = () if must_encode else (1.0,)
    return sorted({0.0, *steps, *whole}), settings.max_alpha


def dev_pool(passages: Sequence[Passage], queries: Sequence[Query], models: Mixtures, highest: float) -> DevPool:
    """The dev queries with a pool of candidates: the best of base, highest α and BM25 for each query.

    Passages of the evaluation documents stay out; passages of the test split are distractors.
    """
    dev = [query for query in queries if query.kept and query.split == "dev"]
    if not dev:
        raise InputError("No dev query was kept, so nothing can decide what ships.", remedy="Give more documents.")
    own = {query.passage_id for query in queries}
    corpus = [passage for passage in passages if passage.split != "test" or passage.passage_id not in own] or list(
        passages
    )
    number = {passage.passage_id: row for row, passage in enumerate(corpus)}
    contents = [passage.content for passage in corpus]
    texts = [query.text for query in dev]
    relevant = [{number[pid] for pid in (query.passage_id, *query.also_relevant) if pid in number} for query in dev]
    pool: set[int] = set().union(*relevant)
    for alpha in sorted({0.0, highest}):
        found, asked = models.embed(alpha, contents, texts)
        ids, _ = top_k(asked, found, POOL_DEPTH)
        pool.update(int(row) for row in ids.ravel())
    ids, scores = Bm25(contents).search(texts, POOL_DEPTH)
    pool.update(int(row) for row in ids[scores > 0])
    kept = sorted(pool)
    place = {row: new for new, row in enumerate(kept)}
    twins = own_passages([query.query_id for query in dev], [corpus[row].passage_id for row in kept])
    clusters, by = clusters_of([corpus[number[q.passage_id]].document_id for q in dev], [q.passage_id for q in dev])
    return DevPool(
        queries=tuple(texts),
        passages=tuple(contents[row] for row in kept),
        relevant=tuple(frozenset(place[row] for row in rows) for rows in relevant),
        clusters=clusters,
        cluster_by=by,
        own=twins,
    )


def retention_set(config: Config, corpus: Sequence[str]) -> Retention:
    """The user's general BEIR folder, or the built-in task."""
    if config.merge.retention_beir is None:
        return built_in(corpus, seed=config.seed)
    beir = read_beir(Path(config.merge.retention_beir))
    ids = list(beir.corpus)
    number = {pid: row for row, pid in enumerate(ids)}
    queries = [qid for qid in beir.queries if any(grade > 0 for grade in beir.qrels.get(qid, {}).values())]
    return Retention(
        passages=tuple(beir.corpus[pid].content for pid in ids),
        queries=tuple(beir.queries[qid] for qid in queries),
        relevant=tuple(
            frozenset(number[p] for p, g in beir.qrels[q].items() if g > 0 and p in number) for q in queries
        ),
        source=Path(config.merge.retention_beir).name,
        own=own_passages(queries, ids),
    )


def _measured(alpha: float, models: Mixtures, dev: DevPool, general: Retention) -> Mixture:
    kept = 0.0  # with every general passage in the corpus, nothing tells what was forgotten
    if general.queries:
        kept = float(general.ndcg10(*models.embed(alpha, general.passages, general.queries)).mean())
    return Mixture(alpha=alpha, dev=dev.ndcg10(*models.embed(alpha, dev.passages, dev.queries)), retention=kept)
