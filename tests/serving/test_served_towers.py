"""Models of two towers on the server: every engine and every route takes the right tower."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Router, Transformer

from embedfit.errors import ModelError, UsageError
from embedfit.integrations.langchain import EmbedfitServerEmbeddings
from embedfit.models.layout.modules import unit_rows
from embedfit.numerics.arrays import Vectors
from embedfit.serving.loading import load_service
from embedfit.serving.schemas import EmbedRequest
from embedfit.serving.service import Service
from embedfit.serving.settings import ServeSettings
from embedfit.testing.server import RunningServer, running_server
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_towers import save_mapped, save_tuned

TEXTS = ["How to mute the TV", "a", "The sound is off. " * 30, "naïve 東京 🙂"]


def mapped(root: Path, *, cut: bool = False) -> Path:
    base = make_tiny_bert(root / "base", pooling="mean")
    if cut:
        config = base / "config_sentence_transformers.json"
        config.write_text(config.read_text().replace("{", '{"truncate_dim": 8,', 1))
    return save_mapped(base, root)


def tuned(root: Path) -> Path:
    return save_tuned(make_tiny_bert(root / "base", pooling="mean"), root)


def of_others(root: Path) -> Path:
    """A Router as sentence-transformers saves it, without plain folders inside."""
    base = make_tiny_bert(root / "base", pooling="mean")
    towers = [[Transformer(str(base)), Pooling(32, "mean")] for _ in range(2)]
    torch.manual_seed(0)  # the same content in each run, because a tower of it stays in the cache
    towers[0].append(Dense(32, 32))
    model = SentenceTransformer(modules=[Router.for_query_document(*towers)], prompts={"query": "q: "}, device="cpu")
    model.save(str(root / "theirs"))
    return root / "theirs"


KINDS: dict[str, Callable[[Path], Path]] = {
    "mapped": mapped, "tuned": tuned, "of others": of_others, "mapped and cut": lambda root: mapped(root, cut=True)
}  # fmt: skip


def embedded(service: Service, prompt_name: str | None) -> Vectors:
    request = EmbedRequest.model_construct(
        inputs=TEXTS, prompt_name=prompt_name, normalize=False, dimensions=None, truncate=None,
        truncation_direction=None,
    )  # fmt: skip
    return asyncio.run(service.embed(request))[0]


# A graph takes a process of its own: each engine that reads graphs has one kind of folder.
@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        *(("torch", kind) for kind in KINDS),
        pytest.param("onnx", "mapped", marks=pytest.mark.slow),
        ("openvino", "tuned"),
    ],
)
def test_every_engine_serves_both_towers(engine: str, kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path)
    settings = ServeSettings(engine=engine, precision="fp32")  # type: ignore[arg-type]
    service = load_service(str(folder), settings, log=lambda _: None)
    theirs = SentenceTransformer(str(folder), device="cpu")
    expected = {"query": theirs.encode_query(TEXTS), "document": theirs.encode_document(TEXTS)}
    assert np.abs(expected["query"] - expected["document"]).max() > 1e-2
    try:
        for name, role in (("query", "query"), ("document", "document"), (None, "document"), ("", "document")):
            assert_allclose(embedded(service, name), expected[role], atol=2e-5)
        assert [line.split(":")[0] for line in service.info["modules"]][-1] == "queries"  # type: ignore[attr-defined]
    finally:
        service.close()


def test_a_map_shares_the_engine_and_a_default_prompt_names_the_tower(tmp_path: Path) -> None:
    settings = ServeSettings(engine="torch", precision="fp32", default_prompt_name="query")
    service = load_service(str(mapped(tmp_path)), settings, log=lambda _: None)
    try:
        assert service.queries is not None and len(service.batchers) == 1
        assert_allclose(embedded(service, None), embedded(service, "query"), atol=1e-6)
        assert np.abs(embedded(service, "document") - embedded(service, "query")).max() > 1e-2
    finally:
        service.close()


def test_int8_is_refused_where_its_quality_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two transformers"):
        load_service(str(tuned(tmp_path)), ServeSettings(precision="int8"), log=lambda _: None)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, SentenceTransformer]]:
    root = tmp_path_factory.mktemp("served")  # like MiniLM, the model puts nothing before queries
    folder = save_tuned(make_tiny_bert(root / "base", pooling="mean", instruction=""), root)
    with running_server(folder, "--engine", "openvino", "--precision", "fp32") as server:
        yield server, SentenceTransformer(str(folder), device="cpu")


def test_every_route_says_in_its_own_way_what_is_a_query(running: tuple[RunningServer, SentenceTransformer]) -> None:
    server, theirs = running
    queries, passages = theirs.encode_query(TEXTS), theirs.encode_document(TEXTS)
    for more, expected in (
        ({"prompt_name": "query"}, queries),
        ({"prompt_name": "document"}, passages),
        ({}, passages),
    ):
        for path in ("/embed", "/", "/invocations", "/endpoints/any/invocations"):
            found = httpx.post(f"{server.url}{path}", json={"inputs": TEXTS, **more}, timeout=60).json()
            assert_allclose(found, expected, atol=2e-5, err_msg=path)
        found = httpx.post(f"{server.url}/vertex", json={"instances": [{"inputs": TEXTS, **more}]}).json()
        assert_allclose(found["predictions"][0], expected, atol=2e-5)
        for path in ("/v1/embeddings", "/embeddings"):
            found = httpx.post(f"{server.url}{path}", json={"input": TEXTS, "model": "m", **more}).json()
            assert_allclose([row["embedding"] for row in found["data"]], expected, atol=2e-5)
    named = httpx.post(f"{server.url}/v1/embeddings", json={"input": TEXTS, "model": "m:query"}).json()
    assert_allclose([row["embedding"] for row in named["data"]], queries, atol=2e-5)
    names = [row["id"] for row in httpx.get(f"{server.url}/v1/models").json()["data"]]
    assert names == [names[0], f"{names[0]}:query"]
    client = EmbedfitServerEmbeddings(server.url)
    assert_allclose(client.embed_documents(TEXTS), unit_rows(passages), atol=2e-5)
    assert_allclose(client.embed_query(TEXTS[0]), unit_rows(queries[:1])[0], atol=2e-5)
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/info").json()["queries"] == {"prompt_name": "query", "shares_the_engine": False}


@pytest.mark.parametrize("kind", ["mapped", "tuned"])
def test_a_folder_with_other_golden_vectors_is_not_served(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path)
    golden = json.loads((folder / "embedfit.json").read_text())
    for one in golden["texts"]:  # as if the towers had been mixed up
        one["role"] = {"query": "document", "document": "query"}[one["role"]]
    (folder / "embedfit.json").write_text(json.dumps(golden))
    with pytest.raises(ModelError, match=r"DIFFER from those in embedfit\.json"):
        load_service(str(folder), ServeSettings(engine="torch", precision="fp32"), log=lambda _: None)


def test_clients_refuse_an_instruction_that_would_hide_what_is_a_query(
    running: tuple[RunningServer, SentenceTransformer],
) -> None:
    client = EmbedfitServerEmbeddings(running[0].url, query_instruction="find: ")
    with pytest.raises(UsageError, match="tells them apart by its own prompts"):
        client.embed_query("how to mute the tv")
    same = EmbedfitServerEmbeddings(running[0].url, query_instruction="")
    assert_allclose(same.embed_query(TEXTS[0]), unit_rows(running[1].encode_query(TEXTS[:1]))[0], atol=2e-5)
