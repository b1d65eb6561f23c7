"""The teacher of a query map: windows of a model on this machine, and BM25, over the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.errors import InputError
from embedfit.index.build import Source, build
from embedfit.index.retriever import Part, Retriever
from embedfit.index.scoring import Asked, Parts, Scores
from embedfit.models.local import LocalModel
from embedfit.numerics.arrays import Floats, Ints
from embedfit.numerics.ranking import best
from embedfit.retrieval.fusion import standardised
from embedfit.runtime import Runtime

#: The weights of windows and words.
WEIGHTS = {"windows": 0.7, "words": 0.3}
_RETRIEVER = Retriever(name="teacher", parts=tuple(Part(name=name, weight=1.0) for name in ("one", "windows", "words")))
#: Scores that are held at a time, and passages of which all are scored.
_BLOCK = 16_000_000
MOST = 20_000
_CANDIDATES, _RANDOM = 1_000, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScores:
    """Scores of K passages for each of Q questions, in deviations. columns: (Q, K) passages; scores: (Q, K)."""

    columns: Ints
    scores: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A teacher's opinion of the questions. covered: the mean share of a question that BM25's best passage covers."""

    scores: TeacherScores
    covered: float


def teach(
    model: LocalModel, contents: Sequence[str], questions: Sequence[str], asked: int, runtime: Runtime, *, seed: int
) -> Taught:
    """The teacher's scores of all questions. asked: the first so many are people's; they alone count as `covered`.

    Raises InputError if the teacher ranks the passages of every question alike.
    """
    built = build(Source(contents=contents), model, _RETRIEVER, runtime.vectors, runtime.report)
    try:
        vectors = runtime.vectors.embed(model, list(questions), is_query=True, report=runtime.report)
    finally:
        model.release()
    rng = np.random.default_rng([seed, len(questions)])
    found = [_of_block(built.parts, block, rng) for block in _blocks(questions, vectors, len(contents))]
    scores = TeacherScores(
        columns=np.concatenate([one.columns for one, _ in found]),
        scores=np.concatenate([one.scores for one, _ in found]),
    )
    if float(np.ptp(scores.scores, axis=1).max(initial=0.0)) < 1e-6:
        raise InputError(
            "The teacher ranks every passage alike for every question, so there is nothing to learn.",
            remedy="See whether the documents differ: embedfit search; or name another local model with --model.",
        )
    covered = np.concatenate([one for _, one in found])
    return Taught(scores=scores, covered=float(covered[: asked or None].mean()))


def _blocks(questions: Sequence[str], vectors: Floats, passages: int) -> list[Asked]:
    step = max(1, min(256, _BLOCK // max(1, passages)))
    starts = range(0, len(questions), step)
    return [Asked(texts=questions[one : one + step], vectors=vectors[one : one + step]) for one in starts]


def _of_block(parts: Parts, asked: Asked, rng: np.random.Generator) -> tuple[TeacherScores, Floats]:
    """The scores of a block of questions, and the coverage of each one's best passage by words."""
    scores = Scores(parts, asked)
    total = sum(np.float32(weight) * standardised(scores.raw(name)) for name, weight in WEIGHTS.items())
    rows = np.asarray(total, np.float32)
    covered: Floats = scores.raw("words").max(axis=1)
    if parts.size <= MOST:
        columns = np.broadcast_to(np.arange(parts.size), rows.shape)
    else:
        drawn = rng.choice(parts.size, _RANDOM, replace=False)
        columns = np.concatenate([best(rows, _CANDIDATES), np.broadcast_to(drawn, (len(rows), _RANDOM))], axis=1)
        rows = np.take_along_axis(rows, columns, 1)
    return TeacherScores(columns=columns.astype(np.int64), scores=rows), covered
