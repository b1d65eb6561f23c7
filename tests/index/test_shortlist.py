"""A search of few queries reads half-precision vectors first, and finds what scoring everything in float32 finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.index import retriever as retrievers
from embedfit.index import scoring
from embedfit.index.retriever import Part, Retriever
from embedfit.index.rows import RoughQuery, cosines
from embedfit.index.scoring import Asked, Parts, Rows, Scores, Tokens, find
from embedfit.retrieval.bm25 import Bm25

WIDTH = 48
WORDS = "mute tv lamp hall button zeppelin oven bread chain bike kite wind".split()


def unit(rows):
    return (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def made_up(seed, size, spread):
    """Passages whose vectors lie close together, where rounding could change an order, and some of them twice."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=WIDTH)
    one = unit(centre + spread * rng.normal(size=(size, WIDTH)))
    one[size // 2 : size // 2 + 20] = one[:20]
    counts = rng.choice([0, 0, 2, 3, 5], size)
    written = rng.choice([1, 2], size)
    rows = [Rows(unit(centre + spread * rng.normal(size=(n.sum(), WIDTH))).astype(np.float16), np.append(0, n.cumsum()))
            for n in (counts, written)]  # fmt: skip
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(size)]
    words = Bm25(texts)
    tokens = Tokens(rng.integers(-127, 128, (2 * size, 8)).astype(np.int8), 2 * np.arange(size + 1))
    parts = Parts(size=size, one=one.astype(np.float16), windows=rows[0], queries=rows[1], words=words,
                  words_and_queries=words, tokens=tokens)  # fmt: skip
    vectors = unit(centre + spread * rng.normal(size=(2, WIDTH)))
    asked_tokens = [(unit(rng.normal(size=(3, 8))), np.ones(3, np.float32)) for _ in range(2)]
    return parts, Asked(texts=["mute the tv", "bread in the oven"], vectors=vectors, tokens=asked_tokens)


def both(parts, asked, retriever, k, allowed=None):
    """Each query's result by the short list, and by scoring everything."""
    assert scoring.shortlists(Scores(parts, asked), retriever, k, allowed) is not None
    quick = find(Scores(parts, asked), retriever, k, allowed)
    plain = Scores(parts, asked)
    for part in retriever.parts:
        plain.raw(part.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "shortlists", lambda *_: None)
        return list(zip(quick, find(plain, retriever, k, allowed), strict=True))


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch):
    monkeypatch.setattr(scoring, "SHORT_FROM", 100)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.003, 0.3, 1.0]),
    retriever=st.sampled_from([retrievers.BASE, retrievers.WINDOWS, retrievers.DEFAULT, retrievers.EXPANDED]),
    share=st.sampled_from([None, 0.5, 0.01]),
    k=st.sampled_from([1, 10, 60]),
)
def test_the_short_list_finds_what_scoring_everything_finds(seed, spread, retriever, share, k):
    parts, asked = made_up(seed, 1500, spread)
    if spread < 0.1:  # among near-equal passages a second stage, which standardises, would show float32's last bit
        retriever = retriever.without_tokens()
    retriever = retriever.with_deviations({"one": 0.05, "windows": 0.06, "queries": 0.07})
    allowed = None if share is None else np.random.default_rng(seed).random(1500) < share
    for quick, plain in both(parts, asked, retriever, k, allowed):
        np.testing.assert_allclose(quick.scores, plain.scores, rtol=1e-6, atol=1e-4 if retriever.rerank else 1e-6)
        exact = dict(zip(plain.passages.tolist(), plain.scores.tolist(), strict=True))
        # Passages within rounding of each other, such as equal ones, may stand in either order.
        for place, (a, b) in enumerate(zip(quick.passages.tolist(), plain.passages.tolist(), strict=True)):
            assert a == b or exact.get(a, plain.scores[-1]) == pytest.approx(plain.scores[place], abs=1e-4)


@given(st.integers(0, 10_000), st.sampled_from([4, 384, 1024]), st.sampled_from([1.0, 1e-3, 3.0]))
@settings(max_examples=40, deadline=None)
def test_the_bound_holds(seed, width, length):
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(200, width)) * rng.choice([1.0, 1e-4, 0], (200, width))).astype(np.float16)
    query = (unit(rng.normal(size=width)) * length).astype(np.float32)
    rough = RoughQuery(query)
    assert np.abs(rough.cosines(rows) - cosines(query[None], rows)[0]).max() <= rough.error


def test_few_passages_are_read_in_float32(monkeypatch):
    """The test of the list itself: a handful of a thousand, and the vectors of no others are read in float32."""
    parts, asked = made_up(0, 1500, 1.0)
    (passages, _), _ = scoring.shortlists(Scores(parts, asked), retrievers.BASE, 10, None)
    assert 10 <= len(passages) < 60


def test_a_processor_whose_half_precision_is_worse_is_found_out(monkeypatch):
    parts, asked = made_up(0, 1500, 1.0)
    expected = [found.passages.tolist() for found in find(Scores(parts, asked), retrievers.BASE, 10)]
    right = RoughQuery.cosines
    monkeypatch.setattr(RoughQuery, "cosines", lambda self, rows: right(self, rows) + np.float32(0.01))
    assert scoring.shortlists(Scores(parts, asked), retrievers.BASE, 10, None) is None
    assert [found.passages.tolist() for found in find(Scores(parts, asked), retrievers.BASE, 10)] == expected


@pytest.mark.parametrize(
    "retriever", [retrievers.BM25, retrievers.RRF, replace(retrievers.DEFAULT, method="reciprocal_rank", rerank=None)]
)
def test_what_is_no_sum_of_vectors_is_scored_everywhere(retriever):
    parts, asked = made_up(0, 1500, 1.0)
    assert scoring.shortlists(Scores(parts, asked), retriever, 10, None) is None


def test_a_filter_that_nothing_meets_finds_nothing():
    parts, asked = made_up(0, 1500, 1.0)
    for found in find(Scores(parts, asked), retrievers.DEFAULT, 10, np.zeros(1500, bool)):
        assert len(found.passages) == 0


def test_a_part_with_a_negative_weight_is_bounded_too():
    parts, asked = made_up(3, 1500, 0.1)
    odd = Retriever(name="odd", parts=(Part(name="windows", weight=1.0), Part(name="one", weight=-0.5)))
    for quick, plain in both(parts, asked, odd, 10):
        assert quick.passages.tolist() == plain.passages.tolist()


def test_a_query_that_is_a_passage_does_not_find_itself_on_the_short_list_either():
    parts, asked = made_up(3, 1500, 1.0)
    best = [found.passages[0] for found in find(Scores(parts, asked), retrievers.BASE, 1)]
    own = replace(asked, own=np.array(best))
    for (quick, plain), passage in zip(both(parts, own, retrievers.BASE, 10), best, strict=True):
        assert passage not in quick.passages and list(quick.passages) == list(plain.passages)


def test_float32_vectors_are_scored_as_they_are():
    parts, asked = made_up(4, 1500, 1.0)
    exact = replace(parts, one=parts.one.astype(np.float32))
    assert scoring.shortlists(Scores(exact, asked), retrievers.BASE, 10, None) is None
    assert find(Scores(exact, asked), retrievers.BASE, 10)[0].passages.tolist()
