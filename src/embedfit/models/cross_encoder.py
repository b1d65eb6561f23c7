"""Cross-encoders, which read a query and a passage together and give a score."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from embedfit.errors import ModelError, first_line
from embedfit.models.encoder import autocast
from embedfit.models.folder import read_module
from embedfit.models.layout.families import FAMILIES, Family
from embedfit.models.layout.files import tokenizer_window
from embedfit.models.layout.reading import NO_LIMIT
from embedfit.models.text_model import encoding_batches
from embedfit.models.tokenizer import plain_tokenizer
from embedfit.numerics.arrays import Scores, Tokens
from embedfit.numerics.batching import pad
from embedfit.numerics.machine import Precision, best_precision, device
from embedfit.progress import Reporter, Silent

#: Pairs that are tokenised at a time: a tokenizer's own form of a text is a hundred times its ids.
_CHUNK = 1024


class CrossEncoder:
    """A reranker's folder, loaded: a transformer with one output for a query and a passage."""

    def __init__(
        self, folder: Path, *, tokenizer: Tokenizer, model: torch.nn.Module, max_tokens: int, precision: Precision
    ) -> None:
        self.folder = folder
        self._tokenizer = tokenizer
        self._model = model
        self._precision: Precision = precision
        self._tokenizer.enable_truncation(max_tokens)
        config: Any = model.config
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._has_types = takes_types and getattr(config, "type_vocab_size", 0) > 1
        self._pad_id = int(config.pad_token_id or 0)

    @classmethod
    def load(cls, folder: Path) -> CrossEncoder:
        """Read a folder with config.json, tokenizer.json and model.safetensors; code in it is never run.

        Raises ModelError for a folder that is incomplete, or holds no cross-encoder.
        """
        try:
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder} is not a complete model folder: {first_line(error)}") from error
        if config.num_labels != 1:
            raise ModelError(
                f"{folder} is no cross-encoder: its model gives {config.num_labels} outputs for a pair, not one.",
                remedy="Name a reranker, such as cross-encoder/ms-marco-MiniLM-L6-v2.",
            )
        tensors = {name: tensor.float() for name, tensor in read_module(folder).items()}
        auto: Any = AutoModelForSequenceClassification
        try:
            model: torch.nn.Module = auto.from_config(config)
        except ValueError as error:
            raise ModelError(f"{folder} holds a {config.model_type}, which can't judge pairs.") from error
        missing = [name for name in model.state_dict() if name not in tensors and not name.endswith("position_ids")]
        if missing:
            raise ModelError(
                f"{folder}/model.safetensors lacks {len(missing)} weights of a cross-encoder, such as {missing[0]}.",
                remedy="Name a reranker, such as cross-encoder/ms-marco-MiniLM-L6-v2.",
            )
        try:
            model.load_state_dict(tensors, strict=False)
        except RuntimeError as error:
            raise ModelError(f"{folder}/model.safetensors does not fit its config.json: {error}") from error
        family = FAMILIES.get(config.model_type, Family(name=config.model_type))
        positions = family.usable_positions(config.to_dict()) or NO_LIMIT
        return cls(
            folder,
            tokenizer=plain_tokenizer(folder),
            model=model.eval().to(device()),
            max_tokens=min(tokenizer_window(folder) or positions, positions),
            precision=best_precision(),
        )

    def scores(
        self, pairs: Sequence[tuple[str, str]], *, report: Reporter | None = None, description: str = "judge"
    ) -> Scores:
        """Probabilities that the passage answers the query: (N,), in [0, 1]. Equal pairs are read once.

        pairs: (query, passage). Long pairs are cut, the longer of the two first.
        """
        distinct = list(dict.fromkeys(pairs))
        row_of = {pair: row for row, pair in enumerate(distinct)}
        ids, types = self._encode(distinct)
        scores = np.zeros(len(distinct), np.float32)
        with (report or Silent()).task(description, len(distinct), "pairs") as task:
            for batch in encoding_batches([len(row) for row in ids]):
                scores[batch] = self._forward([ids[row] for row in batch], [types[row] for row in batch])
                task.advance(len(batch))
        return scores[[row_of[pair] for pair in pairs]]

    def lengths(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[int], int]:
        """The tokens that are read of each pair, and how many pairs are cut."""
        encodings = self._tokenizer.encode_batch(list(pairs))
        return [len(one.ids) for one in encodings], sum(bool(one.overflowing) for one in encodings)

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[Tokens], list[Tokens]]:
        """Token ids and the part (0: query, 1: passage) of each token."""
        ids, types = [], []
        for start in range(0, len(pairs), _CHUNK):
            for encoding in self._tokenizer.encode_batch(list(pairs[start : start + _CHUNK])):
                ids.append(np.array(encoding.ids, np.int32))
                types.append(np.array(encoding.type_ids, np.int32))
        return ids, types

    @torch.inference_mode()
    def _forward(self, rows: list[Tokens], types: list[Tokens]) -> Scores:
        where = next(self._model.parameters()).device
        ids, mask = map(torch.from_numpy, pad(rows, self._pad_id))
        extra = {"token_type_ids": torch.from_numpy(pad(types, 0)[0]).to(where)} if self._has_types else {}
        with autocast(self._precision, where):
            logits = self._model(input_ids=ids.to(where), attention_mask=mask.to(where), **extra).logits
        result: Scores = torch.sigmoid(logits.float()[:, 0]).cpu().numpy()
        return result
