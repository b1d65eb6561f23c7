"""First and second stage against sums and sorts done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import TypeAdapter, ValidationError

from embedfit.index import retriever as retrievers
from embedfit.index.retriever import Part, Rerank, Retriever
from embedfit.index.scoring import Asked, Parts, Rows, Scores, Tokens, find, ordered
from embedfit.index.store.sizes import bytes_a_passage, part_bytes
from embedfit.index.tokens import gathered, principal_axes, to_bytes
from embedfit.retrieval.bm25 import Bm25

TEXTS = ["mute the tv with the mute button", "the lamp stands in the hall", "a button for the lamp", "nothing at all"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def some_parts(seed=0, passages=4, width=8):
    rng = np.random.default_rng(seed)
    counts = np.array([0, 2, 3, 0])[:passages]
    starts = np.concatenate([[0], np.cumsum(counts)])
    tokens = [to_bytes(unit(rng.normal(size=(n, width)))) for n in (5, 3, 1, 2)]
    return Parts(
        size=passages,
        one=unit(rng.normal(size=(passages, width))).astype(np.float16),
        windows=Rows(unit(rng.normal(size=(counts.sum(), width))).astype(np.float16), starts),
        words=Bm25(TEXTS),
        tokens=gathered(tokens),
    )


def asked(seed=1, queries=("mute button", "lamp"), width=8):
    rng = np.random.default_rng(seed)
    tokens = [(unit(rng.normal(size=(3, width))), np.array([1.0, 2.0, 0.5], np.float32)) for _ in queries]
    return Asked(texts=queries, vectors=unit(rng.normal(size=(len(queries), width))), tokens=tokens)


def test_the_first_stage_is_a_sum_of_raw_scores_over_deviations():
    parts, wanted = some_parts(), asked()
    retriever = retrievers.DEFAULT.with_deviations({"one": 0.1, "windows": 0.2})
    scores = Scores(parts, wanted).first(retriever)
    one = wanted.vectors @ parts.one.astype(np.float32).T
    rows = wanted.vectors @ parts.windows.vectors.astype(np.float32).T
    windows = one.copy()
    windows[:, 1], windows[:, 2] = rows[:, :2].max(1), rows[:, 2:].max(1)
    words = np.stack([parts.words.coverage(text) for text in wanted.texts])
    np.testing.assert_allclose(scores, 0.5 * one / 0.1 + 0.5 * windows / 0.2 + 4 * words, rtol=1e-5)


def test_a_passage_of_one_window_scores_as_its_one_vector():
    parts, wanted = some_parts(), asked()
    scores = Scores(parts, wanted)
    np.testing.assert_array_equal(scores.raw("windows")[:, [0, 3]], scores.raw("one")[:, [0, 3]])


def test_words_alone_find_only_passages_that_hold_a_word():
    found = find(Scores(some_parts(), asked(queries=("lamp",))), retrievers.BM25, 10)
    assert sorted(found[0].passages) == [1, 2]


def test_coverage_is_a_share_of_what_the_query_asks():
    words = Bm25(TEXTS)
    whole, half = words.coverage("lamp"), words.coverage("lamp zeppelin")
    assert 0 < half[1] < whole[1] <= 1
    assert words.coverage("")[0] == 0 and not words.coverage("the of").any()


@given(st.lists(st.sampled_from("mute tv lamp hall button zeppelin".split()), max_size=8))
def test_coverage_lies_between_zero_and_one(query):
    scores = Bm25(TEXTS).coverage(" ".join(query))
    assert (scores >= 0).all() and (scores <= 1 + 1e-6).all()


def test_reciprocal_ranks_are_those_of_the_paper():
    parts, wanted = some_parts(), asked()
    scores = Scores(parts, wanted)
    dense, lexical = scores.raw("one"), scores.raw("words")
    fused = scores.first(retrievers.RRF)
    for query in range(2):
        for passage in range(4):
            rank = 1 + (dense[query] > dense[query, passage]).sum()
            expected = 0.5 / (60 + rank)
            if lexical[query, passage] > 0:
                expected += 0.5 / (60 + 1 + (lexical[query] > lexical[query, passage]).sum())
            assert fused[query, passage] == pytest.approx(expected)


def test_late_interaction_is_the_weighted_sum_of_best_cosines():
    parts, wanted = some_parts(), asked()
    scores = Scores(parts, wanted)
    vectors, weights = wanted.tokens[1]
    found = scores.late(1, np.array([3, 0]))
    for value, passage in zip(found, (3, 0), strict=True):
        own = unit(parts.tokens.vectors[slice(*parts.tokens.starts[passage : passage + 2])])
        assert value == pytest.approx(float((vectors @ own.T).max(1) @ weights), rel=1e-5)


def test_the_second_stage_orders_the_first_ones_and_leaves_the_rest_behind():
    parts, wanted = some_parts(), asked()
    plain = Retriever(name="x", parts=(Part(name="one", weight=1.0),), rerank=None)
    reordered = Retriever(name="x", parts=plain.parts, rerank=Rerank(weight=1.0, depth=3))
    before = find(Scores(parts, wanted), plain, 4)
    after = find(Scores(parts, wanted), reordered, 4)
    for query in range(2):
        head = before[query].passages[:3]
        late = Scores(parts, wanted).late(query, head)
        assert list(after[query].passages[:3]) == list(head[np.argsort(-late, kind="stable")])
        assert after[query].passages[3] == before[query].passages[3]
        assert (np.diff(after[query].scores) <= 1e-6).all()


def test_without_weight_the_second_stage_changes_no_order():
    parts, wanted = some_parts(), asked()
    plain = Retriever(name="x", parts=(Part(name="one", weight=1.0),))
    zero = Retriever(name="x", parts=plain.parts, rerank=Rerank(weight=0.0))
    for a, b in zip(find(Scores(parts, wanted), plain, 4), find(Scores(parts, wanted), zero, 4), strict=True):
        assert list(a.passages) == list(b.passages)


def test_only_allowed_passages_are_found():
    allowed = np.array([False, True, False, True])
    for found in find(Scores(some_parts(), asked()), retrievers.DEFAULT, 4, allowed):
        assert set(found.passages) == {1, 3}


@given(
    arrays.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 0.5, 1.0, -1.0, -np.inf])),
    st.integers(1, 50),
)
def test_equal_scores_come_in_the_order_of_the_passages(scores, k):
    expected = [number for number in np.argsort(-scores, kind="stable") if np.isfinite(scores[number])][:k]
    assert list(ordered(scores, k)) == expected


@given(st.integers(0, 50), st.integers(1, 6))
def test_shards_of_an_index_merge_to_its_whole(seed, shards):
    """A fixed sum of raw scores is the same wherever a passage lies."""
    rng = np.random.default_rng(seed)
    scores = rng.choice(np.linspace(0, 1, 7, dtype=np.float32), 60)
    merged = []
    for part in np.array_split(np.arange(60), shards):
        best = ordered(scores[part], 10)
        merged += [(-scores[part[row]], part[row]) for row in best]
    assert [number for _, number in sorted(merged)[:10]] == list(ordered(scores, 10))


def test_bytes_keep_directions():
    rows = unit(np.random.default_rng(0).normal(size=(200, 128)))
    stored = Tokens(to_bytes(rows), np.array([0, 200]))
    assert (unit(stored.vectors.astype(np.float32)) * rows).sum(1).min() > 0.9995


def test_axes_keep_inner_products_where_rows_lie_in_few_dimensions():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(300, 6)) @ rng.normal(size=(6, 40)))
    axes = principal_axes(rows, 6)
    np.testing.assert_allclose((rows @ axes) @ (rows @ axes).T, rows @ rows.T, atol=1e-4)
    assert axes.shape == (40, 6)


def test_a_retriever_is_data():
    retriever = retrievers.DEFAULT.with_deviations({"one": 0.11, "windows": 0.12})
    assert TypeAdapter(Retriever).validate_python(retriever.as_json()) == retriever
    assert retriever.as_json()["parts"][0] == {"name": "one", "weight": 0.5, "deviation": 0.11}


@pytest.mark.parametrize(
    "value",
    [{}, {"name": "x", "parts": []}, {"name": "x", "parts": [{"name": "magic", "weight": 1}]},
     {"name": "x", "parts": [{"weight": 1}]}, {"name": "x", "parts": [{"name": "one", "weight": 1, "more": 2}]}],
)  # fmt: skip
def test_what_is_no_retriever_is_refused(value):
    with pytest.raises(ValidationError):
        TypeAdapter(Retriever).validate_python(value)


def test_equal_scores_come_last_first_where_that_is_asked_for():
    scores = np.array([0.5, 1.0, 0.5, 1.0], np.float32)
    assert list(ordered(scores, 3)) == [1, 3, 0] and list(ordered(scores, 3, last_first=True)) == [3, 1, 2]


def test_each_query_may_have_passages_of_its_own():
    allowed = np.array([[True, False, True, False], [False, True, False, True]])
    for found, own in zip(find(Scores(some_parts(), asked()), retrievers.DEFAULT, 4, allowed), allowed, strict=True):
        assert set(found.passages) == set(np.flatnonzero(own))


def test_bytes_are_those_of_the_parts_that_a_retriever_reads():
    parts = some_parts()
    each = part_bytes(parts)
    assert each["one"] == parts.one.nbytes and each["tokens"] >= parts.tokens.vectors.nbytes
    assert bytes_a_passage(parts, retrievers.BASE) == each["one"] / 4
    assert bytes_a_passage(parts, retrievers.WINDOWS) == (each["one"] + each["windows"]) / 4
    assert bytes_a_passage(parts, retrievers.DEFAULT) == sum(each.values()) / 4
    assert bytes_a_passage(parts, retrievers.BM25) == Bm25(TEXTS).nbytes / 4 and Bm25([]).nbytes == 0
