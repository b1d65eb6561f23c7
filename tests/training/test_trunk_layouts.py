"""Trunks of layouts beyond BERT: their vectors are the encoder's, and gradients reach every weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedfit.config import TrainConfig
from embedfit.errors import TrainingError
from embedfit.models.encoder import Encoder
from embedfit.models.layout.reading import read_architecture
from embedfit.training.trunk import Trunk, check_trainable
from tests.models.tiny_families import save_family, save_static, two_dense
from tests.models.tiny_towers import save_mapped

TEXTS = ["how to mute the tv", "a", "The sound is off. " * 12]


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert", "qwen3", "gemma3_text"])
def test_trunks_of_layouts_give_the_encoders_vectors_and_gradients(name: str, tmp_path: Path) -> None:
    after = two_dense if name in ("bert", "gemma3_text") else None
    encoder = Encoder.load(save_family(name, tmp_path / "model", after=after), precision="fp32")
    expected = encoder.encode_unit(TEXTS)
    trunk = Trunk(encoder)
    assert trunk.width == encoder.layout.width == expected.shape[1]
    tokens = [np.array(ids, np.int32) for ids in encoder.token_ids(TEXTS)]
    vectors = trunk.forward(tokens)
    np.testing.assert_allclose(vectors.detach().numpy(), expected, atol=1e-5)
    (vectors @ torch.randn(vectors.shape[1], generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in trunk.parameters().values())


def test_layouts_that_can_not_be_trained_say_so_and_a_map_fits_them(tmp_path: Path) -> None:
    folders = {
        "static embeddings": save_static(tmp_path / "static"),
        "include_prompt": save_family("bert", tmp_path / "model", include_prompt=False, prompts={"query": "q: "}),
        "a tower for queries": save_mapped(save_family("bert", tmp_path / "base"), tmp_path),
    }
    for why, folder in folders.items():
        layout = read_architecture(folder)
        with pytest.raises(TrainingError, match=why) as error:
            check_trainable(layout, str(folder), TrainConfig())
        assert "train.tune=map" in str(error.value.remedy)
        check_trainable(layout, str(folder), TrainConfig(loss="corpus-distil", tune="map"))
    check_trainable(layout, str(folder), TrainConfig(loss="corpus-distil", tune="query"))  # the model of two towers
