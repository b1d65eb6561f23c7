"""Model folders: read in both forms of sentence-transformers, written in the one that TEI boots."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from embedfit.errors import ModelError
from embedfit.models.folder import read_tensors, save_model
from embedfit.models.layout.reading import read_architecture


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_the_classic_layout_field_by_field(tiny_bert: Path) -> None:
    modules = json.loads((tiny_bert / "modules.json").read_text())
    assert [module["type"] for module in modules] == [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Normalize",
    ]
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    pooling = json.loads((tiny_bert / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 32
    assert pooling["pooling_mode_cls_token"] is True
    assert pooling["pooling_mode_mean_tokens"] is False
    assert json.loads((tiny_bert / "sentence_bert_config.json").read_text())["max_seq_length"] == 128
    own = json.loads((tiny_bert / "config_sentence_transformers.json").read_text())
    assert own["prompts"] == {"query": "query: ", "document": ""}
    assert own["similarity_fn_name"] == "cosine"


def test_a_folder_saved_by_sentence_transformers_6_reads_the_same(minilm: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(minilm), device="cpu").save(str(tmp_path / "new"))
    assert "pooling_mode" in (tmp_path / "new" / "1_Pooling" / "config.json").read_text()
    old, new = read_architecture(minilm), read_architecture(tmp_path / "new")
    assert new.modules == old.modules


def test_weights_outside_the_tensors_come_from_the_base(minilm: Path, tmp_path: Path) -> None:
    tensors = read_tensors(minilm)
    changed = {"embeddings.LayerNorm.bias": torch.full_like(tensors["embeddings.LayerNorm.bias"], 0.5)}
    save_model(tmp_path / "model", changed, base=minilm, layout=read_architecture(minilm))
    saved = read_tensors(tmp_path / "model")
    assert saved.keys() == tensors.keys()
    assert saved["embeddings.LayerNorm.bias"].unique().tolist() == [0.5]
    assert torch.equal(saved["pooler.dense.weight"], tensors["pooler.dense.weight"])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"config\.json is missing"),
        ("1_Pooling/config.json", r"config\.json is missing"),
        ("model.safetensors", r"has no model\.safetensors"),
    ],
)
def test_a_missing_file_is_named(tiny_bert: Path, tmp_path: Path, missing: str, message: str) -> None:
    folder = copy(tiny_bert, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        read_architecture(folder)


def test_a_pickle_is_named_and_not_read(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy(tiny_bert, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle and is not read"):
        read_architecture(folder)


def test_cut_weights_are_an_error(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy(tiny_bert, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged or cut off"):
        read_tensors(folder)
