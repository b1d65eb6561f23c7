"""Searches an index where it was handed over: the database does the first stage, this process the second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedfit.errors import ModelError, UsageError
from embedfit.index.rows import starts_of
from embedfit.index.scoring import Parts, Scores, Tokens, reranked
from embedfit.index.search import Hit, checked_k, readable
from embedfit.index.sinks.questions import Questions, named_model
from embedfit.index.sinks.sink import Candidate, Outdated, Question, Store, kind_of, shown
from embedfit.index.store.filters import Filter, Where, filter_of
from embedfit.models.local import LocalModel

#: How often a search begins again because the rows were replaced meanwhile.
_TRIES = 5


class Connected:
    """An index in a database. Its search ranks as the index does that was handed over."""

    def __init__(self, url: str, model: str | Path | LocalModel | None = None) -> None:
        """model: the folder or name of the model that made the rows; None: the one that the store names."""
        kind = kind_of(url)
        if kind.read is None:
            raise UsageError(f"{shown(url)} is a file for other programs; no query can be asked there.")
        self._read = kind.read
        self._url = url
        self._named = model
        self._open()

    def _open(self) -> None:
        store = self._read(self._url)
        try:
            named = self._named
            if not isinstance(named, LocalModel):
                self._named = named = named_model(store.about, named)
            self.questions = Questions(store.about, store.questions, named)
        except BaseException:
            store.close()
            raise
        self.store: Store = store

    def close(self) -> None:
        """Close the connection to the database."""
        self.store.close()

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.store.about.passages

    def ask(self, text: str) -> Question:
        """A query as the database's own means compare it: its vector, and its sparse vectors of words."""
        return self.questions.ask(readable(text))[0]

    def candidates(self, question: Question, depth: int, where: Filter | None = None) -> list[Candidate]:
        """The first stage alone. Raises ModelError if another model made the question."""
        if question.fingerprint != self.store.about.fingerprint:
            raise ModelError(
                f"The query was made by a model of fingerprint {question.fingerprint[:12]}, the rows of "
                f"{shown(self._url)} by {self.store.about.fingerprint[:12]}: they can't be compared.",
                remedy="Make the query with this store's own ask().",
            )
        if len(question.vector) != self.store.about.dimensions:
            raise ModelError(
                f"The query's vector has {len(question.vector):,} numbers, the rows have "
                f"{self.store.about.dimensions:,}.",
                remedy="Make the query with this store's own ask().",
            )
        return self.store.first(question, depth, where or Filter())

    def search(self, query: str, k: int = 10, *, where: Where | None = None) -> list[Hit]:
        """The k best passages, best first. where: as in Index.search. Raises as Index.search."""
        text, wanted = readable(query), filter_of(where)
        for tried in range(_TRIES):
            try:
                return self._search(text, checked_k(k, len(self)), wanted)
            except Outdated:
                if tried == _TRIES - 1:
                    raise
                self.store.close()
                self._open()
        raise AssertionError("unreachable")

    def _search(self, text: str, k: int, where: Filter) -> list[Hit]:
        question, asked = self.questions.ask(text)
        retriever = self.store.about.retriever
        depth = max(k, retriever.rerank.depth if retriever.rerank else 0)
        found = self.candidates(question, depth, where)
        order, scores = np.arange(len(found)), np.array([one.score for one in found], np.float32)
        if retriever.rerank is not None and found:
            rows = [one.tokens for one in found if one.tokens is not None]
            tokens = Tokens(np.concatenate(rows), starts_of([len(one) for one in rows]))
            parts = Parts(size=len(found), tokens=tokens)
            best = reranked(Scores(parts, asked), retriever, 0, order, scores, k)
            order, scores = best.passages, best.scores
        return [_hit(found[place], float(score)) for place, score in zip(order[:k].tolist(), scores[:k], strict=True)]


def connect(url: str, model: str | Path | LocalModel | None = None) -> Connected:
    """Open an index in a database for search.

    store = connect("lancedb://runs/em-lance", model="runs/em/merged")
    for hit in store.search("how do I mute the tv", k=3):
        print(hit.score, hit.document, hit.text)
    """
    return Connected(url, model)


def _hit(one: Candidate, score: float) -> Hit:
    return Hit(
        passage_id=one.id,
        score=score,
        text=one.text,
        document=one.document,
        page=one.page,
        heading=one.title,
        parts={"first stage": one.score},
        metadata=one.metadata,
    )
