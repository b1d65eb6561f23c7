import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import corpora
from embedfit.files.beir import read_beir
from embedfit.index import retriever as retrievers
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.testing.tiny_model import make_tiny_bert

pytestmark = pytest.mark.skipif(not corpora.DATA.is_dir(), reason="the corpora are not here: set EMBEDFIT_DATA")


@pytest.mark.parametrize("name", ["emanual", "stackfaq"])
def test_halves_are_those_of_the_shared_script(name, tmp_path):
    script = corpora.DATA / "halves.py"
    subprocess.run([sys.executable, script, corpora.DATA / name, tmp_path], check=True, capture_output=True)
    found = corpora.halves(name)
    assert list(found.log) == (tmp_path / "log.txt").read_text("utf-8").splitlines()
    judging = [json.loads(line) for line in (tmp_path / "beir" / "queries.jsonl").read_text("utf-8").splitlines()]
    assert found.judging.query_ids == tuple(row["_id"] for row in judging)
    assert found.judging.queries == tuple(row["text"] for row in judging)
    apart = (tmp_path / "apart.txt").read_text("utf-8").split()
    assert [key for key, is_apart in zip(found.judging.query_ids, found.apart, strict=True) if is_apart] == apart
    qrels = read_beir(tmp_path / "beir").qrels
    assert [set(one) for one in found.judging.relevant] == [
        {passage for passage, grade in qrels[query].items() if grade > 0} for query in found.judging.query_ids
    ]


def test_a_part_keeps_only_what_its_passages_answer(tmp_path):
    small = corpora.part("emanual", tmp_path, 20)
    whole = corpora.corpus("emanual")
    assert len(small.passage_ids) == 20
    assert set(small.passage_ids) < set(whole.passage_ids)
    texts = dict(zip(whole.query_ids, whole.queries, strict=True))
    for query, text, relevant in zip(small.query_ids, small.queries, small.relevant, strict=True):
        assert texts[query] == text
        assert relevant.keys() <= set(small.passage_ids)
    again = corpora.part("emanual", tmp_path / "again", 20)
    assert (again.passage_ids, again.queries) == (small.passage_ids, small.queries)


def test_the_strong_writer_covers_emanual_and_not_covid_qa():
    written = corpora.covering("emanual", corpora.corpus("emanual").passage_ids)
    assert written is not None
    assert sum(map(len, written)) > 3_000
    assert corpora.covering("covid_qa", corpora.corpus("covid_qa").passage_ids) is None
    assert corpora.covering("xquad_en", ["any"]) is None


def test_one_vector_is_judged_as_a_product_of_vectors_ranks(tmp_path):
    questions = corpora.part("emanual", tmp_path / "beir", 25)
    questions = corpora.only(questions, range(min(8, len(questions.queries))))
    model, first_stage = LocalModel("tiny", make_tiny_bert(tmp_path / "tiny")), retrievers.DEFAULT.without_tokens()
    store = VectorStore(tmp_path / "vectors")
    found = corpora.judged(questions, model, (retrievers.BASE, first_stage), store=store)
    scores = model.embed(questions.queries, is_query=True) @ model.embed(questions.contents, is_query=False).T
    rankings = [[questions.passage_ids[row] for row in np.argsort(-line)] for line in scores]
    np.testing.assert_allclose(found["base"], ndcg(judge(rankings, questions.relevant), 10), atol=1e-6)
    assert found["default"].shape == found["base"].shape


def test_a_query_does_not_find_the_passage_of_its_own_id(tmp_path):
    first = corpora.only(corpora.part("emanual", tmp_path, 20), [0])
    answer = min(first.relevant[0])
    other = next(key for key in first.passage_ids if key not in first.relevant[0])
    ranking = [[other, answer]]
    assert 0 < corpora.ranked(ranking, first)[0] < 1
    found_itself = replace(first, query_ids=(other,))
    assert corpora.ranked(ranking, found_itself)[0] > corpora.ranked(ranking, first)[0]


def test_a_mean_over_corpora_weighs_each_the_same():
    few, many = np.array([0.2, 0.4]), np.full(50, 0.1)
    found = corpora.mean_difference([(few, np.zeros(2), np.arange(2)), (many, np.zeros(50), np.arange(50))])
    assert found["delta"] == pytest.approx(0.2)
    assert found["ci95"][0] <= found["delta"] <= found["ci95"][1]


def test_a_difference_is_paired_and_signed():
    rng = np.random.default_rng(3)
    base = rng.random(200)
    found = corpora.difference(np.clip(base + 0.05, 0, 1), base, np.arange(200))
    assert found["ci95"][0] > 0
    reverse = corpora.difference(base, np.clip(base + 0.05, 0, 1), np.arange(200))
    assert reverse["delta"] == pytest.approx(-found["delta"])
    assert corpora.points(found).startswith("+")
    assert corpora.points(None) == "–"
