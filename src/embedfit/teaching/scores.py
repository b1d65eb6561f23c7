"""A teacher that scores the whole corpus for each query: the untuned model's one vector and windows, and BM25.

Nothing in it was trained on the corpus, and it costs no more than the index does: every passage and window is encoded
once, and a query once. Late interaction scores the best candidates only, if it has a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.index.build import Source, build
from embedfit.index.retriever import Part, Retriever
from embedfit.index.scoring import Asked, Parts, Scores
from embedfit.models.local import LocalModel
from embedfit.numerics.arrays import Floats, Ints
from embedfit.numerics.ranking import best
from embedfit.retrieval.fusion import standardised
from embedfit.runtime import Runtime

#: Up to so many passages, a query's scores of all are kept.
MOST_SCORED = 4_096
#: Of a larger corpus each query keeps its best passages and a sample that all queries share.
CANDIDATES, SAMPLED = 1_024, 1_024
#: Scores that are held at a time.
_BLOCK = 16_000_000
#: Cosines, and shares of a query's words, that are nearer than this are equal.
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherWeights:
    """The weights of the teacher's parts, standardised over the corpus; some may be 0, but their sum is above 0."""

    one: float = 0.0
    windows: float = 0.7
    words: float = 0.3

    @property
    def parts(self) -> dict[str, float]:
        """The parts with a weight above 0, by name."""
        every = {"one": self.one, "windows": self.windows, "words": self.words}
        return {name: weight / sum(every.values()) for name, weight in every.items() if weight}


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScores:
    """Scores of K passages for each of Q queries.

    columns: (Q, K) numbers of passages, each once in a row; for a small corpus all N in order. scores: (Q, K), the
    weighted mean of the parts' scores, each in deviations over the whole corpus. whole: whether the columns are all
    passages in order.
    """

    columns: Ints
    scores: Floats
    whole: bool

    def __len__(self) -> int:
        return len(self.columns)


def corpus_scores(
    model: LocalModel,
    contents: Sequence[str],
    queries: Sequence[str],
    weights: TeacherWeights,
    runtime: Runtime,
    *,
    seed: int,
    most: int = MOST_SCORED,
) -> TeacherScores:
    """The teacher's scores of at least one query. model: untuned. contents: (N,) passages.

    Of a corpus of more than `most` passages each query keeps candidates only. So memory is bounded by Q × K scores, and
    time is linear in queries. Raises InputError if the teacher ranks all passages alike for every query, because then
    there is nothing to learn.
    """
    wanted = weights.parts
    parts = tuple(Part(name=name, weight=1.0) for name in ("one", "windows", "words") if name in wanted)
    retriever = Retriever(name="teacher", parts=parts)
    built = build(Source(contents=contents), model, retriever, runtime.vectors, runtime.report)
    try:
        vectors = runtime.vectors.embed(model, list(queries), is_query=True, report=runtime.report)
    finally:
        model.release()
    drawn = None
    if len(contents) > most:
        drawn = np.random.default_rng([seed, len(contents)]).choice(len(contents), SAMPLED, replace=False)
    step = max(1, min(256, _BLOCK // max(1, len(contents))))
    columns, scores = [], []
    with runtime.report.task("teacher", len(queries), "queries") as task:
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            own, found = _of_block(built.parts, Asked(texts=queries[some], vectors=vectors[some]), wanted, drawn)
            columns.append(own)
            scores.append(found)
            task.advance(len(own))
    result = TeacherScores(columns=np.concatenate(columns), scores=np.concatenate(scores), whole=drawn is None)
    flat = int((np.ptp(result.scores, axis=1) < 1e-6).sum())
    if flat == len(queries):
        raise InputError(
            "The teacher ranks all passages alike for every query, so there is nothing to learn.",
            remedy="See whether the documents differ: embedfit search. Or learn from pairs: --set train.loss=infonce",
        )
    if 10 * flat > len(queries):
        runtime.report.log(
            f"Warning: the teacher ranks all passages alike for {flat:,} of {len(queries):,} queries, which then teach "
            "that all answer. Are they in another language than the passages?"
        )
    return result


def _of_block(parts: Parts, asked: Asked, weights: dict[str, float], drawn: Ints | None) -> tuple[Ints, Floats]:
    """(columns, scores) of a block of queries, both (B, K)."""
    scores = Scores(parts, asked)
    rows = sum(np.float32(weight) * _deviations(scores.raw(name)) for name, weight in weights.items())
    total: Floats = np.asarray(rows, np.float32)
    if drawn is None:
        return _every(total.shape), total
    columns = best(total, CANDIDATES + len(drawn))
    for row, own in enumerate(columns):
        # The best come first, and then those of the sample that are not among them.
        others = drawn[~np.isin(drawn, own[:CANDIDATES])]
        rest = own[CANDIDATES:][~np.isin(own[CANDIDATES:], others)]
        columns[row, CANDIDATES:] = np.concatenate([others, rest])[: len(drawn)]
    return columns, np.take_along_axis(total, columns, 1)


def _deviations(raw: Floats) -> Floats:
    """Scores in deviations; zeros where they differ by rounding alone. (B, N)."""
    alike = np.ptp(raw, axis=1, keepdims=True) < _ROUNDING
    result: Floats = np.where(alike, np.float32(0), standardised(raw))
    return result


def stored_scores(path: Path, key: str, compute: Callable[[], TeacherScores]) -> TeacherScores:
    """The scores from a file if it holds those of that key; else they are computed and the file is written.

    key: names everything that the scores depend on.
    """
    if path.exists():
        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get("key") == key:
                    scores = file.get_tensor("scores")
                    whole = "columns" not in file.keys()
                    columns = _every(scores.shape) if whole else file.get_tensor("columns")
                    return TeacherScores(columns=columns, scores=scores, whole=whole)
        except (SafetensorError, OSError):
            pass  # a file that is damaged is computed again
    found = compute()
    tensors = {"scores": np.ascontiguousarray(found.scores)}
    if not found.whole:
        tensors["columns"] = np.ascontiguousarray(found.columns)
    with atomic_file(path, binary=True) as target:
        target.write(save(tensors, metadata={"key": key}))
    return found


def _every(shape: tuple[int, ...]) -> Ints:
    """All columns in order, for each row, without memory of their own."""
    return np.broadcast_to(np.arange(shape[1], dtype=np.int64), shape)
