"""An embedding model of a few kilobytes, made at random."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from embedfit.models.architecture import Architecture, PoolingMode
from embedfit.models.folder import save_model

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!:;-'\"()"
_WORDS = ("the", "how", "what", "is", "to", "of", "and", "tv", "mute", "sound", "query", "passage")
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "model_max_length": 128,
}


def make_tiny_bert(
    folder: Path,
    *,
    pooling: PoolingMode = "cls",
    instruction: str = "query: ",
    seed: int = 0,
    words: Sequence[str] = (),
) -> Path:
    """A random BERT of 2 layers and 32 dimensions, in the classic layout.

    words: a token each. Vectors depend more on the words than on their order, so that searches find something.
    """
    pieces = [*_LETTERS, *("##" + letter for letter in _LETTERS)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(words or _WORDS)]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    config = BertConfig(
        architectures=["BertModel"],
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    source = folder.with_name(folder.name + "-source")
    source.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(source / "tokenizer.json"))
    (source / "config.json").write_text(json.dumps(config.to_diff_dict()))
    (source / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER))
    (source / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(seed)
    model = BertModel(config, add_pooling_layer=False)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than BERT's own initial weights, so that different texts have clearly different vectors.
            deviation = 0.06 if words and "word_embeddings" not in name else 0.3
            if parameter.ndim > 1:
                parameter.copy_(torch.from_numpy(rng.normal(0, deviation, parameter.shape).astype(np.float32)))
    prompts = {"query": instruction} if instruction else {}
    layout = Architecture.plain(pooling=pooling, max_tokens=128, hidden_size=32, prompts=prompts)
    save_model(folder, model.state_dict(), base=source, layout=layout)
    return folder
