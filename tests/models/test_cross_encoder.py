"""Cross-encoders: the scores that transformers and sentence-transformers give, and no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from embedfit.errors import ModelError
from embedfit.models.cross_encoder import CrossEncoder
from tests.models.tiny_reranker import make_tiny_reranker

PAIRS = [
    ("mute the tv", "the sound of the tv is off"),
    ("what is query", "passage " * 300),
    ("how", "to mute"),
    ("mute the tv", "the sound of the tv is off"),
    ("quartz " * 100, "of zebra, 12345"),
]


@pytest.fixture(scope="module")
def reranker(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_reranker(tiny_bert, tmp_path_factory.mktemp("models") / "tiny-reranker")


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedfit.models.cross_encoder.best_precision", lambda: "fp32")


@pytest.mark.usefixtures("exact")
def test_scores_are_those_of_transformers_one_pair_at_a_time(reranker: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(reranker).eval()
    tokenizer = AutoTokenizer.from_pretrained(reranker)
    with torch.inference_mode():
        expected = [
            torch.sigmoid(model(**tokenizer(*pair, return_tensors="pt", truncation=True, max_length=128)).logits)
            for pair in PAIRS
        ]
    scores = CrossEncoder.load(reranker).scores(PAIRS)
    np.testing.assert_allclose(scores, torch.cat(expected)[:, 0].numpy(), atol=2e-6)
    assert scores[0] == scores[3] and len(set(scores.tolist())) == 4


@pytest.mark.usefixtures("exact")
def test_scores_are_those_of_sentence_transformers(reranker: Path) -> None:
    oracle = pytest.importorskip("sentence_transformers")
    expected = oracle.CrossEncoder(str(reranker), device="cpu", max_length=128).predict(
        PAIRS, activation_fn=torch.nn.Sigmoid(), show_progress_bar=False
    )
    np.testing.assert_allclose(CrossEncoder.load(reranker).scores(PAIRS), expected, atol=2e-6)


def test_an_embedding_model_is_no_judge(tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match="no cross-encoder: its model gives 2 outputs"):
        CrossEncoder.load(tiny_bert)


def test_a_head_without_weights_is_not_made_up(reranker: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(reranker, tmp_path / "headless")
    tensors = {name: t for name, t in load_file(folder / "model.safetensors").items() if "classifier" not in name}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 2 weights of a cross-encoder, such as classifier"):
        CrossEncoder.load(folder)


def test_code_in_the_folder_is_not_run(reranker: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(reranker, tmp_path / "remote")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        CrossEncoder.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a complete model folder"):
        CrossEncoder.load(tmp_path)
