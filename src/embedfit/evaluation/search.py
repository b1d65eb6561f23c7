"""`embedfit search`: the first passages of a query under the base model and under the tuned one, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.config import Config
from embedfit.errors import InputError
from embedfit.evaluation.stage import vector_cache
from embedfit.evaluation.systems import LocalModel, base_model
from embedfit.evaluation.vectors import Embedder, VectorCache
from embedfit.records import Passage
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.topk import top_k
from embedfit.runtime import Runtime
from embedfit.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage that was found. score: cosine, or BM25's. rank: 1-based. rank_in_base: 0 beyond 100."""

    rank: int
    score: float
    passage: Passage
    rank_in_base: int = 0


def search(
    workspace: Workspace,
    config: Config,
    query: str,
    runtime: Runtime,
    *,
    k: int = 5,
    cache: VectorCache | None = None,
) -> dict[str, list[Hit]]:
    """The k best passages of the run for a query: {"base": …, "merged": …, "bm25": …}, best first.

    Passages of all splits are searched. Their vectors are stored, so only the first search takes long.
    """
    if not query.strip():
        raise InputError("The query is empty.", remedy='For example: embedfit search --run DIR "how do I …"')
    passages = sorted(workspace.read(Passage), key=lambda passage: passage.passage_id)
    if not passages:
        raise InputError(f"{workspace.root} holds no passages.", remedy="Run: embedfit ingest DOCS --run DIR")
    store = cache or vector_cache()
    contents = [passage.content for passage in passages]
    models: dict[str, Embedder] = {
        "base": base_model(config),
        "merged": LocalModel("merged", workspace.existing("merged")),
    }
    found: dict[str, list[Hit]] = {}
    base_ranks: Mapping[str, int] = {}
    depth = max(k, 100)
    for name, model in models.items():
        passage_vectors = store.embed(model, contents, is_query=False, report=runtime.report)
        query_vector = model.embed([query], is_query=True)  # one text: not worth storing what people look for
        model.release()
        ids, scores = top_k(query_vector, passage_vectors, depth)
        if name == "base":
            base_ranks = {passages[number].passage_id: rank for rank, number in enumerate(ids[0], 1)}
        found[name] = _hits(ids[0][:k].tolist(), scores[0][:k].tolist(), passages, base_ranks)
    numbers, bm25_scores = Bm25(contents).search([query], k)
    positive = int(np.count_nonzero(bm25_scores[0] > 0))
    found["bm25"] = _hits(numbers[0][:positive].tolist(), bm25_scores[0][:positive].tolist(), passages, base_ranks)
    return found


def _hits(
    numbers: Sequence[int], scores: Sequence[float], passages: Sequence[Passage], base_ranks: Mapping[str, int]
) -> list[Hit]:
    return [
        Hit(
            rank=rank,
            score=score,
            passage=passages[number],
            rank_in_base=base_ranks.get(passages[number].passage_id, 0),
        )
        for rank, (number, score) in enumerate(zip(numbers, scores, strict=True), 1)
    ]
