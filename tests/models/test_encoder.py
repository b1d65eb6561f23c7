"""Texts to vectors: those of sentence-transformers, whatever the batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from embedfit.errors import ModelError
from embedfit.models.architecture import Pooling
from embedfit.models.encoder import Encoder, load_backbone, load_base
from embedfit.models.layout.modules import pool
from embedfit.numerics.batching import pad
from tests.conftest import make_tiny_bert

TEXTS = ["how to mute the tv", "", "a", "The sound is off. " * 60, "how to mute the tv"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_never_changes_a_vector(pooling: str) -> None:
    hidden = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7, [1, 0, 0, 0, 0, 0, 0]])
    wide = torch.cat([hidden, torch.full((3, 4, 5), 1e3)], 1)
    wide_mask = torch.cat([mask, torch.zeros(3, 4, dtype=mask.dtype)], 1)
    assert_allclose(
        pool(hidden, mask, Pooling(modes=(pooling,))), pool(wide, wide_mask, Pooling(modes=(pooling,))), rtol=1e-6
    )
    if pooling == "mean":
        assert_allclose(pool(hidden, mask, Pooling(modes=(pooling,)))[0], hidden[0, :3].mean(0), rtol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, pooling: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder = make_tiny_bert(tmp_path / "model", pooling=pooling)
    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = Encoder.load(folder, precision="fp32")
    assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)
    assert_allclose(ours.encode(TEXTS, is_query=True), theirs.encode_query(TEXTS), atol=1e-5)
    assert np.abs(ours.encode(TEXTS) - ours.encode(TEXTS, is_query=True)).max() > 0.01


def test_minilm_gives_the_vectors_of_sentence_transformers(minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    ours, theirs = Encoder.load(minilm, precision="fp32").encode(TEXTS), SentenceTransformer(str(minilm), device="cpu")
    assert (ours * theirs.encode(TEXTS)).sum(1).min() > 0.99999


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_a_prompt_for_passages_is_put_before_them_under_any_of_its_names(tmp_path: Path, name: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder = make_tiny_bert(tmp_path / "model")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": {"query": "query: ", name: "passage: "}}))
    ours, theirs = Encoder.load(folder, precision="fp32"), SentenceTransformer(str(folder), device="cpu")
    assert ours.layout.document_instruction == "passage: "
    assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS, prompt_name=name), atol=1e-5)
    assert_allclose(ours.encode(TEXTS, is_query=True), theirs.encode_query(TEXTS), atol=1e-5)
    assert ours.token_ids(["tv"], is_query=None) == Encoder.load(make_tiny_bert(tmp_path / "plain")).token_ids(["tv"])


def test_a_batch_of_mixed_lengths_gives_the_vectors_of_single_texts(tiny_bert: Path) -> None:
    encoder = Encoder.load(tiny_bert, precision="fp32")
    together = encoder.encode(TEXTS)
    assert_allclose(together, np.concatenate([encoder.encode([text]) for text in TEXTS]), atol=1e-5)
    assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)


def test_token_ids_are_cut_and_keep_their_end(tiny_bert: Path) -> None:
    encoder = Encoder.load(tiny_bert, precision="fp32")
    (ids,) = encoder.token_ids(["the " * 500])
    assert len(ids) == 128
    assert ids[-1] == encoder.tokenizer.token_to_id("[SEP]")
    assert len(encoder.token_ids(["the " * 500], max_tokens=10)[0]) == 10


def test_weights_of_another_architecture_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ModelError, match="lacks 16 weights"):
        load_backbone(folder)
    (folder / "config.json").write_text(config.replace('"intermediate_size": 64', '"intermediate_size": 65'))
    with pytest.raises(ModelError, match=r"do not fit its config\.json: encoder"):
        load_backbone(folder)


def test_the_instruction_comes_from_the_user_then_the_folder(tiny_bert: Path) -> None:
    assert load_base(str(tiny_bert)).layout.query_instruction == "query: "
    assert load_base(str(tiny_bert), "").layout.query_instruction == ""
    assert load_base(str(tiny_bert), "find: ").layout.query_instruction == "find: "


def test_bge_gets_its_authors_instruction(tiny_bert: Path, tmp_path: Path) -> None:
    folder = make_tiny_bert(tmp_path / "bge-small-en-v1.5", instruction="")
    expected = "Represent this sentence for searching relevant passages: "
    assert load_base(str(folder)).layout.query_instruction == expected


def test_pad_fills_and_masks() -> None:
    ids, mask = pad([[5, 6], [7]], 9)
    assert ids.tolist() == [[5, 6], [7, 9]]
    assert mask.tolist() == [[1, 1], [1, 0]]


def test_a_machine_with_fast_bf16_encodes_in_fp32(tiny_bert, monkeypatch):
    """Vectors are those of sentence-transformers on every machine; a probe must not decide what they are."""
    monkeypatch.setattr("embedfit.numerics.machine.best_precision", lambda: "bf16")
    monkeypatch.setattr("embedfit.numerics.machine.device", lambda: torch.device("cpu"))
    encoder = Encoder.load(tiny_bert)
    assert encoder.precision == "fp32"
    alone = encoder.encode(["mute the tv"])
    beside = encoder.encode(["mute the tv", "a much longer text about the sound of the tv and what it is to mute it"])
    np.testing.assert_allclose(beside[0], alone[0], atol=1e-6)
