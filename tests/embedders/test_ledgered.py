"""A server that bills: every vector is a call in the ledger, with consent and within --max-cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from embedfit.embedders.ledgered import LedgeredEmbedder, ledgered
from embedfit.embedders.openai import EMBEDDER, openai
from embedfit.embedders.registry import Opening, Spec, open_embedder
from embedfit.errors import BudgetExceeded, ProviderError, UsageError
from embedfit.llm.ledger import Ledger
from embedfit.runtime import Runtime

URL, MODEL = "https://api.openai.com/v1", "text-embedding-3-small"
TEXTS = [f"passage {number}" for number in range(300)]


class Server:
    """Answers with vectors of the texts' letters. stop_after: requests until it answers `last` instead."""

    def __init__(self, stop_after: int = 10**6, last: Callable[[], httpx.Response] | None = None) -> None:
        self.texts: list[str] = []
        self.requests, self.stop_after, self.last = 0, stop_after, last

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.requests > self.stop_after and self.last is not None:
            return self.last()
        texts = json.loads(request.content)["input"]
        self.texts += texts
        data = [{"index": number, "embedding": vector_of(text).tolist()} for number, text in enumerate(texts)]
        return httpx.Response(200, json={"data": data})


def vector_of(text: str) -> np.ndarray:
    return np.bincount(np.frombuffer(text.encode(), np.uint8) % 16, minlength=16).astype(np.float32)


def unit(texts: list[str]) -> np.ndarray:
    rows = np.stack([vector_of(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that opens the embedder of a server, with the test's ledger."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    made: list[LedgeredEmbedder] = []

    def make(
        server: Server, *, yes: bool = True, max_cost: float | None = None, model: str = MODEL
    ) -> LedgeredEmbedder:
        runtime = Runtime(ledger=tmp_path / "ledger.sqlite", confirm=lambda question: yes)
        embedder = openai(URL, model, query_instruction="query: ", transport=httpx.MockTransport(server))
        made.append(ledgered(embedder, model, Opening(runtime=runtime, max_cost=max_cost, run="run"), url=URL))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_vector_is_paid_for_once(opened, tmp_path: Path) -> None:
    server = Server()
    first = opened(server).embed([*TEXTS, TEXTS[0]], is_query=False)
    np.testing.assert_allclose(first, unit([*TEXTS, TEXTS[0]]), atol=1e-6)
    assert sorted(server.texts) == sorted(TEXTS)
    again = opened(server, yes=False)  # nothing is asked, for nothing costs anything
    np.testing.assert_array_equal(again.embed(TEXTS, is_query=False), first[:-1])
    assert again.usage.calls == len(TEXTS) and again.usage.usd > 0 and len(server.texts) == len(TEXTS)
    np.testing.assert_allclose(
        opened(server).embed(TEXTS[:2], is_query=True), unit(["query: passage 0", "query: passage 1"])
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert sum(one.calls for one in ledger.totals()) == len(TEXTS) + 2


def test_no_texts_cost_nothing(opened) -> None:
    server = Server()
    assert opened(server, yes=False).embed([], is_query=False).shape == (0, 0) and not server.requests


def test_nothing_is_sent_without_consent(opened) -> None:
    server = Server()
    with pytest.raises(UsageError, match="not confirmed"):
        opened(server, yes=False).embed(TEXTS, is_query=False)
    assert not server.requests


def interrupted() -> httpx.Response:
    raise KeyboardInterrupt


def test_what_was_paid_before_an_end_is_not_paid_again(opened) -> None:
    server = Server(stop_after=4, last=interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(server).embed(TEXTS, is_query=False)
    had = set(server.texts)
    assert 0 < len(had) < len(TEXTS)
    after = Server()
    np.testing.assert_allclose(opened(after).embed(TEXTS, is_query=False), unit(TEXTS), atol=1e-6)
    assert len(had & set(after.texts)) <= 128  # what was on its way when it ended


def test_a_refusal_names_the_text_and_holds_no_key(opened) -> None:
    server = Server(stop_after=0, last=lambda: httpx.Response(401, json={"error": {"message": "no sk-secret"}}))
    with pytest.raises(ProviderError, match=r"gave no vector for text \d+ of 300") as caught:
        opened(server).embed(TEXTS, is_query=False)
    assert "sk-secret" not in str(caught.value) and not server.texts


def test_max_cost_is_kept_and_needs_a_price(opened) -> None:
    server = Server()
    with pytest.raises(BudgetExceeded, match="max-cost"):
        opened(server, max_cost=1e-5).embed(TEXTS, is_query=False)
    assert 0 < len(server.texts) < len(TEXTS)
    with pytest.raises(UsageError, match="No price is known"):
        opened(server, max_cost=1.0, model="unknown")


def test_only_addresses_outside_are_booked(tmp_path: Path) -> None:
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite")
    outside, inside = f"openai:{URL}#{MODEL}", "openai:http://127.0.0.1:1/v1#m"
    paid = open_embedder(outside, runtime)
    assert isinstance(paid, LedgeredEmbedder) and paid.storage == "own"
    paid.close()
    for free in (open_embedder(inside, runtime), open_embedder(outside, runtime, passes_on=True)):
        assert free.storage == "probed"
    opening = Opening(runtime=runtime, passes_on=True)
    spec = Spec(name=outside, kind="openai", target=f"{URL}#{MODEL}", instruction=None)
    assert EMBEDDER.open(spec, opening).storage == "probed"
