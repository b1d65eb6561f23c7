"""BM25 over passages: the lexical system that every dense one must be seen beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt

from embedfit.retrieval.words import Analysis

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

_bm25s: Any = bm25s  # its annotations do not cover what its documentation promises


class Bm25:
    """A BM25 index (Lucene's variant, k1 1.5, b .75: bm25s' defaults) of N passages.

    Stop words are dropped and words stemmed by the passages' languages, which every search engine does; of scripts
    without spaces pairs of letters are counted (retrieval.words).
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self.analysis = Analysis.of(passages)
        self._size = len(passages)
        terms = [self.analysis.passage(text) for text in passages]
        self._empty = not any(terms)
        self._index: Any = _bm25s.BM25()
        if not self._empty:
            self._index.index(terms, show_progress=False)

    def scores(self, query: str) -> Scores:
        """The score of every passage: (N,)."""
        terms = self.analysis.query(query)
        if self._empty or not terms:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(terms), np.float32)

    def search(self, queries: Sequence[str], k: int) -> tuple[Ids, Scores]:
        """The k best passages of each query: ids (Q, k) and scores (Q, k), best first, ties by lower id."""
        k = min(k, self._size)
        ids = np.zeros((len(queries), k), np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        for row, query in enumerate(queries):
            every = self.scores(query)
            ids[row] = np.argsort(-every, kind="stable")[:k]
            scores[row] = every[ids[row]]
        return ids, scores
