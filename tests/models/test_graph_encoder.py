"""A graph gives the vectors that torch gives: of texts, of queries and of their tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embedfit.errors import ModelError
from embedfit.index.tokens import TokenReader
from embedfit.models.graphs import cache, export
from embedfit.models.graphs.encoder import GraphKind
from embedfit.models.layout.golden import golden_texts
from embedfit.models.local import LocalModel
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_towers import SHAPES

KINDS: tuple[GraphKind, ...] = ("onnx", "openvino")
TEXTS = ["mute", *golden_texts(), "what? " * 100, ""]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Graphs are made in this process, into a cache of their own: another process would load torch once more."""
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path / "cache"))

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "embedfit.models.graphs.export"]
        export._main(*command[3:])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(cache.subprocess, "run", run)


def check_same(folder: Path, kind: GraphKind) -> None:
    by_torch, by_graph = LocalModel("tiny", folder), LocalModel("tiny", folder)
    by_graph.use_graphs(kind, tokens=True)
    for is_query in (False, True):
        wanted, ours = (one.tower(is_query=is_query).text_model() for one in (by_torch, by_graph))
        assert type(wanted) is not type(ours)
        texts = [text for text in TEXTS if wanted.token_ids([text], is_query=is_query)[0]]
        expected = wanted.encode(texts, is_query=is_query)
        np.testing.assert_allclose(ours.encode(texts, is_query=is_query), expected, atol=1e-4 * np.abs(expected).max())
        rows = wanted.token_ids(texts, is_query=is_query)
        assert rows == ours.token_ids(texts, is_query=is_query)
        (whole, tokens), (own, found) = (one.texts_and_tokens(rows, is_query=is_query) for one in (wanted, ours))
        np.testing.assert_allclose(own, whole, atol=1e-4)
        assert [one.shape for one in found] == [one.shape for one in tokens]
        for one, other in zip(found, tokens, strict=True):
            np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), atol=1e-3)
    assert by_torch.key == by_graph.key
    assert by_graph._encoder is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_the_vectors_of_torch(tiny_bert: Path, kind: GraphKind) -> None:
    check_same(tiny_bert, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_graphs_of_two_towers_give_the_vectors_of_torch(tmp_path: Path, shape: str, kind: GraphKind) -> None:
    check_same(SHAPES[shape](make_tiny_bert(tmp_path / "base", pooling="mean"), tmp_path), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_whose_token_vectors_differ_is_made_without_them(
    tiny_bert: Path, kind: GraphKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's engine still has its graph, and late interaction keeps torch."""
    monkeypatch.setattr(export, "inner_layer", lambda states: 0)
    model = LocalModel("tiny", tiny_bert)
    with pytest.raises(ModelError, match="late interaction"):
        model.use_graphs(kind, tokens=True)
    assert model.text_model() is model.encoder()
    model.use_graphs(kind, tokens=False)
    assert model.text_model() is not model.encoder()


def test_a_model_that_encodes_in_another_precision_keeps_torch(tiny_bert: Path) -> None:
    model = LocalModel("tiny", tiny_bert)
    model._precision = "bf16"
    with pytest.raises(ModelError, match="bf16"):
        model.use_graphs("onnx", tokens=False)


def test_tokens_are_read_alike_without_an_instruction(tiny_bert: Path) -> None:
    """A query's own tokens: without its instruction and without special ones."""
    model = LocalModel("tiny", tiny_bert)
    expected = TokenReader(model.text_model())
    lengths, rows = expected.beginnings(["mute the tv", "a"])
    model.use_graphs("onnx", tokens=True)
    found = TokenReader(model.text_model()).beginnings(["mute the tv", "a"])
    assert found[0] == lengths
    for one, other in zip(found[1], rows, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert torch.is_inference_mode_enabled() is False
