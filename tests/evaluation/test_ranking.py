import numpy as np
import pytest

from embedfit.errors import InputError
from embedfit.evaluation import ranking
from embedfit.evaluation.ranking import Dense, Hybrid, Lexical, fusion_of, rank_all

IDS = ["p3", "p1", "p2"]
PASSAGES = ["mute the sound", "reset the remote", "pair a speaker"]


def test_dense_ranks_by_cosine_and_ties_by_id():
    queries = np.array([[1, 0], [0, 1]], np.float32)
    passages = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    found = rank_all({"dense": Dense(queries, passages)}, IDS, 2)["dense"].ids(IDS)
    assert found == [["p2", "p3", "p1"], ["p1", "p2", "p3"]]


def test_bm25_finds_only_passages_that_share_a_word():
    lexical = Lexical(PASSAGES, ["remote reset", "nothing of this"])
    assert rank_all({"bm25": lexical}, IDS, 2)["bm25"].ids(IDS) == [["p1"], []]


def test_a_hybrid_ranks_every_passage():
    dense = Dense(np.array([[1, 0]], np.float32), np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]], np.float32))
    hybrid = Hybrid(dense, Lexical(PASSAGES, ["remote"]), fusion_of({"method": "weighted_sum", "weight": 0.1}))
    found = rank_all({"hybrid": hybrid}, IDS, 1)["hybrid"].ids(IDS)
    assert found[0][0] == "p1"
    assert len(found[0]) == 3


def test_weight_one_is_the_dense_ranking():
    rng = np.random.default_rng(0)
    dense = Dense(rng.random((4, 8), np.float32), rng.random((3, 8), np.float32))
    lexical = Lexical(PASSAGES, ["remote", "sound", "speaker", "reset"])
    for method in ("weighted_sum", "reciprocal_rank"):
        hybrid = Hybrid(dense, lexical, fusion_of({"method": method, "weight": 1.0}))
        rankings = rank_all({"dense": dense, "hybrid": hybrid}, IDS, 4)
        assert rankings["dense"].ids(IDS) == rankings["hybrid"].ids(IDS)


def test_blocks_do_not_change_the_ranking(monkeypatch):
    rng = np.random.default_rng(1)
    dense = Dense(rng.random((7, 8), np.float32), rng.random((3, 8), np.float32))
    lexical = Lexical(PASSAGES, ["remote", "sound", "speaker", "reset", "pair", "mute", "the"])
    scorers = {"dense": dense, "bm25": lexical, "hybrid": Hybrid(dense, lexical, fusion_of(None))}
    whole = {name: one.ids(IDS) for name, one in rank_all(scorers, IDS, 7).items()}
    monkeypatch.setattr(ranking, "_BLOCK", 6)
    assert {name: one.ids(IDS) for name, one in rank_all(scorers, IDS, 7).items()} == whole


def test_no_more_than_a_hundred_are_kept():
    ids = [f"p{n}" for n in range(150)]
    dense = Dense(np.ones((1, 1), np.float32), np.arange(150, dtype=np.float32)[:, None])
    assert rank_all({"dense": dense}, ids, 1)["dense"].ids(ids)[0] == [f"p{n}" for n in range(149, 49, -1)]


def test_windows_may_have_a_weight_of_their_own():
    dense, lexical = np.array([[0.9, 0.1, 0.2]], np.float32), np.array([[0.0, 3.0, 1.0]], np.float32)
    setting = {"method": "weighted_sum", "weight": 0.2, "windowed_weight": 0.9}
    assert fusion_of(setting)(dense, lexical).argmax() == 1
    assert fusion_of(setting, windowed=True)(dense, lexical).argmax() == 0
    old = {"method": "weighted_sum", "weight": 0.2}
    np.testing.assert_array_equal(fusion_of(old, windowed=True)(dense, lexical), fusion_of(old)(dense, lexical))


def test_an_unknown_fusion_is_refused():
    with pytest.raises(InputError, match=r"merge\.json.*reciprocal_rank, weighted_sum"):
        fusion_of({"method": "magic"})
