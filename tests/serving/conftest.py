"""An engine whose vectors are known, the application around it, and a real server process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedfit.commands.indexing import index_documents
from embedfit.index.search import Index
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime
from embedfit.serving.app import App
from embedfit.serving.engines.engine import PaddedRows, Vectors
from embedfit.serving.engines.tokens import TextEncoder
from embedfit.serving.scheduling.batcher import Batcher, Capacity
from embedfit.serving.search.searcher import Searcher
from embedfit.serving.service import Service
from embedfit.serving.settings import ServeSettings
from embedfit.testing.server import RunningServer, running_server

HIDDEN = 8


def known_vector(ids: list[int]) -> Vectors:
    """What the fake engine answers for a row: a function of its ids and their order."""
    positions = np.arange(1, len(ids) + 1)
    angles = np.outer(np.arange(1, HIDDEN + 1), np.array(ids) * positions % 101)
    return np.cos(angles).sum(1).astype(np.float32)


class FakeEngine:
    """Knows its vectors, remembers its batches, and runs only while its gate is open."""

    name, precision, device = "fake", "fp32", "cpu"

    def __init__(self, streams: int = 1) -> None:
        self.streams = streams
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.fail_with: Exception | None = None
        self.give_nan_for: int | None = None

    def pooled(self, batch: PaddedRows, stream: int) -> Vectors:
        lengths = batch.mask.sum(1)
        self.batches.append([int(length) for length in lengths])
        self.started.release()
        assert self.gate.wait(20)
        if self.fail_with is not None:
            raise self.fail_with
        rows = [known_vector(list(ids[:length])) for ids, length in zip(batch.ids, lengths, strict=True)]
        vectors = np.stack(rows)
        if self.give_nan_for is not None:
            vectors[(batch.ids == self.give_nan_for).any(1)] = np.nan
        return vectors

    def token_states(self, batch: PaddedRows, stream: int) -> Vectors:
        return np.repeat(batch.ids[:, :, None].astype(np.float32), HIDDEN, axis=2)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def make_batcher(engine: FakeEngine, *, budget: int = 64, overhead: int = 0, max_queue_tokens: int = 10_000) -> Batcher:
    return Batcher(
        engine=engine,
        pad_id=0,
        capacity=Capacity(budget=budget, overhead=overhead, tokens_per_second=1000.0),
        max_rows=1000,
        max_queue_tokens=max_queue_tokens,
    )


def make_app(engine: FakeEngine, folder: Path, **changes: object) -> App:
    settings = ServeSettings(**changes)  # type: ignore[arg-type]
    app = App(settings)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])  # as real tokenizers have them
    app.answers.service = Service(
        encoder=TextEncoder(
            tokenizer,
            max_tokens=32,
            prompts={"query": "query: "},
            default_prompt=settings.default_prompt or "",
        ),
        batcher=make_batcher(engine, budget=1024),
        hidden_size=HIDDEN,
        model_name="tiny",
        device="cpu",
        auto_truncate=settings.auto_truncate,
        info={"model_id": "tiny", "max_client_batch_size": settings.max_client_batch_size},
    )
    return app


@pytest.fixture(scope="session")
def server(tiny_bert: Path) -> Iterator[RunningServer]:
    """`embedfit serve` with the tiny BERT, in a process of its own."""
    with running_server(
        tiny_bert, "--engine", "openvino", "--precision", "fp32", "--header-timeout", "2", "--body-timeout", "2",
        "--served-model-name", "tiny",
    ) as running:  # fmt: skip
        yield running


TOPICS = {
    "tv": "Press the mute button to turn the sound of the tv off. Press it again to hear the tv.",
    "lamp": "The lamp in the hall has a switch at its base. A new bulb must have forty watts at most.",
    "oven": "Heat the oven for ten minutes before the bread goes in. The bread is done when it sounds hollow.",
}


def write_corpus(folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    rows = [{"_id": f"{name}-{n}", "title": name, "text": f"{text} Note {n}."} for n in range(4)
            for name, text in TOPICS.items()]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def folder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents and the folder of their index."""
    where = tmp_path_factory.mktemp("search")
    runtime = Runtime(vectors=VectorStore(where / "vectors"))
    index_documents(write_corpus(where), folder=where / "ix", model=str(tiny_bert), runtime=runtime)
    return where / "ix"


@pytest.fixture(scope="session")
def index(folder: Path) -> Index:
    return Index.open(folder / "index")


@pytest.fixture
def searcher(index: Index) -> Iterator[Searcher]:
    made = Searcher(index=index)
    yield made
    made.close()


def searching_app(searcher: Searcher, tiny_bert: Path, **changes: object) -> App:
    """The application around an index, with the page."""
    plain = make_app(FakeEngine(), tiny_bert, **changes)
    assert plain.answers.service is not None
    made = App(plain.settings, searches=True)
    made.answers.service = replace(plain.answers.service, searcher=searcher)
    return made
