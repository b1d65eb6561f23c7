"""BM25 over passages: the lexical system that every dense one must be seen beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

_bm25s: Any = bm25s  # its annotations do not cover what its documentation promises


class Bm25:
    """A BM25 index (Lucene's variant, k1 1.5, b .75: bm25s' defaults) of N passages.

    English stop words are dropped and words stemmed (Snowball), which every search engine does by
    default; in other languages the English stemmer rarely applies and does little.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        self._size = len(passages)
        words = self._words(passages)
        self._empty = not any(words)
        self._index: Any = _bm25s.BM25()
        if not self._empty:
            self._index.index(words, show_progress=False)

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        words: list[list[str]] = _bm25s.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False, return_ids=False
        )
        return words

    def scores(self, query: str) -> Scores:
        """The score of every passage: (N,)."""
        words = self._words([query])[0]
        if self._empty or not words:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(words), np.float32)

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
