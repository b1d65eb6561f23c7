"""Fixtures shared by all tests: data, models, a user folder of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from embedfit.errors import ModelError
from embedfit.models.architecture import Architecture
from embedfit.models.folder import save_model
from embedfit.models.sources import resolve_model

# A slow machine is no failure: no test measures time.
settings.register_profile("embedfit", deadline=None, derandomize=True)
# `make test-all` draws other inputs each time, and so goes on looking.
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "embedfit"))

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real corpora, where they are."""
    folder = Path(os.environ.get("EMBEDFIT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the real corpora are not here (set EMBEDFIT_DATA)")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    try:
        return resolve_model("minilm")
    except ModelError as error:
        pytest.skip(f"MiniLM can't be had: {error.message}")


@pytest.fixture(autouse=True)
def _own_user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may touch the user's ledger or vectors."""
    monkeypatch.setenv("EMBEDFIT_HOME", str(tmp_path / "home"))


def make_tiny_bert(folder: Path, *, pooling: str = "cls", instruction: str = "query: ", seed: int = 0) -> Path:
    """A random BERT of 2 layers and 32 dimensions with a word-piece vocabulary, in the classic layout."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!:;-'\"()"
    words = ["the", "how", "what", "is", "to", "of", "and", "tv", "mute", "sound", "query", "passage"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *words]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    source = folder.with_name(folder.name + "-source")
    source.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(source / "tokenizer.json"))
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128,
        "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    (source / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]",
             "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "model_max_length": 128}
        )
    )  # fmt: skip
    (source / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than BERT's own start, so that different texts have clearly different vectors.
            if parameter.ndim > 1:
                parameter.copy_(torch.from_numpy(rng.normal(0, 0.3, parameter.shape).astype(np.float32)))
    layout = Architecture.plain(
        pooling=pooling,  # type: ignore[arg-type]
        max_tokens=128,
        hidden_size=32,
        prompts={"query": instruction} if instruction else {},
    )
    save_model(folder, model.state_dict(), base=source, layout=layout)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT, CLS pooling, with a query instruction: the layout of BGE."""
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")
