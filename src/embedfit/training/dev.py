"""The dev score: how well the model in training finds the passages of held-out queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Passage, Query
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.topk import top_k
from embedfit.training.batches import micro_batches
from embedfit.training.processes.world import World
from embedfit.training.store import Tokenise, TokenStore
from embedfit.training.trunk import Trunk

#: Queries at most, and passages beside the answers: a score every few steps must stay cheap beside the steps.
MOST = 500
#: The same for scores that choose nothing: the merge measures both ends on all dev queries.
MOST_FOR_THE_RECORD = 100


@dataclass(frozen=True, slots=True)
class DevSet:
    """Tokens of Q queries and of the P passages that are searched, and each query's relevant passages.

    frozen: (P, H) vectors of the passages if they don't train; None if they do.
    """

    queries: TokenStore
    passages: TokenStore
    relevant: tuple[frozenset[int], ...]
    frozen: Floats | None = None


def dev_set(
    passages: Sequence[Passage],
    queries: Sequence[Query],
    tokenise: Tokenise,
    rng: np.random.Generator,
    frozen: Callable[[Sequence[str]], Floats] | None = None,
    *,
    most: int,
) -> DevSet | None:
    """The kept dev queries, at most `most`, over their passages and as many others. None if the run has none.

    frozen: texts → vectors of passages that don't train.
    """
    place = {passage.passage_id: index for index, passage in enumerate(passages)}
    chosen = [query for query in queries if query.split == "dev" and query.kept and query.passage_id in place]
    if not chosen:
        return None
    if len(chosen) > most:
        chosen = [chosen[index] for index in sorted(rng.choice(len(chosen), most, replace=False))]
    relevant = [{place[name] for name in (query.passage_id, *query.also_relevant) if name in place} for query in chosen]
    needed = set().union(*relevant)
    others = np.array([index for index in range(len(passages)) if index not in needed], np.int64)
    if len(others) > most:
        others = rng.choice(others, most, replace=False)
    pool = sorted(needed.union(others.tolist()))
    column = {index: number for number, index in enumerate(pool)}
    contents = [passages[index].content for index in pool]
    return DevSet(
        queries=TokenStore.of(tokenise([query.text for query in chosen], True)),
        passages=TokenStore.of(tokenise(contents, False) if frozen is None else []),
        frozen=None if frozen is None else frozen(contents),
        relevant=tuple(frozenset(column[index] for index in of_query) for of_query in relevant),
    )


def dev_score(trunk: Trunk, dev: DevSet, micro_tokens: int, world: World) -> float:
    """nDCG@10 of the dev queries."""
    queries = encode_store(trunk, dev.queries, micro_tokens, world)
    passages = encode_store(trunk, dev.passages, micro_tokens, world) if dev.frozen is None else dev.frozen
    ranked, _ = top_k(queries, passages, 10)
    return float(ndcg(judge(ranked.tolist(), dev.relevant), 10).mean())


def encode_store(trunk: Trunk, store: TokenStore, micro_tokens: int, world: World) -> Floats:
    """Unit vectors (N, H) of all texts of a store, each process encoding a share."""
    vectors = torch.zeros(len(store), trunk.width, device=trunk.device)
    with torch.no_grad():
        for run in world.share(micro_batches(store.lengths, micro_tokens)):
            vectors[torch.from_numpy(run).to(trunk.device)] = trunk.forward([store[text] for text in run])
    result: Floats = world.sum_(vectors).cpu().numpy()
    return result
