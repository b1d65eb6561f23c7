"""SIGHUP: a new model and a new index take the place of the old ones, and no request fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from embedfit.commands.indexing import index_documents
from embedfit.errors import InputError
from embedfit.index.search import Index
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime
from embedfit.serving.search.searcher import Searcher
from embedfit.serving.server import Loader, hang_up_handler
from embedfit.testing.server import running_server
from embedfit.testing.tiny_model import make_tiny_bert
from tests.serving.conftest import TOPICS, searching_app


def until(condition, seconds: float = 60) -> None:
    event = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        event.wait(0.02)
    raise AssertionError("it did not come to it")


def test_a_request_ends_with_the_service_it_began_with(index, tiny_bert):
    old, new = Searcher(index), Searcher(index)
    app = searching_app(old, tiny_bert)
    first = app.answers.service
    second = replace(first, model_name="second", searcher=new)
    gate, closed = threading.Event(), []
    old.line.submit(lambda: gate.wait(20))
    close, old.close = old.close, lambda: (closed.append("old"), close())

    async def scenario():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"query": "mute the tv", "documents": ["mute the tv", "a lamp"]}
            running = [asyncio.create_task(client.post(path, json=json))
                       for path, json in (("/search", {"query": "tv"}), ("/v1/rerank", body))]  # fmt: skip
            while app.active < 2:
                await asyncio.sleep(0.005)
            app.answers.replace(second)
            fresh = await client.post("/v1/rerank", json=body)
            assert fresh.json()["model"] == "second" and not closed
            gate.set()
            search, rerank = await asyncio.gather(*running)
            assert search.status_code == 200 and rerank.json()["model"] == first.model_name

    asyncio.run(scenario())
    assert closed == ["old"]
    new.close()


def test_a_replaced_service_that_nobody_uses_is_closed_at_once(index, tiny_bert):
    old, new = Searcher(index), Searcher(index)
    app = searching_app(old, tiny_bert)
    app.answers.replace(replace(app.answers.service, searcher=new))
    with pytest.raises(RuntimeError):
        old.line.submit(print)
    new.close()


def test_several_wishes_to_load_are_one_and_an_error_keeps_the_old():
    begun, go, said, told, stopped = threading.Semaphore(0), threading.Semaphore(0), [], [], []
    errors = [None, InputError("it is broken"), RuntimeError("worse"), None]

    def load() -> None:
        begun.release()
        assert go.acquire(timeout=20)
        error = errors.pop(0)
        if error:
            raise error

    loader = Loader(load, lambda *, worked: told.append(worked), stop=lambda: stopped.append(1), log=said.append)
    loader.start()
    for _ in range(5):
        loader.again()  # while the first load runs
    for done in range(4):
        assert begun.acquire(timeout=20)
        go.release()
        until(lambda done=done: len(told) == done)
        if done:
            loader.again()
    until(lambda: len(told) == 3)
    assert told == [False, False, True] and not stopped and loader.failure is None
    assert any("it is broken" in line for line in said) and any("worse" in line for line in said)


def test_a_first_load_that_fails_stops_the_server():
    stopped = threading.Event()

    def load() -> None:
        raise InputError("nothing is here")

    loader = Loader(load, print, stop=stopped.set, log=print)
    loader.start()
    assert stopped.wait(20) and "nothing is here" in str(loader.failure)


def test_a_closed_terminal_ends_the_server_and_a_signal_reloads(monkeypatch):
    main, terminal = os.openpty()
    reloads, ended = [], []
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        handle = hang_up_handler(lambda: reloads.append(1))
        monkeypatch.setattr(signal, "raise_signal", ended.append)
        handle()
        assert (reloads, ended) == ([1], [])
        os.close(main)
        handle()
        assert (reloads, ended) == ([1], [signal.SIGTERM])


def build(where: Path, name: str, texts: list[str], pooling: str) -> Path:
    """An index folder over texts by a tiny model of its own."""
    source = where / f"{name}.jsonl"
    source.write_text("".join(f'{{"_id": "{name}-{n}", "text": "{text}"}}\n' for n, text in enumerate(texts)))
    model = make_tiny_bert(where / f"model-{name}", pooling=pooling)
    runtime = Runtime(vectors=VectorStore(where / "vectors"))
    index_documents(source, folder=where / name, model=str(model), runtime=runtime)
    return where / name


@pytest.mark.slow
def test_under_load_index_and_model_change_together_and_no_request_fails(tmp_path):
    texts = list(TOPICS.values())
    first = build(tmp_path, "first", texts, "mean")
    second = build(tmp_path, "second", [f"{text} And more." for text in texts], "cls")
    shown = {"first": Index.open(first / "index").asker.ask(["mute the tv"]).vectors[0],
             "second": Index.open(second / "index").asker.ask(["mute the tv"]).vectors[0]}  # fmt: skip
    served = tmp_path / "served"
    shutil.copytree(first, served)
    failed, searched, embedded, stop = [], [], [], threading.Event()

    def client(kind: str) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while not stop.is_set():
                if kind == "search":
                    answer = http.post("/search", json={"query": ["mute the tv", "lamp"], "k": 3})
                else:
                    answer = http.post("/embed", json={"inputs": "mute the tv", "prompt_name": "query"})
                if answer.status_code != 200:
                    failed.append(answer.text)
                elif kind == "search":
                    names = {hit["passage_id"][:5] for one in answer.json()["results"] for hit in one["hits"]}
                    searched.append("+".join(sorted(names)))
                else:
                    vector = answer.json()[0]
                    embedded.append(max(shown, key=lambda name: float(shown[name] @ vector)))

    with running_server(served, "--engine", "torch") as server:
        threads = [threading.Thread(target=client, args=(kind,)) for kind in ("search", "embed")]
        for thread in threads:
            thread.start()
        until(lambda: len(searched) > 3 and len(embedded) > 3)
        for name in ("index", "embedfit.toml"):  # as `embedfit index` leaves a folder: whole files
            if (second / name).is_dir():
                shutil.copytree(second / name, served / f"new-{name}")
                os.rename(served / name, served / f"old-{name}")
                os.rename(served / f"new-{name}", served / name)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: searched[-1] == "secon" and embedded[-1] == "second")
        (served / "index" / "manifest.json").write_text("{}")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the old stays" in server.log.read_text())
        before = len(searched)
        until(lambda: len(searched) > before + 2)
        stop.set()
        for thread in threads:
            thread.join()
        counted = httpx.get(f"{server.url}/metrics").text
    assert not failed
    assert set(searched) == {"first", "secon"}, "no answer mixes two indexes"
    for seen in (searched, embedded):
        assert seen == sorted(seen), "once the new one answers, the old one does not"
    assert 'embedfit_reloads{result="done"} 1.0' in counted and 'embedfit_reloads{result="failed"} 1.0' in counted
