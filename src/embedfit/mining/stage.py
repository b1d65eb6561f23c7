"""The mine stage: queries → training rows with hard negatives and a teacher's scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from embedfit.config import Config
from embedfit.errors import InputError, PaidInPart, UsageError
from embedfit.judging.opening import NAME_A_JUDGE, opened_judge
from embedfit.llm.metered import OVER_BUDGET
from embedfit.mining import teachers
from embedfit.mining.selection import select
from embedfit.mining.teachers import Choice
from embedfit.models.layout.prompts import open_model
from embedfit.models.local import local_model
from embedfit.numerics.arrays import Rows, Vectors
from embedfit.numerics.near_duplicates import SAME_COSINE
from embedfit.path.artefacts import Judgement, Passage, Query, TrainRow, written
from embedfit.path.lines import Lines
from embedfit.path.workspace import FILES, Workspace
from embedfit.retrieval.topk import top_k
from embedfit.runtime import Runtime


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write train.jsonl and, with a judge as teacher, judgements.jsonl.

    Candidates, like queries, come from the train part only. Raises PaidInPart, after everything was written, if
    --max-cost did not suffice for all judgements.
    """
    passages = workspace.lines(Passage).where(lambda passage: passage.split == "train")
    queries = [query for query in written(workspace.read(Query)) if query.kept and query.split == "train"]
    if not queries:
        raise InputError("No training query was kept.", remedy=f"Look at {workspace.path('queries.jsonl')} for why.")
    if config.mine.teacher == "judge" and config.generate.judge is None:
        raise UsageError(
            "mine.teacher=judge needs a judge.",
            remedy=NAME_A_JUDGE,
        )
    judgements: list[Judgement] = []
    if config.mine.negatives == 0 and config.mine.teacher == "none":
        # There is nothing to choose, and encoding every passage just for a cosine would waste time.
        choices = [Choice(positives=positives) for positives in positives_of(passages, queries)]
    else:
        choices, judgements = _mined(passages, queries, workspace, config, runtime)
    if not judgements:
        workspace.path(FILES[Judgement]).unlink(missing_ok=True)  # of an earlier run with other settings
    rows = rows_of(
        choices, queries, passages, prompt=open_model(config.model, config.query_instruction)[1].query_instruction
    )
    workspace.write(TrainRow, rows)
    without = sum(not row.neg for row in rows)
    mean = sum(len(row.neg) for row in rows) / len(rows)
    runtime.report.log(f"mine: {len(rows):,} rows, {mean:.1f} hard negatives each; {without:,} rows have none")
    unjudged = sum(judgement.reason == OVER_BUDGET for judgement in judgements)
    if unjudged:
        raise PaidInPart(
            f"{unjudged:,} of {len(judgements):,} pairs of query and passage were not judged, because their cost could "
            f"exceed --max-cost ${config.generate.max_cost:,.2f}. The rows of the others have scores.",
            remedy="For the rest, allow more with --max-cost; to go on with these, run the same command again.",
        )


def _mined(
    passages: Lines[Passage],
    queries: Sequence[Query],
    workspace: Workspace,
    config: Config,
    runtime: Runtime,
) -> tuple[list[Choice], list[Judgement]]:
    """Positives and hard negatives with the scores of the configured teacher, and a judge's judgements."""
    base = local_model("base", config.model, query_instruction=config.query_instruction)
    try:
        contents, texts = passages.map(lambda passage: passage.content), [query.text for query in queries]
        vectors = runtime.vectors.stored(base, contents, is_query=False, report=runtime.report)
        query_vectors = runtime.vectors.embed(base, texts, is_query=True, report=runtime.report)
    finally:
        base.release()
    choices = chosen(passages, queries, vectors, query_vectors, config, runtime)
    if config.mine.teacher == "judge":
        return _judged(choices, queries, passages, workspace, config, runtime)
    if config.mine.teacher == "fused":
        return teachers.fused(choices, queries, passages, query_vectors, vectors[:]), []
    return teachers.by_base(choices, query_vectors, vectors), []


def positives_of(passages: Sequence[Passage], queries: Sequence[Query]) -> list[tuple[int, ...]]:
    """The numbers of the passages that answer each query: its source, then the source's near-duplicates."""
    wanted = {one for query in queries for one in (query.passage_id, *query.also_relevant)}
    number = {passage.passage_id: row for row, passage in enumerate(passages) if passage.passage_id in wanted}
    return [
        (number[query.passage_id], *(number[pid] for pid in query.also_relevant if pid in number)) for query in queries
    ]


def chosen(
    passages: Sequence[Passage],
    queries: Sequence[Query],
    vectors: Rows,
    query_vectors: Vectors,
    config: Config,
    runtime: Runtime,
) -> list[Choice]:
    """Positives and hard negatives of each query. vectors: (N, H) of the passages; query_vectors: (Q, H).

    Hardness is the cosine of the base model. For a judge, a query gets half as many negatives again as a row shall
    have, because some of them will turn out to be answers.
    """
    depth = min(config.mine.depth + 1, len(passages))
    with runtime.report.task("nearest passages", len(passages), "passages") as task:
        candidates, scores = top_k(query_vectors, vectors, depth, executor=runtime.executor, tell=task.advance)
    rng = np.random.default_rng(config.seed)
    spare = config.mine.negatives // 2 if config.mine.teacher == "judge" else 0
    choices = []
    for place, positives in enumerate(positives_of(passages, queries)):
        source = positives[0]
        similar = np.flatnonzero(vectors[candidates[place]] @ vectors[source] >= SAME_COSINE)
        excluded = {
            *positives,
            *(int(candidates[place][column]) for column in similar),
        }
        negatives = select(
            candidates[place],
            scores[place],
            positive=float(query_vectors[place] @ vectors[source]),
            excluded=excluded,
            count=config.mine.negatives + spare,
            max_relative_score=config.mine.max_relative_score,
            rng=rng,
        )
        choices.append(Choice(positives=positives, negatives=tuple(negatives)))
    return choices


def rows_of(
    choices: Sequence[Choice], queries: Sequence[Query], passages: Sequence[Passage], *, prompt: str
) -> list[TrainRow]:
    """A row for each query. prompt is written even if empty, because FlagEmbedding formats it into the query."""
    return [
        TrainRow(
            query=query.text,
            pos=tuple(passages[row].content for row in choice.positives),
            neg=tuple(passages[row].content for row in choice.negatives),
            pos_scores=choice.positive_scores,
            neg_scores=choice.negative_scores,
            prompt=prompt,
        )
        for query, choice in zip(queries, choices, strict=True)
    ]


def _judged(
    choices: Sequence[Choice],
    queries: Sequence[Query],
    passages: Sequence[Passage],
    workspace: Workspace,
    config: Config,
    runtime: Runtime,
) -> tuple[list[Choice], list[Judgement]]:
    """The choices with a judge's scores, and its judgements."""
    with opened_judge(config.generate, runtime, run=str(workspace.root.resolve())) as judge:
        scored, judgements = teachers.judged(
            choices,
            queries,
            passages,
            judge,
            count=config.mine.negatives,
            max_relative_score=config.mine.judge_max_relative_score,
        )
    workspace.write(Judgement, judgements)
    _log_judgements(judgements, runtime)
    return scored, judgements


def _log_judgements(judgements: Sequence[Judgement], runtime: Runtime) -> None:
    negatives = [judgement for judgement in judgements if judgement.role == "negative"]
    dropped = sum(not judgement.kept and judgement.score is not None for judgement in negatives)
    silent = Counter(judgement.reason for judgement in judgements if judgement.score is None)
    runtime.report.log(f"mine: {len(negatives):,} candidates judged, {dropped:,} dropped as answers or spare ones")
    for reason, count in silent.most_common(4):
        runtime.report.log(f"  {count:>6,} without a score: {reason}")
