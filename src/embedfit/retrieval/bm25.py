"""BM25 over passages, the lexical system that every dense one is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from embedfit.numerics.arrays import Doubles, Ints, Scores
from embedfit.numerics.ranking import best
from embedfit.retrieval.words import Analysis, has_letter, is_letter

_bm25s: Any = bm25s  # its annotations lack calls that its documentation promises


def idf(passages: int, holders: int | Ints) -> Doubles:
    """The idf of terms that `holders` of the passages hold, in Lucene's form, which is above 0. Shaped as holders."""
    held = np.asarray(holders)
    result: Doubles = np.log1p((passages - held + 0.5) / (held + 0.5))
    return result


class Bm25:
    """A BM25 index (Lucene's variant, k1 1.5, b .75: bm25s' defaults) of N passages.

    As in every search engine, stop words are dropped and words are stemmed by the passages' languages. In scripts
    without spaces, pairs of letters take the place of words (retrieval.words).
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self.analysis = Analysis.of(passages)
        self._size = len(passages)
        terms = [self.analysis.passage(text) for text in passages]
        self._empty = not any(terms)
        self._index: Any = _bm25s.BM25()
        if not self._empty:
            self._index.index(terms, show_progress=False)

    def _widened(self, terms: list[str]) -> list[str]:
        """A query's terms. If all are single letters of a dense script, the indexed pairs with a letter replace them.

        A passage rarely holds such a letter as a term of its own. Beside longer terms a single letter says too little.
        """
        if self._empty or not terms or not all(map(is_letter, terms)):
            return terms
        held = [term for term in self._index.vocab_dict if any(has_letter(term, letter) for letter in terms)]
        return held or terms

    def scores(self, query: str) -> Scores:
        """The score of every passage: (N,)."""
        terms = self._widened(self.analysis.query(query))
        if self._empty or not terms:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(terms), np.float32)

    def coverage(self, query: str) -> Scores:
        """The share of the query that each passage covers: BM25 over the query's idf mass. (N,), from 0 to 1.

        The mass is the sum of the idf of the query's distinct terms, which is the score of a passage that holds each of
        them countless times. A term that no passage holds belongs to the query, and so to the mass. But in a corpus of
        several languages a word has a stem for each, and stems that no passage holds do not count. If pairs stand for a
        single letter, a passage needs only one of them.
        """
        letters = list(dict.fromkeys(self.analysis.query(query)))
        terms = self._widened(letters)
        if self._empty or not terms:
            return np.zeros(self._size, np.float32)
        asked = [term for term in terms if self._holders(term)] if self.analysis.is_mixed else terms
        idfs = sorted((self._idf(term) for term in asked), reverse=True)
        mass = sum(idfs if terms == letters else idfs[: len(letters)])
        scores: Scores = np.asarray(self._index.get_scores(terms), np.float32) / np.float32(mass or 1.0)
        return np.minimum(scores, np.float32(1.0))

    def _holders(self, term: str) -> int:
        """The number of passages that hold a term."""
        number = self._index.vocab_dict.get(term)
        starts = self._index.scores["indptr"]
        return 0 if number is None else int(starts[number + 1] - starts[number])

    def _idf(self, term: str) -> float:
        """A term's idf; the rarer the term, the higher."""
        return float(idf(self._size, self._holders(term)))

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and of its terms."""
        if self._empty:
            return 0
        arrays = sum(value.nbytes for value in self._index.scores.values() if isinstance(value, np.ndarray))
        return int(arrays) + sum(len(term.encode()) for term in self._index.vocab_dict)

    def save(self, folder: Path) -> None:
        """Write the index into a folder that load() reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "analysis.json").write_text(
            json.dumps({"passages": self._size, "empty": self._empty, "languages": self.analysis.languages}), "utf-8"
        )
        if not self._empty:
            self._index.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> Bm25:
        """An index that save() wrote, mapped into memory."""
        stored = json.loads((folder / "analysis.json").read_text("utf-8"))
        index = cls(())
        index.analysis = Analysis(stored["languages"])
        index._size, index._empty = int(stored["passages"]), bool(stored["empty"])
        if not index._empty:
            index._index = _bm25s.BM25.load(folder, mmap=True, show_progress=False)
        return index

    def search(self, queries: Sequence[str], k: int) -> tuple[Ints, Scores]:
        """The k best passages of each query: ids (Q, k) and scores (Q, k), best first, ties by lower id."""
        k = min(k, self._size)
        ids = np.zeros((len(queries), k), np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        for row, query in enumerate(queries):
            every = self.scores(query)
            ids[row] = best(every, k)
            scores[row] = every[ids[row]]
        return ids, scores
