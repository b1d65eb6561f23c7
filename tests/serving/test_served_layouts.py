"""Every engine's vectors of layouts of all kinds, not normalised, against sentence-transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from embedfit.models.architecture import Architecture
from embedfit.models.graphs.export import to_onnx, to_openvino
from embedfit.models.layout.modules import Head
from embedfit.models.layout.reading import read_architecture
from embedfit.models.tokenizer import open_tokenizer
from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.engine import Engine, batch_of
from embedfit.serving.engines.onnx_engine import OnnxEngine
from embedfit.serving.engines.openvino_engine import OpenVinoEngine
from embedfit.serving.engines.tokens import TextEncoder
from embedfit.serving.engines.torch_engine import TorchEngine
from tests.models.tiny_families import save_family, save_static, two_dense

TEXTS = ["How To mute the TV", "a", "The sound is off. " * 12, "naïve 東京 🙂"]
PROMPT = "Find: "


LAYOUTS = ("no norm, prompt not pooled", "two dense layers", "max and last token")
#: OpenVINO takes seconds to make a graph, so `make test` reads one layout by it.
CASES = [
    pytest.param(
        kind, name, marks=[pytest.mark.slow] if "two" in name or ("max" in name and kind == "openvino") else []
    )
    for name in LAYOUTS
    for kind in ("torch", "onnx", "openvino")
]


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("served") / "model"
    prompts = {"query": PROMPT}
    if request.param.startswith("no norm"):
        return save_family("bert", target, after=list, pooling_mode="mean", include_prompt=False, prompts=prompts)
    if request.param.startswith("two"):
        return save_family("distilbert", target, after=two_dense, prompts=prompts)
    return save_family("mpnet", target, pooling_mode=("max", "lasttoken"), prompts=prompts)


def engine_of(kind: str, folder: Path, layout: Architecture, work: Path) -> Engine:
    if kind == "torch":
        return TorchEngine.load(folder, layout=layout, precision="fp32", threads=1, device=torch.device("cpu"))
    head = Head.load(folder, layout)
    if kind == "onnx":
        return OnnxEngine(to_onnx(folder, work / "model.onnx"), head=head, precision="fp32", threads=1)
    return OpenVinoEngine.load(to_openvino(folder, work / "graph"), head=head, precision="fp32", threads=1, streams=1)


def served(engine: Engine, folder: Path, layout: Architecture, prompt: str) -> Vectors:
    tokenizer = open_tokenizer(folder, layout)
    encoder = TextEncoder(
        tokenizer.tokenizer,
        max_tokens=layout.max_tokens,
        prompts=layout.prompts,
        special=None if layout.pooling.include_prompt else tokenizer.special,
    )
    return engine.pooled(batch_of(encoder.encode(TEXTS, prompt=prompt), 0), 0)


@pytest.mark.parametrize(("kind", "folder"), CASES, indirect=["folder"])
def test_engines_give_sentence_transformers_raw_vectors_of_layouts(kind: str, folder: Path, tmp_path: Path) -> None:
    layout = read_architecture(folder)
    engine, theirs = engine_of(kind, folder, layout, tmp_path), SentenceTransformer(str(folder), device="cpu")
    for prompt in ("", PROMPT):
        expected = theirs.encode(TEXTS, prompt=prompt)
        np.testing.assert_allclose(served(engine, folder, layout, prompt), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "t5", "static"])
def test_the_torch_engine_runs_layouts_of_other_families(name: str, tmp_path: Path) -> None:
    folder = save_static(tmp_path / "model") if name == "static" else save_family(name, tmp_path / "model")
    layout = read_architecture(folder)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(
        served(engine_of("torch", folder, layout, tmp_path), folder, layout, ""), expected, atol=1e-5
    )


def test_graphs_of_layouts_with_few_positions_and_tokens(tmp_path: Path) -> None:
    """Smaller than the example that graphs are made from and the rows that they are checked on."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mute", "tv"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    folder = tmp_path / "model"
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=5,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), model_max_length=5).save_pretrained(folder)
    layout = read_architecture(folder)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    for kind in ("onnx", "openvino"):
        engine = engine_of(kind, folder, layout, tmp_path)
        np.testing.assert_allclose(served(engine, folder, layout, ""), expected, atol=1e-5)
