"""A server of a run or an index answers searches without loading torch or transformers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from embedfit.index.search import Index
from embedfit.serving.loading import encode_by_graphs
from embedfit.testing.server import running_server

QUERIES = ["how do I mute the tv", "bread", "a new bulb", "sound"]


@pytest.mark.parametrize("engine", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_search_loads_no_torch_and_finds_what_torch_finds(folder: Path, engine: str) -> None:
    index = Index.open(folder)
    with running_server(folder, "--engine", engine) as server:
        results = httpx.post(f"{server.url}/search", json={"query": QUERIES, "base": True}).json()["results"]
        reranked = httpx.post(f"{server.url}/rerank", json={"query": QUERIES[0], "texts": ["a lamp", "mute the tv"]})
        loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert reranked.status_code == 200, reranked.text
    for query, result in zip(QUERIES, results, strict=True):
        for hits, expected in ((result["hits"], index.search(query)), (result["base"], index.base.search(query))):
            assert [hit["passage_id"] for hit in hits] == [hit.passage_id for hit in expected]
            assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-3)
    assert "onnxruntime" in loaded or "openvino" in loaded
    assert "libtorch" not in loaded


def test_torch_stays_where_the_engine_is_torch_or_has_no_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, said = Index.open(folder), list[str]()
    encode_by_graphs(index, "torch", log=said.append)
    assert said == []
    monkeypatch.setattr("embedfit.models.local.LocalModel.precision", "bf16")
    encode_by_graphs(index, "onnx", log=said.append)
    assert len(said) == 2 and "torch" in said[1] and "bf16" in said[1]
    assert index.search(QUERIES[0])[0].passage_id.startswith("tv")
