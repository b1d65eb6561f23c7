"""/search beside the embedding routes, and the page at `/`."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from embedfit.cli.main import app as command_line
from embedfit.commands.indexing import index_documents
from embedfit.index import approximate
from embedfit.index.search import Index
from embedfit.serving import loading
from embedfit.serving.app import App
from embedfit.serving.edge.access import Keys
from embedfit.serving.search.searcher import Searcher
from embedfit.testing.server import running_server
from tests.serving.conftest import FakeEngine, make_app, searching_app, write_corpus
from tests.serving.test_app import Client


@pytest.fixture
def app(searcher: Searcher, tiny_bert: Path) -> App:
    return searching_app(searcher, tiny_bert)


@pytest.fixture
def client(app: App) -> Client:
    return Client(app)


def without_floats(text: str | bytes) -> tuple[dict[str, Any], list[float]]:
    """(a JSON object with None in place of each float, the floats in their order)."""
    numbers: list[float] = []
    return json.loads(text, parse_float=lambda number: numbers.append(float(number))), numbers


def test_one_query_is_answered_as_the_command_prints_it(client, index, folder):
    answer = client.post("/search", {"query": "mute the tv", "k": 3, "base": True})
    assert answer.status_code == 200
    body, numbers = without_floats(answer.content)
    assert all(hit.pop("marked") == [list(span) for span in index.marked("mute the tv", hit["text"])]
               for name in ("hits", "base") for hit in body[name])  # fmt: skip
    printed = CliRunner().invoke(command_line, ["search", "--index", str(folder), "mute the tv", "-k", "3", "--json"])
    same, others = without_floats(printed.stdout)
    assert body == same
    # The last digit of a score depends on the number of threads, which a test before this one may have changed.
    assert numbers == pytest.approx(others, abs=1e-5)


def test_a_list_is_answered_in_its_order_by_what_each_alone_gives(client):
    queries = ["mute the tv", "forty watts", "hollow bread"]
    several = client.post("/search", {"query": queries, "k": 4}).json()["results"]
    assert [one["query"] for one in several] == queries
    for query, one in zip(queries, several, strict=True):
        alone = client.post("/search", {"query": query, "k": 4}).json()
        assert [hit["passage_id"] for hit in alone["hits"]] == [hit["passage_id"] for hit in one["hits"]]
        assert "base" not in one
    assert list(client.post("/search", {"query": ["lamp"]}).json()) == ["results"]


def test_marked_ranges_hold_the_words_that_are_asked_for(client):
    hits = client.post("/search", {"query": "the mute buttons", "k": 12}).json()["hits"]
    hit = next(hit for hit in hits if "mute" in hit["text"])
    assert {hit["text"][start:stop].lower() for start, stop in hit["marked"]} == {"mute", "button"}


def test_get_gives_what_post_gives(client):
    assert (
        client.get("/search?query=mute%20the%20tv&k=2&base=true").json()
        == client.post("/search", {"query": "mute the tv", "k": 2, "base": True}).json()
    )
    assert (
        client.get("/search?query=lamp+watts&query=oven&document=x").json()
        == client.post("/search", {"query": ["lamp watts", "oven"], "documents": ["x"]}).json()
    )


def test_documents_restrict_what_is_found(client, index):
    every = client.post("/search", {"query": "press the tv", "k": 50, "base": True}).json()
    documents = sorted({hit["document"] for hit in every["hits"]})
    assert len(documents) > 2
    some = client.post("/search", {"query": "press the tv", "k": 50, "documents": documents[:2], "base": True}).json()
    for name in ("hits", "base"):
        assert {hit["document"] for hit in some[name]} == set(documents[:2])
    assert client.post("/search", {"query": "tv", "documents": ["nothing"]}).json()["hits"] == []
    assert len(client.post("/search", {"query": "tv", "k": 50, "documents": None}).json()["hits"]) == len(index)


@pytest.mark.parametrize(
    ("body", "status"),
    [({"query": ""}, 400), ({"query": " \n\u3000 "}, 400), ({"query": []}, 400), ({"query": ["a", ""]}, 400),
     ({"query": "a", "documents": []}, 400), ({}, 422), ({"query": None}, 422), ({"query": 3}, 422),
     ({"query": ["a", 3]}, 422), ({"query": [["a"]]}, 422), ({"query": "a", "k": 0}, 422),
     ({"query": "a", "k": -1}, 422),
     ({"query": "a", "k": 1001}, 422), ({"query": "a", "k": 1_000_000}, 422), ({"query": "a", "k": 2.5}, 422),
     ({"query": "a", "k": True}, 422), ({"query": "a", "k": "10"}, 422), ({"query": ["a"] * 33}, 422),
     ({"query": ["a"] * 32, "k": 1000}, 422), ({"query": "a", "documents": "tv"}, 422),
     ({"query": "a", "documents": [1]}, 422), ({"query": "a", "base": 1}, 422),
     ({"query": "a", "document": ["tv"]}, 422),
     ({"query": "a", "top_k": 3}, 422), ([], 422), ("a", 422)],
)  # fmt: skip
def test_what_is_no_search_is_refused_in_teis_form(client, body, status):
    answer = client.post("/search", body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}


@pytest.mark.parametrize(
    "parameters", ["", "query=", "query=a&k=0", "query=a&k=x", "query=a&k=1e3", "query=a&k=99999999999999999999",
                   "query=a&base=perhaps", "query=a&documents=tv", "query=a&x=1", "&".join(["query=a"] * 33),
                   "&".join(["query=a"] * 1001)],
)  # fmt: skip
def test_parameters_that_are_no_search_are_refused(client, parameters):
    assert client.get(f"/search?{parameters}").status_code in (400, 422)


def test_a_thousand_passages_may_be_asked_for(client, index):
    assert len(client.post("/search", {"query": "lamp", "k": 1000}).json()["hits"]) == len(index)


def test_a_query_of_ten_thousand_words_is_cut(client):
    long = client.post("/search", {"query": "lamp " * 10_000, "k": 2}).json()["hits"]
    short = client.post("/search", {"query": "lamp " * 512, "k": 2}).json()["hits"]
    assert long == short
    assert client.post("/search", {"query": "a.b" * 600_000, "k": 1}).status_code == 200


def test_half_surrogate_pairs_are_replaced_and_whole_ones_kept(client):
    def query(escaped: str) -> str:
        return client.post("/search", content=f'{{"query": "lamp {escaped}", "k": 1}}'.encode()).json()["query"]

    assert query(r"\ud83d") == query(r"\udc00") == "lamp \ufffd"
    assert query(r"\ud83d\ude00 \ud83d") == "lamp 😀 \ufffd"
    assert query(r"\\ud83d \udc00") == "lamp \\ud83d \ufffd"
    assert query(r"\ud83d\n\"") == 'lamp \ufffd\n"'
    assert client.post("/search", content=b'{"query": "\xed\xa0\x80"}').status_code == 400
    assert client.get("/search?query=lamp%ED%A0%BD&k=1").status_code == 200


@given(text=st.text(st.characters(), max_size=40))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_answered(client, text):
    answer = client.post("/search", {"query": text, "k": 2, "base": True})  # json.dumps escapes surrogates
    assert answer.status_code == (200 if text.strip() else 400)
    encoded = quote(text, errors="replace")
    assert client.get(f"/search?query={encoded}&k=1").status_code == answer.status_code


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=8,
)


@given(body=st.dictionaries(st.sampled_from(["query", "k", "documents", "base"]), values, max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_answered_below_500(client, body):
    assert client.post("/search", content=json.dumps(body).encode()).status_code < 500


def test_without_an_index_the_command_is_named(tiny_bert):
    client = Client(make_app(FakeEngine(), tiny_bert))
    for answer in (client.post("/search", {"query": "tv"}), client.get("/search?query=tv")):
        assert answer.status_code == 404 and "embedfit index" in answer.json()["error"]
    assert client.get("/").content == b""


def test_the_key_protects_the_search_and_not_the_page(searcher, tiny_bert):
    app = searching_app(searcher, tiny_bert, api_key="k1")
    assert Client(app).post("/search", {"query": "tv"}).status_code == 401
    assert Client(app).get("/search?query=tv").status_code == 401
    assert Client(app).get("/").status_code == 200
    assert Client(app, authorization="Bearer k1").get("/search?query=tv").status_code == 200


def test_the_page_has_a_strict_policy_and_nothing_of_another_host(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", answer.text) and "innerHTML" not in answer.text
    assert client.post("/", {"inputs": "tv"}).status_code == 200


def test_until_it_is_ready_the_page_and_the_health_say_so(client):
    service, client.app.answers.service = client.app.answers.service, None
    assert client.get("/health").status_code == 503
    assert client.get("/").status_code == 503 and "<title>" in client.get("/").text
    assert client.get("/search?query=tv").status_code == client.post("/search", {"query": "tv"}).status_code == 503
    client.app.answers.service = service
    assert client.get("/").status_code == 200


def test_searches_are_counted(client):
    client.post("/search", {"query": ["tv", "lamp"], "documents": ["nothing"]})
    client.post("/search", {"query": "tv"})
    client.post("/search", {"query": ""})
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["embedfit_search_queries_total",] == 3 or samples["embedfit_search_queries",] == 3
    assert 2 in (samples.get(("embedfit_search_queries_without_hits_total",)),
                 samples.get(("embedfit_search_queries_without_hits",)))  # fmt: skip
    assert samples["embedfit_search_duration_count",] == 2
    assert samples["te_request_success_total", "search"] == 2
    steps = {labels[0]: count for (name, *labels), count in samples.items()
             if name == "embedfit_search_step_duration_count"}  # fmt: skip
    assert steps == {"query": 2, "vectors": 2, "words": 2, "texts": 2, "tokens": 1}  # one search found nothing


def test_the_document_describes_both_methods(client):
    document = orjson.loads(client.get("/api-doc/openapi.json").content)
    search = document["paths"]["/search"]
    assert set(search) == {"get", "post"} and "404" in search["post"]["responses"]
    found = client.post("/search", {"query": "tv", "k": 1}).json()
    assert set(document["components"]["schemas"]["Hit"]["properties"]) == set(found["hits"][0])
    assert "/search" in client.get("/docs").text


# --- under load


class Gate:
    """An asker that computes only while its gate is open."""

    def __init__(self, index: Index) -> None:
        self.asker = index.asker
        self.open = threading.Event()
        self.asked: list[tuple[str, ...]] = []

    def ask(self, texts):
        self.asked.append(tuple(texts))
        assert self.open.wait(20)
        return self.asker.ask(texts)


@pytest.fixture
def gated(folder: Path, tiny_bert: Path) -> Iterator[tuple[Gate, Searcher]]:
    index = Index.open(folder / "index")
    gate = Gate(index)
    index.asker = gate  # type: ignore[assignment]
    searcher = Searcher(index=index)
    yield gate, searcher
    gate.open.set()
    searcher.close()


def together(app: App, scenario):
    async def run():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await scenario(client)

    return asyncio.run(run())


async def until(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to it")


def test_while_a_search_runs_the_server_answers_and_refuses_what_is_too_much(gated, tiny_bert):
    gate, searcher = gated
    app = searching_app(searcher, tiny_bert, max_concurrent_requests=2)

    async def scenario(client):
        tasks = [asyncio.create_task(client.post("/search", json={"query": text})) for text in ("tv", "lamp")]
        await until(lambda: app.active == 2)
        refused = await client.get("/search?query=oven")
        assert refused.status_code == 429 and "retry-after" in refused.headers
        assert (await client.get("/health")).status_code == 200
        gate.open.set()
        return [task.status_code for task in await asyncio.gather(*tasks)]

    assert together(app, scenario) == [200, 200]


def test_a_client_that_leaves_takes_its_search_out_of_the_queue(gated, tiny_bert):
    gate, searcher = gated
    app = searching_app(searcher, tiny_bert)

    async def scenario(client):
        first = asyncio.create_task(client.post("/search", json={"query": "tv"}))
        await until(lambda: gate.asked)
        second = asyncio.create_task(client.post("/search", json={"query": "lamp"}))
        await until(lambda: searcher.line.waiting["queries"] == 2)
        second.cancel()
        await until(lambda: searcher.line.waiting["queries"] == 1)
        gate.open.set()
        assert (await first).status_code == 200
        assert (await client.post("/search", json={"query": "oven"})).status_code == 200

    together(app, scenario)
    assert gate.asked == [("tv",), ("oven",)]


def test_a_search_that_would_wait_too_long_is_refused(gated, tiny_bert):
    gate, searcher = gated
    searcher.line.seconds["queries"] = 3.0
    app = searching_app(searcher, tiny_bert)

    async def scenario(client):
        first = asyncio.create_task(client.post("/search", json={"query": ["tv", "lamp"]}))
        await until(lambda: gate.asked)
        refused = await client.post("/search", json={"query": "oven"})
        assert refused.status_code == 429 and refused.headers["retry-after"] == "6"
        gate.open.set()
        assert (await first).status_code == 200

    together(app, scenario)


@pytest.mark.parametrize("path", ["/search", "/v1/rerank"])
def test_twice_as_much_as_can_be_done_is_refused_politely_and_nothing_accepted_is_lost(gated, tiny_bert, path):
    gate, searcher = gated
    gate.open.set()
    ask, gate.ask = gate.ask, lambda texts: (time.sleep(0.02), ask(texts))[1]  # type: ignore[method-assign]
    gate.window, gate.tokens_of = gate.asker.window, gate.asker.tokens_of
    app = searching_app(searcher, tiny_bert)
    searcher.line.max_queue_seconds = 0.1

    async def scenario(client):
        texts = [f"question {number} of the tv" for number in range(120)]
        tasks = []
        for text in texts:
            body = {"query": text} if path == "/search" else {"query": text, "documents": [text]}
            tasks.append(asyncio.create_task(client.post(path, json=body | {"top_n": 1} if "rerank" in path else body)))
            await asyncio.sleep(0.01)  # one search takes at least twice as long
        return list(zip(texts, await asyncio.gather(*tasks), strict=True))

    answers = together(app, scenario)
    accepted = [(text, answer.json()) for text, answer in answers if answer.status_code == 200]
    refused = [answer for _, answer in answers if answer.status_code == 429]
    assert len(accepted) + len(refused) == len(answers) and len(accepted) > 10 and len(refused) > 10
    for text, body in accepted:
        assert body["query"] == text and body["hits"] if path == "/search" else len(body["results"]) == 1
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error_type" if path == "/search" else "type"] == "Overloaded"
    assert app.active == 0 and not any(searcher.line.waiting.values())


def test_a_search_that_fails_is_an_error_of_the_backend(gated, tiny_bert):
    gate, searcher = gated
    gate.open.set()
    client = Client(searching_app(searcher, tiny_bert))
    gate.ask = lambda texts: (_ for _ in ()).throw(RuntimeError("out of memory"))  # type: ignore[method-assign]
    answer = client.post("/search", {"query": "tv"})
    assert answer.status_code == 424 and "out of memory" in answer.json()["error"]


# --- the command


@pytest.mark.slow
def test_a_folder_whose_index_is_missing_gets_it_and_is_served(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("index"))
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running_server(run, "--engine", "torch", environment=environment) as server:
        assert (run / "index" / "manifest.json").is_file()
        assert "has no index yet" in server.log.read_text()
        with httpx.Client(base_url=server.url, timeout=60) as http:
            found = http.post("/search", json={"query": "mute the tv", "k": 3}).json()
            expected = Index.open(run / "index").search("mute the tv", 3)
            got = [{name: value for name, value in hit.items() if name != "marked"} for hit in found["hits"]]
            assert [hit["passage_id"] for hit in got] == [hit.passage_id for hit in expected]
            assert set(got[0]) == set(asdict(expected[0]))
            assert len(http.post("/embed", json={"inputs": "tv"}).json()[0]) == 32
            assert http.get("/info").json()["index"]["passages"] == len(Index.open(run / "index"))
            assert http.get("/").headers["content-type"].startswith("text/html")


def test_a_server_says_the_recall_of_approximate_lists_or_why_search_is_exact(tmp_path, tiny_bert, monkeypatch):
    monkeypatch.setattr(approximate, "MOST_EXACT", 5)
    index_documents(write_corpus(tmp_path), folder=tmp_path / "ix", model=str(tiny_bert))
    made = make_app(FakeEngine(), tiny_bert)
    monkeypatch.setattr(loading, "load_service", lambda *_, **__: made.answers.service)

    def served():
        said = []
        opened = Index.open(tmp_path / "ix" / "index")
        service = loading.load_with_index(lambda: opened, made.settings, Keys(), log=said.append)
        service.searcher.close()
        return service.info["index"], [line for line in said if "exact" in line]

    about, said = served()
    assert about["recall"] >= approximate.ENOUGH_RECALL and said == []
    monkeypatch.setattr(approximate, "library", lambda: None)
    about, said = served()
    assert "recall" not in about and approximate.INSTALL in said[0]
