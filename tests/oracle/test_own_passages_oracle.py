"""Queries that are passages: our rankings against BEIR's rule and pytrec_eval's numbers, for every kind of system."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import pytrec_eval

from embedfit.evaluation.benchmark import benchmark
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.index.retriever import BASE, BM25, RRF, WINDOWS
from embedfit.index.scoring import Asked, Parts, Rows, Scores, find
from embedfit.merging.task import per_query_ndcg
from embedfit.progress import LogLines
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.metrics import judge, score
from embedfit.retrieval.own import own_passages, without_own
from embedfit.runtime import Runtime

WORDS = "mute volume remote speaker picture channel antenna cable router signal battery screen".split()


def beirs_numbers(run, qrels):
    """What BEIR does before it scores, and pytrec_eval's scores."""
    for query, found in run.items():
        for passage in list(found):
            if query == passage:
                found.pop(passage)
    return pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10", "P.10", "success.1"}).evaluate(run)


def case(seed):
    """Half of the queries are passages, some of them judged relevant to themselves; grades up to 3."""
    rng = np.random.default_rng(seed)
    passages = [f"p{n}" for n in range(30)]
    texts = [" ".join(rng.choice(WORDS, size=int(rng.integers(3, 12)))) + f" number{n}" for n in range(30)]
    queries = [f"p{n}" for n in rng.choice(30, size=8, replace=False)] + [f"q{n}" for n in range(8)]
    asked = [texts[passages.index(q)] if q in passages else " ".join(rng.choice(WORDS, size=3)) for q in queries]
    qrels = {
        query: {passages[n]: int(rng.integers(0, 4)) for n in rng.choice(30, size=5, replace=False)} | {"p29": 1}
        for query in queries
    }
    return passages, texts, queries, asked, qrels


def parts_of(texts, vectors, windows=None):
    return Parts(size=len(texts), one=vectors, windows=windows, words=Bm25(texts))


@pytest.mark.parametrize("seed", range(5))
def test_rankings_agree_with_beir(seed):
    passages, texts, queries, asked, qrels = case(seed)
    order = np.argsort(passages)  # an index numbers its passages by ascending id
    passages, texts = [passages[n] for n in order], [texts[n] for n in order]
    rng = np.random.default_rng(seed)
    vectors, wanted = rng.normal(size=(30, 8)).astype(np.float32), rng.normal(size=(16, 8)).astype(np.float32)
    for row, query in enumerate(queries):
        if query in passages:
            wanted[row] = vectors[passages.index(query)]
    own = own_passages(queries, passages)
    assert (own >= 0).sum() == 8
    windows = Rows(vectors.astype(np.float16), np.arange(31))
    scores = Scores(parts_of(texts, vectors, windows), Asked(texts=asked, vectors=wanted, own=own))
    for name, retriever in {"one": BASE, "windows": WINDOWS, "bm25": BM25}.items():
        raw = scores.raw(retriever.parts[0].name)
        found = [[passages[n] for n in best.passages] for best in find(scores, retriever, 100)]
        assert not any(query in row for query, row in zip(queries, found, strict=True)), name
        run = {
            query: {passage: float(value) for passage, value in zip(passages, row, strict=True)}
            for query, row in zip(queries, raw, strict=True)
        }
        if name == "bm25":  # equal scores: pytrec_eval orders them its own way, so they get our order
            run = {query: {p: float(-n) for n, p in enumerate(row)} for query, row in zip(queries, found, strict=True)}
        theirs = beirs_numbers(run, qrels)
        ours = score(
            judge(found, [qrels[query] for query in queries]),
            ("ndcg@10", "recall@10", "precision@10", "hit@1"),
            "trec_eval",
        )
        for row, query in enumerate(queries):
            for metric, their_name in zip(ours, ("ndcg_cut_10", "recall_10", "P_10", "success_1"), strict=True):
                assert ours[metric][row] == pytest.approx(theirs[query][their_name], abs=1e-9), (name, query, metric)


@pytest.mark.parametrize("retriever", [RRF, replace(RRF, method="sum", name="sum")], ids=["rrf", "sum"])
def test_fusions_rank_as_if_the_own_passage_were_not_there(retriever):
    passages, texts, queries, asked, _ = case(9)
    rng = np.random.default_rng(9)
    vectors, wanted = rng.random((30, 8), np.float32), rng.random((16, 8), np.float32)
    own = own_passages(queries, passages)
    found = find(Scores(parts_of(texts, vectors), Asked(texts=asked, vectors=wanted, own=own)), retriever, 100)
    words = Bm25(texts)
    for row, query in enumerate(queries):
        others = np.array([n for n, passage in enumerate(passages) if passage != query])
        left = Only({text: words.coverage(text)[others] for text in asked})
        parts = Parts(size=len(others), one=vectors[others], words=left)
        alone = Asked(texts=[asked[row]], vectors=wanted[row : row + 1])
        expected = others[find(Scores(parts, alone), retriever, 100)[0].passages]
        assert list(found[row].passages) == list(expected)


class Only:
    """The scores of some of an index' passages."""

    def __init__(self, scores):
        self.coverage = scores.__getitem__


def test_benchmark_and_its_note(tmp_path):
    passages, texts, queries, asked, qrels = case(3)
    data = RetrievalData(
        corpus={key: Entry(text) for key, text in zip(passages, texts, strict=True)},
        queries=dict(zip(queries, asked, strict=True)),
        qrels=qrels,
    )
    write_beir(tmp_path / "beir", data)
    said = io.StringIO()
    runtime = Runtime(report=LogLines(said))
    result = benchmark(["bm25"], tmp_path / "beir", runtime, draws=10)
    order = np.argsort(passages)
    ids, own = [passages[n] for n in order], own_passages(queries, [passages[n] for n in order])
    words = Parts(size=30, words=Bm25([texts[n] for n in order]))
    best = find(Scores(words, Asked(texts=asked, vectors=np.zeros((16, 0), np.float32), own=own)), BM25, 100)
    found = [[ids[n] for n in one.passages] for one in best]
    run = {query: {p: float(-n) for n, p in enumerate(row)} for query, row in zip(queries, found, strict=True)}
    theirs = beirs_numbers(run, qrels)
    for metric, their_name in (("recall@10", "recall_10"), ("precision@10", "P_10"), ("hit@1", "success_1")):
        expected = np.mean([theirs[query][their_name] for query in queries])
        assert result.systems["bm25"].metrics[metric] == pytest.approx(expected, abs=1e-6)
    assert "8 of 16 queries have the id of a passage" in said.getvalue()


def test_merges_leave_it_out_too():
    scores = np.array([[0.9, 0.5, 0.1]], np.float32)
    hidden = without_own(scores, np.array([0]))
    assert scores[0, 0] > 0, "the scores that were given stay"
    assert per_query_ndcg(scores, [frozenset({1})])[0] < 1
    assert per_query_ndcg(hidden, [frozenset({1})])[0] == 1
    assert per_query_ndcg(hidden, [frozenset({0})])[0] == 0, "not even last"
    assert without_own(scores, None) is scores is without_own(scores, np.array([-1]))
