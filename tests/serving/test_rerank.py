"""/rerank in TEI's form and in the one of Cohere's and Jina's clients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedfit.cli.main import app as cli
from embedfit.commands.indexing import index_documents
from embedfit.errors import UsageError
from embedfit.index.scoring import Scores
from embedfit.index.search import Index
from embedfit.models.cross_encoder import CrossEncoder
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime
from embedfit.serving.search.searcher import Searcher
from tests.models.tiny_reranker import make_tiny_reranker
from tests.serving.conftest import FakeEngine, make_app, searching_app, write_corpus
from tests.serving.test_app import Client
from tests.serving.test_search_route import values

TEXTS = ["The oven is hot.", "Press mute to turn the sound of the tv off.", "A lamp has a switch."]
QUERY = "mute the tv"


@pytest.fixture
def client(searcher: Searcher, tiny_bert: Path) -> Client:
    return Client(searching_app(searcher, tiny_bert))


def test_passages_are_scored_as_the_second_stage_of_a_search_scores_them(client, index):
    passages = list(index.passages())
    scores = Scores(index.parts, index.asker.ask([QUERY])).late(0, np.arange(len(passages)))
    ranks = client.post("/rerank", {"query": QUERY, "texts": [one.content for one in passages], "raw_scores": True})
    found = {rank["index"]: rank["score"] for rank in ranks.json()}
    np.testing.assert_allclose([found[number] for number in range(len(passages))], scores, rtol=1e-4, atol=1e-4)
    assert [rank["index"] for rank in ranks.json()] == sorted(found, key=lambda number: -found[number])


def test_teis_form(client):
    ranks = client.post("/rerank", {"query": QUERY, "texts": TEXTS}).json()
    assert sorted(rank["index"] for rank in ranks) == [0, 1, 2] and set(ranks[0]) == {"index", "score"}
    assert all(0 <= rank["score"] <= 1 for rank in ranks)
    assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)
    shown = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True}).json()
    assert [rank["text"] for rank in shown] == [TEXTS[rank["index"]] for rank in shown]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_common_form_ranks_as_teis_does(client, path):
    ranks = client.post("/rerank", {"query": QUERY, "texts": TEXTS}).json()
    body = {"model": "any", "query": QUERY, "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]}
    answer = client.post(path, body).json()
    assert [one["index"] for one in answer["results"]] == [rank["index"] for rank in ranks]
    assert [one["relevance_score"] for one in answer["results"]] == [rank["score"] for rank in ranks]
    assert "document" not in answer["results"][0] and answer["usage"]["total_tokens"] > len(TEXTS)
    some = client.post(path, body | {"top_n": 2, "return_documents": True, "max_tokens_per_doc": 9}).json()["results"]
    assert [one["document"]["text"] for one in some] == [TEXTS[rank["index"]] for rank in ranks[:2]]
    assert len(client.post(path, body | {"top_n": 100}).json()["results"]) == len(TEXTS)


def test_long_texts_are_cut_to_the_window_unless_the_client_refuses_that(client, index):
    body = {"query": QUERY, "texts": ["tv " * 5_000, "tv " * (index.asker.window - 2)]}
    first, second = client.post("/rerank", body).json()
    assert first["score"] == pytest.approx(second["score"], abs=1e-6)
    refused = client.post("/rerank", body | {"truncate": False})
    assert refused.status_code == 422 and str(index.asker.window) in refused.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"query": "", "texts": ["a"]}, 400), ({"query": " ", "texts": ["a"]}, 400), ({"query": "a", "texts": []}, 400),
     ({"query": "a", "texts": ["a", ""]}, 400), ({"texts": ["a"]}, 422), ({"query": "a"}, 422),
     ({"query": ["a"], "texts": ["a"]}, 422), ({"query": "a", "texts": "a"}, 422),
     ({"query": "a", "texts": [1]}, 422), ({"query": "a", "texts": ["a"] * 33}, 422),
     ({"query": "a", "texts": ["a"], "truncation_direction": "Left"}, 422),
     ({"query": "a", "documents": [{"title": "a"}]}, 422), ({"query": "a", "documents": [["a"]]}, 422),
     ({"query": "a", "documents": ["a"], "top_n": 0}, 422), ({"query": "a", "documents": [{"text": ""}]}, 400),
     ({"query": "a", "documents": None}, 422), ([], 422)],
)  # fmt: skip
def test_what_is_no_request_is_refused(client, body, status):
    assert client.post("/rerank", body).status_code == status
    answer = client.post("/v1/rerank", body)
    assert 400 <= answer.status_code < 423 and set(answer.json()) == {"message", "code", "type"}


@given(body=st.dictionaries(st.sampled_from(["query", "texts", "documents", "top_n", "truncate"]), values, max_size=5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_answered_below_500(client, body):
    assert client.post("/rerank", content=json.dumps(body).encode()).status_code < 500


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=5)
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_is_ranked_once(client, texts):
    ranks = client.post("/rerank", {"query": QUERY, "texts": texts}).json()
    assert sorted(rank["index"] for rank in ranks) == list(range(len(texts)))
    assert all(np.isfinite(rank["score"]) for rank in ranks)


def test_without_token_vectors_the_command_is_named(tiny_bert, tmp_path):
    runtime = Runtime(vectors=VectorStore(tmp_path / "vectors"))
    index_documents(write_corpus(tmp_path), folder=tmp_path / "ix", model=str(tiny_bert), tokens=False, runtime=runtime)
    made = Searcher(Index.open(tmp_path / "ix" / "index"))
    answer = Client(searching_app(made, tiny_bert)).post("/rerank", {"query": QUERY, "texts": TEXTS})
    made.close()
    assert answer.status_code == 404 and "--tokens" in answer.json()["error"]
    alone = Client(make_app(FakeEngine(), tiny_bert)).post("/v1/rerank", {"query": QUERY, "documents": TEXTS})
    assert alone.status_code == 404 and "embedfit index" in alone.json()["message"]


def test_reranks_are_counted(client):
    client.post("/rerank", {"query": QUERY, "texts": TEXTS})
    assert "embedfit_rerank_duration_count 1.0" in client.get("/metrics").text


def test_the_key_protects_it(searcher, tiny_bert):
    app = searching_app(searcher, tiny_bert, api_key="k1")
    assert Client(app).post("/rerank", {"query": QUERY, "texts": TEXTS}).status_code == 401
    assert Client(app, authorization="Bearer k1").post("/rerank", {"query": QUERY, "texts": TEXTS}).status_code == 200


def test_a_cross_encoder_orders_the_texts_instead(index: Index, tiny_bert: Path, tmp_path: Path):
    reranker = CrossEncoder.load(make_tiny_reranker(tiny_bert, tmp_path / "reranker"))
    searcher = Searcher(index, reranker=reranker)
    client = Client(searching_app(searcher, tiny_bert))
    expected = reranker.scores([(QUERY, text) for text in TEXTS])
    ranks = client.post("/rerank", {"query": QUERY, "texts": TEXTS}).json()
    assert [rank["index"] for rank in ranks] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([rank["score"] for rank in ranks], np.sort(expected)[::-1], atol=1e-4)
    raw = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True}).json()
    np.testing.assert_allclose([1 / (1 + np.exp(-one["score"])) for one in raw], np.sort(expected)[::-1], atol=1e-4)
    answer = client.post("/v1/rerank", {"query": QUERY, "documents": TEXTS}).json()
    assert answer["usage"]["total_tokens"] == sum(reranker.lengths([(QUERY, text) for text in TEXTS])[0])
    long = {"query": QUERY, "texts": [*TEXTS, "word " * 600]}
    assert client.post("/rerank", long | {"truncate": True}).status_code == 200
    refused = client.post("/rerank", long | {"truncate": False})
    assert refused.status_code == 422 and "1 of the `texts`" in refused.text
    searcher.close()


@pytest.mark.parametrize("more", [["--mcp", "stdio"], []])
def test_a_cross_encoder_needs_a_server_with_rerank(tiny_bert: Path, index: Index, more: list[str]):
    served = str(index.stored.folder) if more else str(tiny_bert)
    done = CliRunner().invoke(cli, ["serve", served, "--reranker", "x", *more])
    assert isinstance(done.exception, UsageError) and "--reranker orders the texts" in str(done.exception)
