"""The check that two models began as the same model, so that their weights mean the same and may be merged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from embedfit.errors import ModelError
from embedfit.models.architecture import Architecture, Dense, Module, Transformer
from embedfit.models.layout.files import read_json
from embedfit.models.layout.reading import read_architecture
from embedfit.models.tokenizer import open_tokenizer

#: Keys of config.json about files and training. Every other key decides the meaning of the weights.
_BOOKKEEPING = {
    "_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "gradient_checkpointing", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
    "initializer_range", "id2label", "label2id", "problem_type", "finetuning_task", "attention_dropout", "dropout",
    "seq_classif_dropout", "qa_dropout", "_attn_implementation", "classifier_pooling",
}  # fmt: skip


def check_alike(first: Path, other: Path) -> None:
    """Raise ModelError unless two model folders share their modules, the shape of the transformer and the tokenizer."""
    one, two = read_architecture(first), read_architecture(other)
    if _kinds(one) != _kinds(two):
        _refuse(first, other, f"their modules differ: {'; '.join(one.describe())} and {'; '.join(two.describe())}")
    if isinstance(one.first, Transformer):
        pairs = ((first, one), (other, two))
        configs = [read_json(folder / layout.first.path / "config.json") for folder, layout in pairs]
        for key in sorted((configs[0].keys() & configs[1].keys()) - _BOOKKEEPING):
            if configs[0][key] != configs[1][key]:
                _refuse(first, other, f"{key} in config.json is {configs[0][key]!r} in one and {configs[1][key]!r}")
    (words, parts), (other_words, other_parts) = _tokenizer(first, one), _tokenizer(other, two)
    odd = sorted(words.items() ^ other_words.items())
    if odd:
        token, number = odd[0]
        _refuse(first, other, f"their tokenizers differ: only one has the token {token!r} with the id {number}")
    for part, value in parts.items():
        if value != other_parts[part]:
            _refuse(first, other, f"their tokenizers differ in the {part}")


def _kinds(layout: Architecture) -> list[Module]:
    """The modules without their folders and without the length of text that they read."""
    kinds: list[Module] = []
    for module in layout.modules:
        if isinstance(module, Transformer):
            kinds.append(replace(module, path="", max_tokens=0))
        else:
            kinds.append(replace(module, path="") if isinstance(module, Dense) else module)
    return kinds


def _tokenizer(folder: Path, layout: Architecture) -> tuple[dict[str, int], dict[str, object]]:
    """The vocabulary of a folder's tokenizer, and the other parts that decide its ids."""
    tokenizer = open_tokenizer(folder, layout).tokenizer
    stored = json.loads(tokenizer.to_str())
    parts = ("normalizer", "pre_tokenizer", "post_processor", "added_tokens")
    return tokenizer.get_vocab(with_added_tokens=True), {part: stored[part] for part in parts}


def _refuse(first: Path, other: Path, why: str) -> None:
    raise ModelError(
        f"{first} and {other} can't be merged: {why}.",
        remedy="Merge models that were trained from the same base.",
    )
