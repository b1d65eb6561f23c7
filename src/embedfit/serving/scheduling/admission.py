"""The quality gate: it measures on queries with known answers if a faster engine finds as much as the exact one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.files.beir import read_beir
from embedfit.files.hashes import sha256_file
from embedfit.files.retrieval import RetrievalData
from embedfit.models.layout.modules import Head, unit_rows
from embedfit.numerics.arrays import Vectors
from embedfit.numerics.batching import batches_by_length
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.topk import top_k
from embedfit.serving.engines.engine import Engine, batch_of

#: nDCG@10 that a faster engine may lose: half a point.
ALLOWED_LOSS = 0.005
#: Queries and passages that are encoded: enough to see half a point, few enough for a start-up.
MAX_QUERIES = 300
MAX_PASSAGES = 1_000
_BATCH_TOKENS = 2_048

RowsOf = Callable[[Sequence[str], bool], list[list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """nDCG@10 of both engines on the same queries, and the least cosine of a pair of vectors."""

    passed: bool
    exact: float
    fast: float
    least_cosine: float
    queries: int
    passages: int
    source: str

    def sentence(self, label: str) -> str:
        """The result as a sentence for the log."""
        return (
            f"{label} {'passes' if self.passed else 'fails'} the quality gate: nDCG@10 {self.fast:.4f} against "
            f"{self.exact:.4f} without it ({100 * (self.fast - self.exact):+.2f} points, at most "
            f"{-100 * ALLOWED_LOSS:+.1f} allowed; {self.queries} queries, {self.passages} passages of {self.source})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The data that both engines encode: token ids of passages and queries, and each query's answers."""

    passages: list[list[int]]
    queries: list[list[int]]
    relevant: list[dict[int, float]]
    source: str


def evaluation_of(model: str, given: str | None) -> Path | None:
    """The BEIR folder to measure on: the one given, or that of the run folder in which the model lies.

    given: a BEIR folder or a run folder. Raises InputError if it is neither.
    """
    if given is not None:
        for folder in (Path(given), Path(given) / "eval"):
            if (folder / "qrels" / "test.tsv").is_file():
                return folder
        raise InputError(
            f"{given} holds no qrels/test.tsv.", remedy="Give --gate-beir a BEIR folder, or the run folder of a model."
        )
    run = Path(model).expanduser().resolve().parent
    own = run / "eval"
    return own if (run / "embedfit.toml").is_file() and (own / "qrels" / "test.tsv").is_file() else None


def trial_of(folder: Path, rows_of: RowsOf) -> Trial:
    """A part of a BEIR folder small enough to encode twice. rows_of(texts, is_query): token ids.

    Queries and further passages are taken evenly over the files, so that the choice is the same every time.
    """
    data = read_beir(folder)
    query_ids = _evenly([query_id for query_id in data.queries if data.relevant(query_id)], MAX_QUERIES)
    passage_ids = _passages(data, query_ids)
    row_of = {passage_id: row for row, passage_id in enumerate(passage_ids)}
    relevant = [
        {row_of[passage_id]: float(data.qrels[query_id][passage_id]) for passage_id in data.relevant(query_id)}
        for query_id in query_ids
    ]
    return Trial(
        passages=rows_of([data.corpus[passage_id].content for passage_id in passage_ids], False),
        queries=rows_of([data.queries[query_id] for query_id in query_ids], True),
        relevant=relevant,
        source=str(folder),
    )


def compare(exact: Engine, fast: Engine, trial: Trial, pad_id: int, *, after: Head | None = None) -> GateResult:
    """Encode with both engines and compare their search results.

    after: the modules that vectors of queries go through after the engine.
    """
    scores, vectors = [], []
    for engine in (exact, fast):
        passages = _encode(engine, trial.passages, pad_id)
        queries = _encode(engine, trial.queries, pad_id, after)
        found, _ = top_k(queries, passages, 10)
        judged = judge([list(map(int, row)) for row in found], trial.relevant)
        scores.append(float(ndcg(judged, 10).mean()))
        vectors.append(np.concatenate([passages, queries]))
    cosines = (vectors[0] * vectors[1]).sum(1)
    return GateResult(
        passed=scores[1] >= scores[0] - ALLOWED_LOSS,
        exact=scores[0],
        fast=scores[1],
        least_cosine=float(cosines.min()),
        queries=len(trial.queries),
        passages=len(trial.passages),
        source=trial.source,
    )


def remembered(path: Path, measure: Callable[[], GateResult]) -> GateResult:
    """The result kept at a path whose name stands for model, engine and queries; measured first if it is missing."""
    try:
        return GateResult(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        found = measure()
    with atomic_file(path) as file:
        json.dump(asdict(found), file)
    return found


def content_of(folder: Path) -> str:
    """A name for the content of a BEIR folder."""
    digest = hashlib.sha256()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        digest.update(sha256_file(folder / name).encode())
    return digest.hexdigest()[:16]


def _encode(engine: Engine, rows: list[list[int]], pad_id: int, after: Head | None = None) -> Vectors:
    vectors: Vectors | None = None
    for indices in batches_by_length([len(row) for row in rows], _BATCH_TOKENS):
        found = engine.pooled(batch_of([rows[index] for index in indices], pad_id), 0)
        if vectors is None:
            vectors = np.zeros((len(rows), found.shape[1]), np.float32)
        vectors[indices] = found
    if vectors is None:
        raise InputError("There is nothing to compare engines on.")
    return unit_rows(vectors if after is None else after.finish_arrays(vectors))


def _passages(data: RetrievalData, query_ids: Sequence[str]) -> list[str]:
    """All relevant passages, and others up to MAX_PASSAGES, in the order of the corpus."""
    needed = {passage_id for query_id in query_ids for passage_id in data.relevant(query_id)}
    others = [passage_id for passage_id in data.corpus if passage_id not in needed]
    chosen = needed.union(_evenly(others, max(0, MAX_PASSAGES - len(needed))))
    return [passage_id for passage_id in data.corpus if passage_id in chosen]


def _evenly(items: list[str], count: int) -> list[str]:
    if len(items) <= count:
        return items
    return [items[index * len(items) // count] for index in range(count)]
