"""What every database must find: the passages that the index itself finds, with its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from embedfit.errors import InputError
from embedfit.index.retriever import Retriever
from embedfit.index.search import Hit, Index
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
    """The first stage's best DEPTH and the whole search's agree with the index, in order and score.

    A store that rounds (atol above 1e-4) may swap passages whose scores in the index are so close.
    """
    plain = first_stage(index)
    for query in queries:
        expected, hits = index.search(query, DEPTH, where=where), store.search(query, DEPTH, where=where)
        every = {hit.passage_id: hit for hit in index.search(query, len(index), where=where)}
        _assert_order([hit.passage_id for hit in hits], expected, every, 10 * atol, query)
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=10 * atol)
        for hit in hits:
            other = every[hit.passage_id]
            assert (hit.text, hit.heading, hit.document, hit.page) == (
                other.text, other.heading, other.document, other.page)  # fmt: skip
            assert hit.metadata == other.metadata
        expected = plain.search(query, DEPTH, where=where)
        every = {hit.passage_id: hit for hit in plain.search(query, len(index), where=where)}
        found = store.candidates(store.ask(query), DEPTH, filter_of(where))
        _assert_order([one.id for one in found], expected, every, atol, query)
        np.testing.assert_allclose([one.score for one in found], [hit.score for hit in expected], atol=atol)


def _assert_order(
    found: Sequence[str], expected: Sequence[Hit], every: Mapping[str, Hit], atol: float, query: str
) -> None:
    if atol <= 1e-3:
        assert found == [hit.passage_id for hit in expected], query
    assert len(set(found)) == len(found) == len(expected), query
    for one, other in zip(found, expected, strict=True):
        assert abs(every[one].score - other.score) <= atol, (query, one)


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
