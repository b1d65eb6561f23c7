"""Tiny random models of every family, saved by sentence-transformers itself in its real layout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

H = 32
_SMALL = {"hidden_size": H, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_DECODER = {**_SMALL, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128}
_BERT = {**_SMALL, "max_position_embeddings": 66}

#: transformers' configuration and model, the configuration's values, and the pooling that such models have.
FAMILIES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": ("BertConfig", "BertModel", _BERT, "cls"),
    "roberta": ("RobertaConfig", "RobertaModel", {**_BERT, "pad_token_id": 0}, "mean"),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", {**_BERT, "pad_token_id": 0}, "cls"),
    "mpnet": ("MPNetConfig", "MPNetModel", {**_BERT, "pad_token_id": 0}, "mean"),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {"dim": H, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64},
        "mean",
    ),
    "albert": ("AlbertConfig", "AlbertModel", {**_BERT, "embedding_size": 16}, "mean"),
    "electra": ("ElectraConfig", "ElectraModel", {**_BERT, "embedding_size": 16}, "cls"),
    "camembert": ("CamembertConfig", "CamembertModel", {**_BERT, "pad_token_id": 0}, "mean"),
    "deberta": (
        "DebertaConfig",
        "DebertaModel",
        {**_BERT, "relative_attention": True, "max_relative_positions": 16, "pos_att_type": ["c2p", "p2c"],
         "position_biased_input": False, "pad_token_id": 0},
        "cls",
    ),
    "deberta-v2": (
        "DebertaV2Config",
        "DebertaV2Model",
        {**_BERT, "relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"],
         "position_biased_input": False, "pad_token_id": 0},
        "mean",
    ),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertModel",
        {**_SMALL, "max_position_embeddings": 128, "global_attn_every_n_layers": 2, "local_attention": 16,
         "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
        "cls",
    ),
    "nomic_bert": ("NomicBertConfig", "NomicBertModel", {**_SMALL, "max_position_embeddings": 128}, "mean"),
    "t5": (
        "T5Config",
        "T5EncoderModel",
        {"d_model": H, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2},
        "mean",
    ),
    "mt5": (
        "MT5Config",
        "MT5EncoderModel",
        {"d_model": H, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2},
        "mean",
    ),
    "qwen2": ("Qwen2Config", "Qwen2Model", _DECODER, "lasttoken"),
    "qwen3": ("Qwen3Config", "Qwen3Model", _DECODER, "lasttoken"),
    "llama": ("LlamaConfig", "LlamaModel", _DECODER, "lasttoken"),
    "mistral": ("MistralConfig", "MistralModel", {**_DECODER, "sliding_window": None}, "lasttoken"),
    "mistral, bidirectional": (
        "MistralConfig",
        "MistralModel",
        {**_DECODER, "sliding_window": None, "is_causal": False},
        "mean",
    ),
    "gemma3_text": (
        "Gemma3TextConfig",
        "Gemma3TextModel",
        {**_DECODER, "use_bidirectional_attention": True, "sliding_window": 8, "pad_token_id": 0,
         "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16},
        "mean",
    ),
}  # fmt: skip


def make_tokenizer(*, template: str = "[CLS] $A [SEP]", padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Bytes as tokens, so that every text has some, and a few words. template: where the special tokens stand."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<|end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = [(token, vocabulary[token]) for token in special]
    if template != "$A":
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        eos_token="<|end|>", model_max_length=64, padding_side=padding_side,
    )  # fmt: skip


def save_family(
    name: str,
    folder: Path,
    *,
    after: Callable[[], list[torch.nn.Module]] | None = None,
    sizes: Mapping[str, int] | None = None,
    **changes: Any,
) -> Path:
    """Write a family's tiny model. after: the modules after the pooling. changes: of pooling and the whole model.

    sizes: values for those keys of the configuration that the family has, for a model that is not tiny.
    """
    config_name, model_name, values, mode = FAMILIES[name]
    values = {key: (sizes or {}).get(key, value) for key, value in values.items()}
    decoder = mode == "lasttoken"
    tokenizer = make_tokenizer(
        template="$A <|end|>" if decoder else "[CLS] $A [SEP]", padding_side="left" if decoder else "right"
    )
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(vocab_size=len(tokenizer), **values)
    model = getattr(transformers, model_name)(config)
    # Larger than usual, so that different texts have clearly different vectors; in a wide model 0.2 would make the last
    # bits of a sum visible in the vectors.
    spread = 0.2 if sizes is None else 0.05
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * spread)
    raw = folder.with_name(f"{folder.name}-raw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(raw)
        tokenizer.save_pretrained(raw)
        first = Transformer(str(raw), max_seq_length=changes.pop("max_seq_length", None))
        pooling = Pooling(
            first.get_embedding_dimension(),
            changes.pop("pooling_mode", mode),
            include_prompt=changes.pop("include_prompt", True),
        )
        modules = [first, pooling, *(after() if after is not None else [Normalize()])]
        SentenceTransformer(modules=modules, device="cpu", **changes).save(str(folder))
    return folder


def save_static(folder: Path) -> Path:
    """Write a static embedding with a norm."""
    torch.manual_seed(0)
    static = StaticEmbedding(make_tokenizer(template="[CLS] $A [SEP]"), embedding_dim=16)
    SentenceTransformer(modules=[static, Normalize()], device="cpu").save(str(folder))
    return folder


def two_dense(width: int = H) -> list[torch.nn.Module]:
    """EmbeddingGemma's shape: two linear layers without bias and activation, then a norm."""
    plain = torch.nn.Identity
    return [
        Dense(width, 48, bias=False, activation_function=plain()),
        Dense(48, 24, bias=False, activation_function=plain()),
        Normalize(),
    ]
