"""Every family, from its tiny model as sentence-transformers saves it to a tuned, merged, exported and served one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from embedfit.errors import ModelError
from embedfit.merging.mixtures import Store, WholeModels
from embedfit.models.encoder import Encoder
from embedfit.models.folder import save_model
from embedfit.models.graphs.export import to_onnx
from embedfit.models.layout.golden import check_golden
from embedfit.models.layout.modules import Head
from embedfit.models.layout.reading import read_architecture
from embedfit.models.local import LocalModel
from embedfit.models.tokenizer import open_tokenizer
from embedfit.numerics.batching import pad
from embedfit.runtime import Runtime
from embedfit.serving.engines.choice import candidates
from embedfit.serving.engines.engine import Engine, PaddedRows
from embedfit.serving.engines.onnx_engine import OnnxEngine
from embedfit.serving.engines.torch_engine import TorchEngine
from embedfit.serving.loading import load_service
from embedfit.serving.settings import ServeSettings
from embedfit.training.memory import MemoryBudget
from embedfit.training.optimise import make_optimiser, set_learning_rate
from embedfit.training.step import accumulate_gradients
from embedfit.training.trunk import Trunk
from tests.models.tiny_families import FAMILIES, save_family, save_static, two_dense

TEXTS = ["how to mute the tv", "a", " ", "The sound is off. " * 12, "Ｆｕｌｌ ẞ İ naïve 東京 🙂\u2028", "MUTE the TV"]
QUERY = "Instruct: Given a question, find passages\nQuery:"
#: One of each shape: absolute positions, alternating local attention, causal, sliding windows and two Dense, relative.
QUICK = ("bert", "modernbert", "qwen3", "gemma3_text", "t5")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
#: Those whose shape another family has too.
LIKE_OTHERS = ("roberta", "camembert", "electra", "mt5", "qwen2", "llama", "mistral")
#: Those of whose graphs ONNX Runtime gives other vectors, or which can't be traced.
WITHOUT_GRAPH = ("deberta", "gemma3_text")
RATE = 1e-3


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")

    @cache
    def saved(name: str) -> Path:
        after = two_dense if name == "gemma3_text" else None
        return save_family(name, root / name.replace(", ", "-"), after=after, prompts={"query": QUERY})

    return saved


@pytest.fixture(scope="session")
def tuned(family: Callable[[str], Path]) -> Callable[[str], Path]:
    """The family's model after three steps, saved by us. The steps are compared with those of plain transformers."""

    @cache
    def trained(name: str) -> Path:
        folder = family(name)
        encoder = Encoder.load(folder, precision="fp32")
        trunk, theirs = Trunk(encoder), SentenceTransformer(str(folder), device="cpu")
        ours = [np.array(ids, np.int32) for is_query in (True, False)
                for ids in encoder.token_ids(TEXTS, is_query=is_query)]  # fmt: skip
        plain = {name: p for name, p in theirs[0].model.named_parameters() if not name.startswith("pooler.")}
        assert plain.keys() == trunk.parameters().keys()
        optimisers = [make_optimiser(weights, 0.01) for weights in (trunk.parameters(), plain)]
        for _ in range(3):
            result = accumulate_gradients(
                trunk, ours, [np.arange(5), np.arange(5, len(ours))], contrast, memory=MemoryBudget(0)
            )
            loss = contrast(torch.cat([plain_vectors(theirs, QUERY), plain_vectors(theirs, "")]))
            loss.backward()
            assert result.loss == pytest.approx(float(loss.detach()), abs=1e-5)
            assert_same_gradients(trunk.parameters(), plain)
            for optimiser in optimisers:
                set_learning_rate(optimiser, RATE)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        target = folder.with_name(f"{folder.name}-tuned")
        save_model(target, trunk.tensors(), base=folder, layout=encoder.layout)
        return target

    return trained


def contrast(vectors: torch.Tensor) -> torch.Tensor:
    """InfoNCE of the texts as queries with the same texts as passages."""
    half = len(vectors) // 2
    return torch.nn.functional.cross_entropy(vectors[:half] @ vectors[half:].T / 0.05, torch.arange(half))


def plain_vectors(theirs: Any, prompt: str) -> torch.Tensor:
    """Unit vectors by sentence-transformers' own modules over transformers' model, padded as its tokenizer pads."""
    found = theirs(theirs.preprocess(TEXTS, prompt=prompt))["sentence_embedding"]
    return torch.nn.functional.normalize(found, dim=-1)


def assert_same_gradients(ours: Any, theirs: Any) -> None:
    largest = max(float(weight.grad.abs().max()) for weight in theirs.values() if weight.grad is not None)
    assert largest > 1e-3
    for name, weight in theirs.items():
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        assert_allclose(ours[name].grad, expected, atol=2e-5 * max(1.0, largest), rtol=1e-3, err_msg=name)


def assert_sentence_transformers_vectors(folder: Path) -> None:
    ours, theirs = Encoder.load(folder, precision="fp32"), SentenceTransformer(str(folder), device="cpu")
    assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=1e-5)
    query = theirs.encode(TEXTS, prompt=ours.layout.query_instruction)
    assert_allclose(ours.encode(TEXTS, is_query=True), query, atol=1e-5, rtol=1e-5)
    assert ours.layout.query_instruction == QUERY


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LIKE_OTHERS else name for name in FAMILIES],
)
def test_family_gives_sentence_transformers_vectors(name: str, family: Callable[[str], Path]) -> None:
    assert_sentence_transformers_vectors(family(name))
    encoder = Encoder.load(family(name), precision="fp32")
    vectors = encoder.encode(TEXTS)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    causal = name in ("qwen2", "qwen3", "llama", "mistral")
    assert encoder.layout.first.attention == ("causal" if causal else "bidirectional")


@pytest.mark.parametrize("name", EVERY)
def test_family_trains_like_plain_transformers_and_is_saved(name: str, tuned: Callable[[str], Path]) -> None:
    assert_sentence_transformers_vectors(tuned(name))


def save_half(base: Path, tuned: Path, merged: Path) -> None:
    """Write the mixture of two model folders in equal parts."""
    store = Store(LocalModel("base", base), Runtime(), merged.parent)
    WholeModels(store, tuned, tuned / "adapter").save(0.5, merged)


@pytest.mark.parametrize("name", EVERY)
def test_family_merges_halfway(
    name: str, family: Callable[[str], Path], tuned: Callable[[str], Path], tmp_path: Path
) -> None:
    base, other, merged = family(name), tuned(name), tmp_path / "merged"
    save_half(base, other, merged)
    assert_sentence_transformers_vectors(merged)
    ends = [load_file(folder / "model.safetensors") for folder in (base, other)]
    found = load_file(merged / "model.safetensors")
    assert found.keys() == ends[1].keys()
    for weight in ends[0]:
        if not weight.startswith("pooler."):  # of the base; nothing trains or reads it
            assert_allclose(found[weight], (ends[0][weight] + ends[1][weight]) / 2, atol=1e-6, err_msg=weight)
    encoder = Encoder.load(merged, precision="fp32")
    checked = check_golden(merged, encoder.layout, lambda texts, is_query: encoder.encode(texts, is_query=is_query))
    assert checked is not None and checked.same


@pytest.mark.parametrize("name", EVERY)
def test_family_is_exported_or_says_what_to_use(name: str, tuned: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tuned(name)
    if name in WITHOUT_GRAPH:
        with pytest.raises(ModelError, match=r"graphs of (DeBERTa|Gemma 3) ") as caught:
            to_onnx(folder, tmp_path / "model.onnx")
        assert "--engine torch" in caught.value.remedy
        return
    graph = to_onnx(folder, tmp_path / "model.onnx")
    head = Head.load(folder, read_architecture(folder))
    assert_engine_gives_the_vectors(OnnxEngine(graph, head=head, precision="fp32", threads=1), folder)


@pytest.mark.parametrize("name", EVERY)
def test_family_in_the_torch_engine(name: str, tuned: Callable[[str], Path]) -> None:
    folder = tuned(name)
    layout, where = read_architecture(folder), torch.device("cpu")
    engine = TorchEngine.load(folder, layout=layout, precision="fp32", threads=1, device=where)
    assert_engine_gives_the_vectors(engine, folder)


def assert_engine_gives_the_vectors(engine: Engine, folder: Path) -> None:
    layout = read_architecture(folder)
    rows = open_tokenizer(folder, layout).token_ids(TEXTS, layout.max_tokens)
    ids, mask = pad(rows, 0)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert_allclose(engine.pooled(PaddedRows(ids, mask), 0), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deberta", "deberta-v2", "nomic_bert", "t5", "qwen3", "gemma3_text"])
def test_family_is_served_by_the_engine_that_serve_chooses(name: str, tuned: Callable[[str], Path]) -> None:
    lines: list[str] = []
    service = load_service(str(tuned(name)), ServeSettings(), log=lines.append)
    engine = service.batcher.engine.name
    service.close()
    assert engine == ("torch" if name in WITHOUT_GRAPH else "openvino"), lines


def test_family_of_decoders_is_the_same_with_padding_on_either_side(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    left = family("qwen3")
    right = shutil.copytree(left, tmp_path / "right")
    path = right / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"padding_side": "left"', '"padding_side": "right"'))
    assert path.read_text() != (left / "tokenizer_config.json").read_text()
    ours = [Encoder.load(folder, precision="fp32").encode(TEXTS) for folder in (left, right)]
    theirs = [SentenceTransformer(str(folder), device="cpu").encode(TEXTS) for folder in (left, right)]
    for one in (ours[1], *theirs):
        assert_allclose(ours[0], one, atol=1e-5)
    encoder = Encoder.load(left, precision="fp32")
    end = encoder.tokenizer.token_to_id("<|end|>")
    cut, whole = encoder.token_ids(["x" * 500, "short"])
    assert cut[-1] == whole[-1] == end and len(cut) == encoder.layout.max_tokens


def test_family_of_bge_m3_keeps_its_other_heads_untouched(tmp_path: Path) -> None:
    base = save_family("xlm-roberta", tmp_path / "base", prompts={"query": QUERY})
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (base / name).write_bytes(b"no pickle at all: " + name.encode())
    encoder = Encoder.load(base, precision="fp32")
    tensors = {name: tensor * 1.01 for name, tensor in encoder.backbone.state_dict().items()}
    save_model(tmp_path / "tuned", tensors, base=base, layout=encoder.layout)
    save_half(base, tmp_path / "tuned", tmp_path / "merged")
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()
    assert_sentence_transformers_vectors(tmp_path / "merged")


def test_family_without_graphs_is_served_by_torch_and_says_so(family: Callable[[str], Path]) -> None:
    folder = family("gemma3_text")
    layout = read_architecture(folder)
    found = candidates(folder, layout, ServeSettings(), threads=1, gated=False)
    assert [one.name for one in found] == ["torch"]
    (asked, *_) = candidates(folder, layout, ServeSettings(engine="openvino"), threads=1, gated=False)
    with pytest.raises(ModelError, match="graphs of Gemma 3") as caught:
        asked.load()
    assert "--engine torch" in caught.value.remedy


def test_family_too_large_for_one_onnx_file_says_so(
    family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedfit.models.graphs.cache._LARGEST_ONNX", 1000)
    with pytest.raises(ModelError, match="one ONNX file holds") as caught:
        to_onnx(family("bert"), tmp_path / "model.onnx")
    assert "--engine openvino" in caught.value.remedy


def test_family_of_static_embeddings(tmp_path: Path) -> None:
    folder = save_static(tmp_path / "static")
    save_model(
        tmp_path / "other",
        {name: tensor * 2 for name, tensor in Encoder.load(folder, precision="fp32").backbone.state_dict().items()},
        base=folder,
        layout=read_architecture(folder),
    )
    save_half(folder, tmp_path / "other", tmp_path / "merged")
    ours, theirs = Encoder.load(tmp_path / "merged", precision="fp32"), SentenceTransformer(str(tmp_path / "merged"))
    texts = [text for text in TEXTS if text.strip()]
    assert_allclose(ours.encode(texts), theirs.encode(texts), atol=1e-6)
    assert_engine_gives_the_vectors(
        TorchEngine.load(
            folder, layout=read_architecture(folder), precision="fp32", threads=1, device=torch.device("cpu")
        ),
        folder,
    )
