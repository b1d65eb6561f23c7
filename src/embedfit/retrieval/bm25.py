"""BM25 over passages, the lexical system that every dense one is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from embedfit.numerics.arrays import Doubles, Ints, Scores
from embedfit.numerics.ranking import best
from embedfit.retrieval.weights import weights
from embedfit.retrieval.words import Analysis, has_letter, is_letter
from embedfit.scale.executor import Executor

_bm25s: Any = bm25s  # its annotations lack calls that its documentation promises


@dataclass(frozen=True, slots=True)
class Sparse:
    """A sparse vector over terms. numbers: (T,) of terms, ascending; values: (T,), the vector's values there."""

    numbers: Ints
    values: Scores


def idf(passages: int, holders: int | Ints) -> Doubles:
    """The idf of terms that `holders` of the passages hold, in Lucene's form, which is above 0. Shaped as holders."""
    held = np.asarray(holders)
    result: Doubles = np.log1p((passages - held + 0.5) / (held + 0.5))
    return result


class Vocabulary:
    """The terms of a corpus, and how a query is read by them. A database that holds BM25's weights needs no more.

    numbers: the number of each term. holders: (V,) the number of passages that hold each term, of `size` passages.
    """

    def __init__(self, analysis: Analysis, size: int, numbers: Mapping[str, int], holders: Ints) -> None:
        self.analysis = analysis
        self.size = size
        self.numbers = numbers
        self.holders = holders

    def terms(self, query: str) -> list[str]:
        """A query's terms, in order; a term that it repeats comes again."""
        return self._widened(self.analysis.query(query))

    def _widened(self, terms: list[str]) -> list[str]:
        """A query's terms. If all are single letters of a dense script, the indexed pairs with a letter replace them.

        A passage rarely holds such a letter as a term of its own. Beside longer terms a single letter says too little.
        """
        if not terms or not all(map(is_letter, terms)):
            return terms
        held = [term for term in self.numbers if any(has_letter(term, letter) for letter in terms)]
        return held or terms

    def asked(self, query: str) -> tuple[list[str], float]:
        """A query's distinct terms, and its idf mass.

        The mass is the sum of the idf of the terms, which is the score of a passage that holds each of them countless
        times. A term that no passage holds belongs to the query, and so to the mass. But in a corpus of several
        languages a word has a stem for each, and stems that no passage holds do not count. If pairs stand for a single
        letter, a passage needs only one of them.
        """
        letters = list(dict.fromkeys(self.analysis.query(query)))
        terms = self._widened(letters)
        counted = [term for term in terms if term in self.numbers] if self.analysis.is_mixed else terms
        idfs = sorted(map(self.idf, counted), reverse=True)
        return terms, sum(idfs if terms == letters else idfs[: len(letters)])

    def idf(self, term: str) -> float:
        """A term's idf; the rarer the term, the higher."""
        number = self.numbers.get(term)
        return float(idf(self.size, 0 if number is None else int(self.holders[number])))

    def sparse(self, query: str) -> Sparse:
        """A query as a sparse vector. Its inner product with a passage's BM25 weights, cut at 1, is coverage()."""
        terms, mass = self.asked(query)
        numbers = np.array(sorted(self.numbers[term] for term in terms if term in self.numbers), np.int64)
        return Sparse(numbers, np.full(len(numbers), 1 / (mass or 1.0), np.float32))


class Bm25:
    """A BM25 index (Lucene's variant, k1 1.5, b .75: bm25s' defaults) of N passages.

    As in every search engine, stop words are dropped and words are stemmed by the passages' languages. In scripts
    without spaces, pairs of letters take the place of words (retrieval.words).
    """

    def __init__(self, passages: Sequence[str], *, executor: Executor | None = None) -> None:
        """executor: counts words if the passages are many; None: this process does it."""
        self.analysis = Analysis.of(passages)
        self._size = len(passages)
        self._index: Any = _bm25s.BM25()
        found = weights(passages, self.analysis.languages, k1=self._index.k1, b=self._index.b, executor=executor)
        self._empty = not found.terms
        if not self._empty:
            stored = {"data": found.weights, "indices": found.passages, "indptr": found.starts}
            self._index.scores = {**stored, "num_docs": self._size}
            # bm25s adds an empty term, which no passage holds, at the end.
            self._index.vocab_dict = {term: number for number, term in enumerate([*found.terms, ""])}
            self._index.unique_token_ids_set = set(self._index.vocab_dict.values())
            self._index.nonoccurrence_array = None

    def scores(self, query: str) -> Scores:
        """The score of every passage: (N,)."""
        terms = self.vocabulary.terms(query)
        if self._empty or not terms:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(terms), np.float32)

    def coverage(self, query: str) -> Scores:
        """The share of the query that each passage covers: BM25 over the query's idf mass. (N,), from 0 to 1.

        Vocabulary.asked says what the mass is.
        """
        terms, mass = self.vocabulary.asked(query)
        if self._empty or not terms:
            return np.zeros(self._size, np.float32)
        scores: Scores = np.asarray(self._index.get_scores(terms), np.float32) / np.float32(mass or 1.0)
        return np.minimum(scores, np.float32(1.0))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The corpus's terms."""
        if self._empty:
            return Vocabulary(self.analysis, self._size, {}, np.zeros(0, np.int64))
        starts = np.asarray(self._index.scores["indptr"], np.int64)
        holders = starts[1:] - starts[:-1]
        numbers = {term: number for term, number in self._index.vocab_dict.items() if number < len(holders)}
        return Vocabulary(self.analysis, self._size, numbers, holders)

    def postings(self) -> tuple[Ints, Ints, Scores]:
        """For each term by its number the passages that hold it, with the term's BM25 weights in them.

        Starts (V + 1,) of each term's run in the passages (E,), which ascend, and their weights (E,). A passage's
        scores() are the sums of the weights of the query's terms.
        """
        if self._empty:
            return np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        stored = self._index.scores
        starts, passages = (np.asarray(stored[name], np.int64) for name in ("indptr", "indices"))
        return starts, passages, np.asarray(stored["data"], np.float32)

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
