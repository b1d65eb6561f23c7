"""Every engine against sentence-transformers, on folders of both kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embedfit.models.graphs.export import to_onnx, to_openvino
from embedfit.models.layout.modules import Head, unit_rows
from embedfit.models.layout.reading import read_architecture
from embedfit.models.tokenizer import load_tokenizer
from embedfit.serving.engines.engine import Engine, batch_of
from embedfit.serving.engines.onnx_engine import OnnxEngine
from embedfit.serving.engines.openvino_engine import OpenVinoEngine
from embedfit.serving.engines.tokens import TextEncoder
from embedfit.serving.engines.torch_engine import TorchEngine
from tests.conftest import make_tiny_bert

TEXTS = ["mute", "how is the sound of the tv", "what? " * 100, "is 1984 a query, or a passage?", "the " * 20]
#: Least cosine with sentence-transformers, by precision.
LEAST = {"fp32": 0.99999, "bf16": 0.999, "int8": 0.99}


@pytest.fixture(scope="module", params=["cls", pytest.param("mean", marks=pytest.mark.slow)])
def folder(request, tmp_path_factory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp(request.param) / "model", pooling=request.param)


def sentence_transformers_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, show_progress_bar=False)


def vectors_of(engine: Engine, folder: Path, texts: list[str]) -> np.ndarray:
    layout = read_architecture(folder)
    encoder = TextEncoder(load_tokenizer(folder), max_tokens=layout.max_tokens, prompts={})
    return unit_rows(engine.pooled(batch_of(encoder.encode(texts), 0), 0))


@pytest.fixture(scope="module")
def graph(folder, tmp_path_factory) -> Path:
    return to_openvino(folder, tmp_path_factory.mktemp("graphs") / "graph")


@pytest.fixture(scope="module")
def expected(folder) -> np.ndarray:
    return sentence_transformers_vectors(folder, TEXTS)


def openvino_engine(folder: Path, precision: str, path: Path) -> OpenVinoEngine:
    head = Head.load(folder, read_architecture(folder))
    return OpenVinoEngine.load(path, head=head, precision=precision, threads=2, streams=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino(folder, graph, expected, precision):
    engine = openvino_engine(folder, precision, graph)
    cosines = (vectors_of(engine, folder, TEXTS) * expected).sum(1)
    assert cosines.min() > LEAST[precision]


def test_onnx(folder, expected, tmp_path):
    path = to_onnx(folder, tmp_path / "model.onnx")
    engine = OnnxEngine(path, head=Head.load(folder, read_architecture(folder)), precision="fp32", threads=2)
    assert (vectors_of(engine, folder, TEXTS) * expected).sum(1).min() > LEAST["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch(folder, expected, precision):
    engine = TorchEngine.load(
        folder, layout=read_architecture(folder), precision=precision, threads=2, device=torch.device("cpu")
    )
    assert (vectors_of(engine, folder, TEXTS) * expected).sum(1).min() > LEAST[precision]


def test_a_rows_vector_does_not_depend_on_its_batch(folder, graph):
    engine = openvino_engine(folder, "fp32", graph)
    together = vectors_of(engine, folder, TEXTS)
    alone = np.concatenate([vectors_of(engine, folder, [text]) for text in TEXTS])
    assert (together * alone).sum(1).min() > 0.99999


def test_token_states_are_the_transformers(folder, graph):
    engine = openvino_engine(folder, "fp32", graph)
    batch = batch_of([[2, 70, 3], [2, 80, 81, 82, 3]], 0)
    reference = TorchEngine.load(
        folder, layout=read_architecture(folder), precision="fp32", threads=2, device=torch.device("cpu")
    )
    real = batch.mask.astype(bool)
    found, expected = engine.token_states(batch, 0), reference.token_states(batch, 0)
    np.testing.assert_allclose(found[real], expected[real], atol=2e-4)


def test_the_onnx_file_is_what_tei_reads(tiny_bert, tmp_path):
    """TEI's ONNX backend binds these names, and reads the hidden states by this one."""
    import onnx

    graph = onnx.load(to_onnx(tiny_bert, tmp_path / "onnx" / "model.onnx")).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [value.name for value in graph.output] == ["last_hidden_state"]
    for value in graph.input:
        assert [axis.dim_param for axis in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    assert {initializer.data_location for initializer in graph.initializer} == {0}  # one file, no weights beside it


def test_an_export_that_differs_is_not_kept(tiny_bert, tmp_path, monkeypatch):
    from embedfit.errors import ModelError
    from embedfit.models.graphs import export

    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differs"):
        to_onnx(tiny_bert, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_minilm_in_openvino_on_human_queries_and_manual_pages(minilm, data_dir, tmp_path, precision):
    texts = [
        json.loads(line)["text"]
        for name in ("queries.jsonl", "corpus.jsonl")
        for line in (data_dir / "emanual" / name).read_text("utf-8").splitlines()[:64]
    ]
    engine = openvino_engine(minilm, precision, to_openvino(minilm, tmp_path / "graph"))
    expected = sentence_transformers_vectors(minilm, texts)
    least = {"fp32": 0.99999, "bf16": 0.999, "int8": 0.995}[precision]
    assert (vectors_of(engine, minilm, texts) * expected).sum(1).min() > least


@pytest.mark.skipif(sys.platform == "win32", reason="the processes are made by fork")
def test_two_streams_may_run_for_the_first_time_at_the_same_moment() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.first_inference", "15"], capture_output=True, text=True, timeout=400
    )
    assert done.stdout.strip() == "0", done.stdout + done.stderr
