"""The mine stage: queries → training rows with hard negatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedfit.config import Config
from embedfit.errors import InputError
from embedfit.mining.selection import select
from embedfit.models.encoder import Vectors, load_base
from embedfit.records import Passage, Query, TrainRow
from embedfit.retrieval.topk import top_k
from embedfit.runtime import Runtime
from embedfit.workspace import Workspace

#: Above this cosine two passages say the same: neither may be the other's negative.
SAME_COSINE = 0.95


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write train.jsonl. Candidates, like queries, come from the train part only."""
    passages = [passage for passage in workspace.read(Passage) if passage.split == "train"]
    queries = [query for query in workspace.read(Query) if query.kept and query.split == "train"]
    if not queries:
        raise InputError("No training query was kept.", remedy=f"Look at {workspace.path('queries.jsonl')} for why.")
    base = load_base(config.model, config.query_instruction)
    vectors = base.encode([p.content for p in passages], report=runtime.report, description="encode passages")
    query_vectors = base.encode(
        [query.text for query in queries], is_query=True, report=runtime.report, description="encode queries"
    )
    rows = mined(passages, queries, vectors, query_vectors, config, prompt=base.layout.query_instruction)
    workspace.write(TrainRow, rows)
    without = sum(not row.neg for row in rows)
    mean = sum(len(row.neg) for row in rows) / len(rows)
    runtime.report.log(f"mine: {len(rows):,} rows, {mean:.1f} hard negatives each; {without:,} rows have none")


def mined(
    passages: Sequence[Passage],
    queries: Sequence[Query],
    vectors: Vectors,
    query_vectors: Vectors,
    config: Config,
    *,
    prompt: str,
) -> list[TrainRow]:
    """A row for each query. vectors: (N, H) of the passages; query_vectors: (Q, H).

    Scores are cosines of the base model. prompt is written even if empty: FlagEmbedding formats it into the query.
    """
    number = {passage.passage_id: row for row, passage in enumerate(passages)}
    depth = min(config.mine.depth + 1, len(passages))
    candidates, scores = top_k(query_vectors, vectors, depth)
    rng = np.random.default_rng(config.seed)
    rows = []
    for place, query in enumerate(queries):
        source = number[query.passage_id]
        positives = [source, *(number[pid] for pid in query.also_relevant if pid in number)]
        similar = np.flatnonzero(vectors[candidates[place]] @ vectors[source] >= SAME_COSINE)
        excluded = {
            *positives,
            *(int(candidates[place][column]) for column in similar),
            *overlapping(passages, source),
        }
        own = query_vectors[place] @ vectors[source]
        negatives = select(
            candidates[place],
            scores[place],
            positive=float(own),
            excluded=excluded,
            count=config.mine.negatives,
            max_relative_score=config.mine.max_relative_score,
            rng=rng,
        )
        rows.append(
            TrainRow(
                query=query.text,
                pos=tuple(passages[row].content for row in positives),
                neg=tuple(passages[row].content for row in negatives),
                pos_scores=tuple(_cosine(query_vectors[place], vectors[row]) for row in positives),
                neg_scores=tuple(_cosine(query_vectors[place], vectors[row]) for row in negatives),
                prompt=prompt,
            )
        )
    return rows


def overlapping(passages: Sequence[Passage], source: int) -> list[int]:
    """The passages before and after the source in its document whose characters overlap with its own.

    Passages of a document follow each other. Those of BEIR records (start = end = 0) overlap with none.
    """
    own = passages[source]
    found = []
    for step in (-1, 1):
        other = source + step
        while 0 <= other < len(passages) and passages[other].document_id == own.document_id:
            if not (passages[other].start < own.end and own.start < passages[other].end):
                break
            found.append(other)
            other += step
    return found


def _cosine(query: Vectors, passage: Vectors) -> float:
    return round(float(query @ passage), 5)
