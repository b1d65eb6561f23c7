"""Rows are retrievers: scored by the index, equal scores in order, a query's own passage left out."""

from __future__ import annotations

import numpy as np
import pytest

from embedfit.evaluation import measure as measuring
from embedfit.evaluation.evalset import read_eval_set
from embedfit.evaluation.measure import Group, Opened, measure, of_model, of_vectors, of_words, ranked
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.index.build import Source
from embedfit.index.retriever import BASE, BM25, DEFAULT, RRF, WINDOWS, union
from embedfit.index.scoring import Asked, Parts
from embedfit.index.search import Asker
from embedfit.models.local import LocalModel
from embedfit.progress import Silent
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime

from .fakes import WordsEmbedder

PASSAGES = {"p3": "mute the sound", "p1": "reset the remote", "p2": "pair a speaker with the remote"}
QUERIES = {"q1": "remote reset", "q2": "nothing of this", "q3": "mute", "q4": "speaker sound"}


def eval_set_of(folder, passages, queries):
    qrels = {query: {sorted(passages)[0]: 1} for query in queries}
    corpus = {name: Entry(text) for name, text in passages.items()}
    write_beir(folder, RetrievalData(corpus=corpus, queries=queries, qrels=qrels))
    return read_eval_set(folder, "human")


@pytest.fixture
def eval_set(tmp_path):
    return eval_set_of(tmp_path / "beir", PASSAGES, QUERIES)


def opened(vectors, queries, texts):
    return Opened(
        parts=Parts(size=len(vectors), one=np.array(vectors, np.float32)),
        asked=lambda start, stop: Asked(texts=texts[start:stop], vectors=np.array(queries, np.float32)[start:stop]),
    )


@pytest.mark.parametrize(
    ("convention", "first"), [("sentence-transformers", ["p1", "p3", "p2"]), ("trec_eval", ["p3", "p1", "p2"])]
)
def test_equal_scores_come_in_the_conventions_order(eval_set, convention, first):
    every = opened([[1, 0], [0, 1], [1, 0]], [[1, 0]] * 4, eval_set.queries)
    found = ranked(every, {"one": BASE}, eval_set, Silent(), convention=convention)
    assert found["one"] == [first] * 4


def test_bm25_finds_only_passages_that_share_a_word(eval_set):
    found = ranked(of_words(Bm25(eval_set.contents), eval_set), {"bm25": BM25}, eval_set, Silent())["bm25"]
    assert found == [["p1", "p2"], [], ["p3"], ["p2", "p3"]] or found[3] == ["p3", "p2"]


def test_a_fusion_ranks_every_passage(eval_set, cache):
    words = Bm25(eval_set.contents)
    every = of_vectors(WordsEmbedder(), eval_set, Runtime(vectors=cache), words=lambda: words)
    assert all(len(row) == 3 for row in ranked(every, {"rrf": RRF}, eval_set, Silent())["rrf"])


def test_blocks_change_no_ranking(eval_set, cache, monkeypatch):
    words = Bm25(eval_set.contents)
    every = of_vectors(WordsEmbedder(), eval_set, Runtime(vectors=cache), words=lambda: words)
    rows = {"one": BASE, "bm25": BM25, "rrf": RRF}
    whole = ranked(every, rows, eval_set, Silent())
    monkeypatch.setattr(measuring, "_BLOCK", 6)
    assert ranked(every, rows, eval_set, Silent()) == whole


def test_no_more_than_a_hundred_are_kept(tmp_path):
    passages = {f"p{n:03}": f"text {n}" for n in range(150)}
    eval_set = eval_set_of(tmp_path / "many", passages, {"q": "text"})
    vectors = np.arange(150, dtype=np.float32)[:, None]
    found = ranked(opened(vectors, [[1.0]], ["text"]), {"one": BASE}, eval_set, Silent())["one"][0]
    assert found == [f"p{n:03}" for n in range(149, 49, -1)]


def test_rows_share_the_parts_that_they_need():
    every = union([DEFAULT, BASE])
    assert {part.name for part in every.parts} == {"one", "windows", "words"} and every.rerank is not None
    assert union([BASE, BM25]).rerank is None


def test_a_group_is_closed_before_the_next_is_opened_and_after_an_error(eval_set):
    said = []

    def group(name, texts):
        def open_it():
            said.append(f"open {name}")
            one = opened([[1, 0], [0, 1], [1, 0]], [[1, 0]] * 4, texts)
            return Opened(parts=one.parts, asked=one.asked, close=lambda: said.append(f"close {name}"))

        return Group(open=open_it, rows={name: BASE})

    measure([group("a", eval_set.queries), group("b", eval_set.queries)], eval_set, Silent())
    assert said == ["open a", "close a", "open b", "close b"]
    with pytest.raises(ZeroDivisionError):
        parts = Parts(size=3, one=np.eye(3, dtype=np.float32))
        broken = Opened(parts=parts, asked=lambda start, stop: 1 / 0, close=lambda: said.append("x"))
        measure([Group(open=lambda: broken, rows={"c": BASE})], eval_set, Silent())
    assert said[-1] == "x"


def test_a_local_models_rows_have_bytes_and_time_and_a_remote_ones_have_none(eval_set, cache, tiny_bert):
    model = LocalModel("tiny", tiny_bert)
    rows = {"base": BASE, "windows": WINDOWS, "bm25": BM25, "default": DEFAULT}
    words = Bm25(eval_set.contents)
    source = Source(contents=eval_set.contents)
    room = Runtime(vectors=cache)
    local = Group(open=lambda: of_model(model, source, rows, eval_set, room, words=lambda: words), rows=rows)
    remote = Group(open=lambda: of_vectors(WordsEmbedder(), eval_set, room), rows={"remote": BASE})
    found = measure([local, remote], eval_set, Silent(), timed=True)
    assert found["base"].bytes_a_passage == 2 * 32
    assert found["base"].bytes_a_passage < found["windows"].bytes_a_passage < found["default"].bytes_a_passage
    assert found["bm25"].bytes_a_passage == words.nbytes / 3
    assert all(found[name].ms_a_query > 0 for name in rows)
    assert found["remote"].bytes_a_passage is None and found["remote"].ms_a_query is None


def test_queries_are_encoded_as_a_search_encodes_them(eval_set, cache, tiny_bert):
    model = LocalModel("tiny", tiny_bert)
    every = of_model(
        model, Source(contents=eval_set.contents), {"base": BASE}, eval_set, Runtime(vectors=cache), words=lambda: None
    )
    expected = Asker(model, None).ask(eval_set.queries)
    np.testing.assert_array_equal(every.asked(0, 4).vectors, expected.vectors)
