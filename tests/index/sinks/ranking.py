"""What every database must find: the passages that the index itself finds, with its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from embedfit.errors import InputError
from embedfit.index.retriever import Retriever
from embedfit.index.search import Index
from embedfit.index.sinks.client import Connected
from embedfit.index.sinks.sink import Question
from embedfit.index.store.filters import Where, filter_of

DEPTH = 10


def first_stage(index: Index) -> Index:
    """The same index without the second stage."""
    plain: Retriever = index.retriever.without_tokens()
    opened = Index(replace(index.stored, retriever=plain, tokens=None), index.asker)
    opened.retriever = plain
    return opened


def assert_ranks_as(
    index: Index, store: Connected, queries: Sequence[str], where: Where | None = None, *, atol: float = 1e-4
) -> None:
    """The first stage's best DEPTH and the whole search's agree with the index, in order and score."""
    plain = first_stage(index)
    for query in queries:
        expected, hits = index.search(query, DEPTH, where=where), store.search(query, DEPTH, where=where)
        assert [hit.passage_id for hit in hits] == [hit.passage_id for hit in expected], query
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=10 * atol)
        for hit, other in zip(hits, expected, strict=True):
            assert (hit.text, hit.heading, hit.document, hit.page) == (
                other.text, other.heading, other.document, other.page)  # fmt: skip
            assert hit.metadata == other.metadata
        expected = plain.search(query, DEPTH, where=where)
        found = store.candidates(store.ask(query), DEPTH, filter_of(where))
        assert [one.id for one in found] == [hit.passage_id for hit in expected], query
        np.testing.assert_allclose([one.score for one in found], [hit.score for hit in expected], atol=atol)


def assert_filters_as(index: Index, store: Connected, question: Question, where: Where) -> None:
    """Either both refuse a filter, or the same of the index' 40 passages meet it."""
    try:
        allowed = index.stored.catalogue.allowed(filter_of(where))
    except InputError:
        with pytest.raises(InputError):
            store.candidates(question, 40, filter_of(where))
        return
    expected = range(40) if allowed is None else np.flatnonzero(allowed).tolist()
    assert sorted(one.number for one in store.candidates(question, 40, filter_of(where))) == list(expected)
