"""Real embedfit servers of a tiny model and of an index, and SageMaker's runtime in front of the first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import embedfit
from embedfit.models.encoder import Encoder
from embedfit.models.store.vectors import VectorStore
from embedfit.testing.sagemaker_runtime import FakeRuntime, serve
from embedfit.testing.server import running_server

ROWS = [
    {"_id": f"{topic}-{n}", "title": topic, "text": f"{text} Note {n}.", "lang": "de" if n % 2 else "en",
     "year": 2020 + n, "groups": ["all"] if n else ["hr", "it"], "date": f"2024-0{n + 1}-01", "score": "of the author"}
    for n in range(4)
    for topic, text in {
        "tv": "Press the mute button to turn the sound of the tv off. Press it again to hear the tv.",
        "lamp": "The lamp in the hall has a switch at its base. A new bulb must have forty watts at most.",
        "oven": "Heat the oven for ten minutes before the bread goes in.",
    }.items()
]  # fmt: skip
ACCESS = """
[[keys]]
name = "all"
env = "ALL_KEY"
everything = true
[[keys]]
name = "de"
env = "DE_KEY"
filter = { lang = "de" }
"""


@dataclass(frozen=True)
class Place:
    """An index and the address of a server that serves it."""

    folder: Path
    index: embedfit.Index
    url: str


@pytest.fixture(scope="session")
def place(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    where = tmp_path_factory.mktemp("retrievers")
    (where / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (where / "keys.toml").write_text(ACCESS)
    runtime = embedfit.Runtime(vectors=VectorStore(where / "vectors"))
    index = embedfit.index_documents(where / "corpus.jsonl", folder=where / "ix", model=str(tiny_bert), runtime=runtime)
    keys = {"ALL_KEY": "all-key", "DE_KEY": "de-key"}
    with running_server(
        where / "ix", "--access", str(where / "keys.toml"), "--mcp", "http", "--engine", "torch", environment=keys
    ) as server:
        yield Place(where / "ix", index, server.url)


@pytest.fixture(scope="session")
def server_url(tiny_bert: Path) -> Iterator[str]:
    with running_server(tiny_bert, "--engine", "torch", "--max-client-batch-size", "8") as server:
        yield server.url


@pytest.fixture(scope="session")
def runtime(server_url: str) -> FakeRuntime:
    return FakeRuntime(server=server_url, exists=lambda name: name == "up")


@pytest.fixture(scope="session")
def runtime_client(runtime: FakeRuntime) -> Iterator[Any]:
    """A real boto3 client on the fake runtime."""
    import boto3

    with serve(runtime) as url:
        session = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1")
        yield session.client("sagemaker-runtime", endpoint_url=url)


@pytest.fixture(scope="session")
def local(tiny_bert: Path) -> Encoder:
    return Encoder.load(tiny_bert, precision="fp32")
