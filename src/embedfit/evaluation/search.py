"""`embedfit search`: the first passages of a query under the base model, the tuned one, and that one with BM25."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedfit import config as settings
from embedfit.errors import ArtifactMissing, InputError
from embedfit.evaluation.ranking import Dense, Scores, fusion_of
from embedfit.models.local import LocalModel, base_model
from embedfit.models.vectors import Embedder, VectorCache, vector_cache
from embedfit.progress import Reporter, Silent
from embedfit.records import Passage
from embedfit.retrieval.bm25 import Bm25
from embedfit.workspace import Workspace

#: Ranks of the base that a hit of another system is looked up in.
BASE_DEPTH = 100


def search(
    workspace: Workspace,
    query: str,
    *,
    k: int = 5,
    report: Reporter | None = None,
    cache: VectorCache | None = None,
) -> dict[str, Any]:
    """The k best passages of a run for a query.

    Passages of all splits are searched. Their vectors are stored, so only the first search takes long.
    Returns {"query", "systems": {"base": [hit, …], "merged": …, "hybrid_merged": …}, "bm25": [hit, …]}, best
    first; a hit is {"rank", "score", "passage_id", "document_id", "title", "text", "page", "rank_in_base" (0
    beyond 100)}. The hybrid fuses as merge.json says, like the evaluation's.
    Raises InputError for an empty query, ArtifactMissing where the run has not got as far as merge.
    """
    if not query.strip():
        raise InputError("The query is empty.", remedy='For example: embedfit search --run DIR "how do I …"')
    stored = workspace.path("embedfit.toml")
    if not stored.exists():
        raise ArtifactMissing(f"{workspace.root} is not a run folder.", remedy="Run: embedfit run DOCS... --run DIR")
    passages = sorted(workspace.read(Passage), key=lambda passage: passage.passage_id)
    if not passages:
        raise InputError(f"{workspace.root} holds no passages.", remedy="Run: embedfit ingest DOCS... --run DIR")
    contents = [passage.content for passage in passages]
    store, report = cache or vector_cache(), report or Silent()
    models: dict[str, Embedder] = {
        "base": base_model(settings.load(stored)),
        "merged": LocalModel("merged", workspace.existing("merged")),
    }
    scored: dict[str, Scores] = {}
    for name, model in models.items():
        vectors = store.embed(model, contents, is_query=False, report=report)
        wanted = model.embed([query], is_query=True)  # not stored: what people look for is theirs
        model.release()
        scored[name] = Dense(wanted, vectors).scores(0, 1)[0]
    lexical = Bm25(contents).scores(query)
    scored["hybrid_merged"] = fusion_of(workspace.read_json("merge.json").get("fusion"))(scored["merged"], lexical)
    base_ranks = {number: rank for rank, number in enumerate(_best(scored["base"], BASE_DEPTH), 1)}

    def hits(scores: Scores, count: int) -> list[dict[str, Any]]:
        best = _best(scores, count)
        return _hits(best, [float(scores[number]) for number in best], passages, base_ranks)

    return {
        "query": query,
        "systems": {name: hits(scores, k) for name, scores in scored.items()},
        "bm25": hits(lexical, min(k, int(np.count_nonzero(lexical > 0)))),
    }


def _best(scores: Scores, count: int) -> list[int]:
    """Numbers of the best passages, best first, equal ones in their order."""
    order: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return order


def _hits(
    numbers: Sequence[int], scores: Sequence[float], passages: Sequence[Passage], base_ranks: Mapping[int, int]
) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "score": score,
            "passage_id": passages[number].passage_id,
            "document_id": passages[number].document_id,
            "title": passages[number].title,
            "text": passages[number].text,
            "page": passages[number].page,
            "rank_in_base": base_ranks.get(number, 0),
        }
        for rank, (number, score) in enumerate(zip(numbers, scores, strict=True), 1)
    ]
