"""Exact nearest passages by inner product, shard by shard, so that one shard of the vectors is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import numpy as np

from embedfit.numerics.arrays import Ints, Rows, Scores, Vectors
from embedfit.numerics.ranking import best
from embedfit.scale.executor import Executor
from embedfit.scale.inline import Inline

#: Passages of a shard. It decides the shapes of the matrix products, and so the last bits of scores.
BLOCK = 65_536
#: Scores that a worker holds at a time, and the columns of them that are ordered first.
_SCORES = 1 << 24
_COLUMNS = 4_096


@dataclass(frozen=True, slots=True)
class _Search:
    """What every shard needs."""

    queries: Vectors
    passages: Rows
    k: int


def top_k(
    queries: Vectors,
    passages: Rows,
    k: int,
    *,
    block: int = BLOCK,
    executor: Executor | None = None,
    tell: Callable[[int], None] = lambda passages: None,
) -> tuple[Ints, Scores]:
    """The k best passages of each query: ids (Q, k) and scores (Q, k), best first, ties by lower id.

    queries: (Q, H); passages: (N, H), read block by block. Whatever works on the blocks, and in whatever order they
    are done, the result is the same to the bit. executor: if there are several blocks; None: this process.
    tell: is called with the number of passages that are done since the last call.
    """
    count = len(passages)
    shards = [(start, min(start + block, count)) for start in range(0, count, block)]
    search = _Search(queries, passages, k)
    ids, scores = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    works = executor if executor is not None and len(shards) > 1 else Inline()
    state: AbstractContextManager[_Search] = nullcontext(search)
    with closing(works.map(_best_of_shard, shards, state=state)) as results:
        for number, (new_ids, new_scores) in results:
            ids, scores = merged([ids, new_ids], [scores, new_scores], k)
            tell(shards[number][1] - shards[number][0])
    return ids, scores


def merged(ids: Sequence[Ints], scores: Sequence[Scores], k: int) -> tuple[Ints, Scores]:
    """The k best of several lists for the same queries: (Q, k) each, best first, ties by lower id."""
    every_id, every_score = np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)
    order = np.lexsort((every_id, -every_score), axis=1)[:, :k]
    return np.take_along_axis(every_id, order, 1), np.take_along_axis(every_score, order, 1)


def _best_of_shard(search: _Search, shard: tuple[int, int], tell: Callable[[float], None]) -> tuple[Ints, Scores]:
    start, stop = shard
    rows = search.passages[start:stop]
    k = min(search.k, len(rows))
    ids, scores = np.empty((len(search.queries), k), np.int64), np.empty((len(search.queries), k), np.float32)
    for first, last in _slices(len(search.queries), max(1, _SCORES // len(rows))):
        ids[first:last], scores[first:last] = _selected(search.queries[first:last] @ rows.T, k)
    ids += start
    return ids, scores


def _slices(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Parts of at least `size` queries: a product with few rows may take another path, which rounds differently."""
    size = max(size, 256)
    for start in range(0, max(1, count // size) * size, size):
        yield start, count if start + 2 * size > count else start + size


def _selected(scores: Scores, k: int) -> tuple[Ints, Scores]:
    """Columns and values of the k highest of each row, best first, ties by lower column. scores: (Q, N), N ≥ k.

    The first columns are ordered. Among as many again, and so on, only those above the k-th best so far are looked at:
    about k of each doubling.
    """
    start = max(_COLUMNS, 2 * k)
    columns = best(scores[:, :start], k)
    values = np.take_along_axis(scores, columns, 1)
    while k and start < scores.shape[1]:
        piece = scores[:, start : 2 * start]
        above = piece > values[:, -1:]  # an equal one has a higher column, so it comes after all k
        for row in np.flatnonzero(above.any(1)).tolist():
            new = np.flatnonzero(above[row])
            both = np.concatenate([values[row], piece[row, new]])
            order = np.argsort(-both, kind="stable")[:k]
            columns[row] = np.concatenate([columns[row], new + start])[order]
            values[row] = both[order]
        start *= 2
    return columns, values
