"""BM25's weights, counted shard by shard: the words of each shard, then weights by the counts of all shards.

The weights are those of the library bm25s to the bit. It would hold every word of every passage in memory at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedfit.numerics.arrays import Floats, Ints
from embedfit.retrieval.words import Analysis
from embedfit.scale.executor import Executor
from embedfit.scale.inline import Inline

#: Passages of a shard.
BLOCK = 16_384
_Small = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Weights:
    """The postings of a corpus, term by term.

    terms: in the order in which they appear. starts: (V + 1,) of each term's run in the passages (E,), which ascend,
    and their weights (E,).
    """

    terms: list[str]
    starts: Ints
    passages: _Small
    weights: Floats


@dataclass(frozen=True, slots=True)
class _Counted:
    """The words of one shard of n passages, term by term.

    terms: in the order in which they appear. holders: (V,) how many passages hold each. passages: (E,) numbers within
    the shard; counts: (E,) how often each holds the term. lengths: (n,) terms of each passage.
    """

    terms: list[str]
    holders: Ints
    passages: _Small
    counts: _Small
    lengths: Ints


@dataclass(frozen=True, slots=True)
class _Languages(AbstractContextManager[Analysis]):
    """Opens the analysis of a corpus in the process that counts: it can't be pickled."""

    languages: tuple[str, ...]

    def __enter__(self) -> Analysis:
        return Analysis(self.languages)

    def __exit__(self, *_: object) -> None:
        pass


def weights(
    passages: Sequence[str], languages: Sequence[str], *, k1: float, b: float, executor: Executor | None = None
) -> Weights:
    """The weights of all passages, in Lucene's form. The result does not depend on the executor."""
    shards = [passages[start : start + BLOCK] for start in range(0, len(passages), BLOCK)]
    works = executor if executor is not None and len(shards) > 1 else Inline()
    with closing(works.map(_counted, shards, state=_Languages(tuple(languages)))) as results:
        counted = [one for _, one in sorted(results, key=lambda result: result[0])]
    numbers: dict[str, int] = {}
    own = [np.array([numbers.setdefault(term, len(numbers)) for term in one.terms], np.int64) for one in counted]
    holders = np.zeros(len(numbers), np.int64)
    for one, places in zip(counted, own, strict=True):
        holders[places] += one.holders
    starts = np.append(0, np.cumsum(holders))
    found = Weights(list(numbers), starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
    total = sum(int(one.lengths.sum()) for one in counted)
    idfs = _idfs(holders, len(passages))
    following, first = starts[:-1].copy(), 0
    for one, places in zip(counted, own, strict=True):
        # Where each run of the shard goes: after what earlier shards put there.
        shift = np.repeat(following[places] - (np.cumsum(one.holders) - one.holders), one.holders)
        target = np.arange(len(one.passages)) + shift
        found.passages[target] = one.passages + first
        length = (1 - b) + b * one.lengths[one.passages] / np.float64(total / len(passages))
        share = one.counts.astype(np.float32) / (k1 * length + one.counts)
        found.weights[target] = np.repeat(idfs[places], one.holders) * share
        following[places] += one.holders
        first += len(one.lengths)
    return found


def _idfs(holders: Ints, passages: int) -> Floats:
    """The idf of each term. (V,)."""
    # Not numpy's logarithm, whose last bit may differ. Few terms are held by many passages, so the numbers repeat.
    every, inverse = np.unique(holders, return_inverse=True)
    logs = [math.log(1 + (passages - held + 0.5) / (held + 0.5)) for held in every.tolist()]
    result: Floats = np.array(logs, np.float32)[inverse]
    return result


def _counted(analysis: Analysis, texts: Sequence[str], tell: Callable[[float], None]) -> _Counted:
    numbers: dict[str, int] = {}
    terms: list[int] = []
    counts: list[int] = []
    sizes: list[int] = []
    lengths: list[int] = []
    for text in texts:
        found = Counter(analysis.passage(text))
        terms += [numbers.setdefault(term, len(numbers)) for term in found]
        counts += found.values()
        sizes.append(len(found))
        lengths.append(found.total())
    own = np.array(terms, np.int32)
    order = np.argsort(own, kind="stable")  # passages ascend within a term
    holding = np.repeat(np.arange(len(texts), dtype=np.int32), sizes)
    return _Counted(
        list(numbers),
        np.bincount(own, minlength=len(numbers)).astype(np.int64),
        holding[order],
        np.array(counts, np.int32)[order],
        np.array(lengths, np.int64),
    )
