"""BM25, exact top-k, fusion."""

from __future__ import annotations

import pickle

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedfit.numerics.ranking import ranks
from embedfit.retrieval import topk, weights
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import reciprocals, standardised, weighted_sum
from embedfit.retrieval.topk import top_k

PASSAGES = ["The cat sat on the mat", "Dogs were running", "A dog and a cat", "", "the of and"]


def test_bm25_agrees_with_bm25s_retrieve() -> None:
    stemmer = Stemmer.Stemmer("english")
    tokens = bm25s.tokenize(PASSAGES, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    queries = ["running dog", "cats"]
    asked = bm25s.tokenize(queries, stopwords="en", stemmer=stemmer, show_progress=False)
    theirs = index.retrieve(asked, k=3, show_progress=False)
    ids, scores = Bm25(PASSAGES).search(queries, 3)
    np.testing.assert_allclose(scores, theirs.scores, rtol=1e-6)
    assert ids[0].tolist()[:2] == theirs.documents[0].tolist()[:2]


@given(
    texts=st.lists(st.lists(st.sampled_from(["cat", "cats", "dog", "the", "运动鞋", "a1"]), max_size=6), max_size=40),
    block=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_weights_that_are_counted_in_shards_are_those_of_bm25s_to_the_bit(texts: list[list[str]], block: int) -> None:
    passages = [" ".join(words) for words in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BLOCK", block)
        ours, elsewhere = Bm25(passages), Bm25(passages, executor=Backwards())
    tokens = [ours.analysis.passage(text) for text in passages]
    assert [part.tolist() for part in ours.postings()] == [part.tolist() for part in elsewhere.postings()]
    if not any(tokens):
        assert not len(ours.postings()[1])
        return
    theirs = bm25s.BM25()
    theirs.index(tokens, show_progress=False)
    for term, number in theirs.vocab_dict.items():
        found = ours.scores(term) if not term else np.asarray(ours._index.get_scores([term]), np.float32)
        expected = theirs.get_scores([term]) if number < len(theirs.scores["indptr"]) - 1 else np.zeros(len(texts))
        assert found.tobytes() == expected.astype(np.float32).tobytes()


def test_bm25_without_a_word_in_common_scores_nothing() -> None:
    ids, scores = Bm25(PASSAGES).search(["zebra", "the", ""], 10)
    assert scores.tolist() == [[0.0] * 5] * 3
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert Bm25(["", "the"]).scores("cat").tolist() == [0.0, 0.0]


@given(
    queries=st.integers(1, 4), passages=st.integers(1, 30), k=st.integers(1, 40), block=st.integers(1, 10),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_top_k_is_the_sorted_beginning_whatever_the_blocks(
    queries: int, passages: int, k: int, block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct values, so that there are ties.
    left = rng.integers(0, 2, (queries, 3)).astype(np.float32)
    right = rng.integers(0, 2, (passages, 3)).astype(np.float32)
    ids, scores = top_k(left, right, k, block=block)
    everything = left @ right.T
    expected = np.argsort(-everything, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(everything, expected, 1))


class Backwards:
    """An executor that pickles all that it passes on, as processes do, and does the last shard first."""

    def map(self, function, shards, *, state, cpus=1, gpus=0, tell=None):
        with pickle.loads(pickle.dumps(state)) as opened:
            for number, shard in reversed(list(enumerate(shards))):
                yield number, pickle.loads(pickle.dumps(function(opened, shard, lambda share: None)))


@given(
    queries=st.integers(0, 700), passages=st.integers(1, 90), k=st.integers(0, 40), block=st.integers(1, 100),
    columns=st.integers(1, 20), distinct=st.sampled_from([2, 1000]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_whoever_does_a_shard_top_k_is_the_same_to_the_bit(
    queries: int, passages: int, k: int, block: int, columns: int, distinct: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scale = 1 if distinct == 2 else 7  # whole numbers are summed without rounding, so ties are ties in every product
    left, right = (rng.integers(0, distinct, (n, 5)).astype(np.float32) / scale for n in (queries, passages))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "_COLUMNS", columns)
        patch.setattr(topk, "_SCORES", 1000)
        told: list[int] = []
        ids, scores = top_k(left, right, k, block=block, tell=told.append)
        again = top_k(left, right, k, block=block, executor=Backwards())
    assert sum(told) == passages
    np.testing.assert_array_equal(ids, again[0])
    assert scores.tobytes() == again[1].tobytes()
    blocks = [left @ right[start : start + block].T for start in range(0, passages, block)]
    everything = np.concatenate(blocks, axis=1)
    np.testing.assert_allclose(scores, np.take_along_axis(everything, ids, 1), rtol=1e-6)
    if distinct == 2:
        np.testing.assert_array_equal(ids, np.argsort(-everything, axis=1, kind="stable")[:, :k])


def test_queries_are_cut_into_parts_of_at_least_256() -> None:
    for count in (0, 1, 255, 256, 511, 512, 513, 1000, 5000):
        parts = list(topk._slices(count, 7))
        assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
        assert parts[-1][1] == count
        assert all(min(256, count) <= last - first < 512 for first, last in parts)


def test_ranks_count_from_one_and_break_ties_by_id() -> None:
    assert ranks(np.array([0.5, 0.9, 0.5], np.float32)).tolist() == [2, 1, 3]


def test_reciprocals_by_hand() -> None:
    scores = np.array([0.9, 0.1, 0.5], np.float32)
    np.testing.assert_allclose(reciprocals(scores, weight=0.5), [0.5 / 61, 0.5 / 63, 0.5 / 62], rtol=1e-6)


def test_the_ends_of_the_weight_are_the_single_systems() -> None:
    rng = np.random.default_rng(0)
    dense, lexical = rng.random((2, 20)).astype(np.float32), rng.random((2, 20)).astype(np.float32)
    np.testing.assert_array_equal(ranks(weighted_sum(dense, lexical, weight=1.0)), ranks(dense))
    np.testing.assert_array_equal(ranks(weighted_sum(dense, lexical, weight=0.0)), ranks(lexical))


@given(hnp.arrays(np.float32, (3, 6), elements=st.integers(-100, 100)))
def test_standardised_scores_have_mean_zero_and_deviation_one(scores: np.ndarray) -> None:
    result = standardised(scores)
    varied = scores.std(1) > 0
    np.testing.assert_allclose(result.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(result.std(1)[varied], 1, atol=1e-4)
    assert not result[~varied].any()
