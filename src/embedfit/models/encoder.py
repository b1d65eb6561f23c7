"""Texts to unit vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

from embedfit.errors import ModelError
from embedfit.models.hardware import Precision, best_precision, device
from embedfit.models.layout import Layout, Pooling, read_layout, read_tensors
from embedfit.models.sources import default_query_instruction, resolve_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.progress import Reporter, Silent

Vectors = npt.NDArray[np.float32]


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Sentence vectors. hidden: (B, L, H); mask: (B, L), 1 for tokens and 0 for padding; returns (B, H)."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def tokens_per_batch() -> int:
    """Padded tokens that are encoded at a time: they fill the machine and fit into its memory."""
    return 16_384 if device().type == "cpu" else 131_072


def batches_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices grouped so that rows × longest ≤ budget, longest first, so that the first batch is the largest.

    A single text over the budget is a batch of its own.
    """
    batch: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch = []
        if not batch:
            longest = max(lengths[index], 1)
        batch.append(index)
    if batch:
        yield batch


def load_backbone(folder: Path) -> torch.nn.Module:
    """The bare transformer of a model folder with its weights in fp32, in evaluation mode."""
    config = AutoConfig.from_pretrained(folder)
    tensors = {name.removeprefix("bert."): tensor.float() for name, tensor in read_tensors(folder).items()}
    pooler = {"add_pooling_layer": False} if config.model_type in ("bert", "roberta", "xlm-roberta") else {}
    auto: Any = AutoModel  # its from_config has no annotations
    model: torch.nn.Module = auto.from_config(config, attn_implementation="sdpa", **pooler)
    own = model.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith("position_ids")]
    if missing:
        raise ModelError(
            f"{folder}/model.safetensors lacks {len(missing)} weights of a {config.model_type}, such as {missing[0]}.",
            remedy="The folder holds weights of another architecture than its config.json says.",
        )
    try:
        model.load_state_dict({name: tensor for name, tensor in tensors.items() if name in own}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{folder}/model.safetensors does not fit its config.json: {error}") from error
    return model.eval()


class Encoder:
    """A model folder, loaded: its tokenizer, its transformer and its layout.

    encode() gives the vectors that sentence-transformers gives for the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        layout: Layout,
        tokenizer: Tokenizer,
        backbone: torch.nn.Module,
        precision: Precision,
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.tokenizer = tokenizer
        self.backbone = backbone
        self.precision = precision

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        precision: Precision | Literal["auto"] = "auto",
        query_instruction: str | None = None,
    ) -> Encoder:
        """Read a folder. query_instruction: instead of the one that the folder holds.

        Raises ModelError for a folder that is not whole.
        """
        layout = read_layout(folder)
        if query_instruction is not None:
            layout = with_query_instruction(layout, query_instruction)
        chosen: Precision = best_precision() if precision == "auto" else precision
        backbone = load_backbone(folder).to(device())
        return cls(folder, layout=layout, tokenizer=load_tokenizer(folder), backbone=backbone, precision=chosen)

    def token_ids(self, texts: Sequence[str], *, is_query: bool | None = False, max_tokens: int = 0) -> list[list[int]]:
        """Token ids with special tokens, cut to max_tokens (0: the window), after the layout's instruction.

        is_query: None for texts that already hold what comes before them.
        """
        instructions = {True: self.layout.query_instruction, False: self.layout.document_instruction, None: ""}
        if instructions[is_query]:
            texts = [instructions[is_query] + text for text in texts]
        limit = min(max_tokens or self.layout.max_tokens, self.layout.max_tokens)
        tokenizer = self.tokenizer
        tokenizer.enable_truncation(limit)
        try:
            return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
        finally:
            tokenizer.no_truncation()

    def encode(
        self,
        texts: Sequence[str],
        *,
        is_query: bool = False,
        report: Reporter | None = None,
        description: str = "encode",
    ) -> Vectors:
        """Vectors of texts: (N, H) float32, unit rows. Equal texts are encoded once."""
        distinct = list(dict.fromkeys(texts))
        row_of = {text: row for row, text in enumerate(distinct)}
        vectors = np.zeros((len(distinct), self.layout.hidden_size), np.float32)
        ids = self.token_ids(distinct, is_query=is_query)
        budget = tokens_per_batch()
        with (report or Silent()).task(description, len(distinct), "texts") as task:
            for batch in batches_by_tokens([len(row) for row in ids], budget):
                vectors[batch] = self._forward([ids[index] for index in batch])
                task.advance(len(batch))
        return vectors[[row_of[text] for text in texts]]

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> Vectors:
        output, mask = self.run(rows)
        vectors = pool(output.last_hidden_state.float(), mask, self.layout.pooling)
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
        result: Vectors = vectors.cpu().numpy()
        return result

    def run(self, rows: Sequence[Sequence[int]], *, all_layers: bool = False) -> tuple[Any, torch.Tensor]:
        """What the transformer gives for token ids, padded to the longest, and the mask (B, L) of real tokens.

        all_layers: with hidden_states, those of the embeddings and of every layer, (B, L, H) each.
        """
        ids, mask = pad(rows, self.pad_id)
        where = next(self.backbone.parameters()).device
        more = {"output_hidden_states": True} if all_layers else {}
        mask = mask.to(where)
        with autocast(self.precision, where):
            return self.backbone(input_ids=ids.to(where), attention_mask=mask, **more), mask

    @property
    def pad_id(self) -> int:
        """The token id that fills short rows."""
        value: Any = getattr(self.backbone.config, "pad_token_id", None)
        return int(value) if isinstance(value, int) else 0


def load_base(
    name: str, query_instruction: str | None = None, *, precision: Precision | Literal["auto"] = "auto"
) -> Encoder:
    """A model by name. query_instruction: instead of its right one (base_instruction)."""
    instruction = training_instruction(name, query_instruction)
    return Encoder.load(resolve_model(name), precision=precision, query_instruction=instruction)


def training_instruction(name: str, query_instruction: str | None = None) -> str:
    """The query instruction that a model is trained with: the user's, or its right one (base_instruction)."""
    return base_instruction(name, resolve_model(name)) if query_instruction is None else query_instruction


def base_instruction(name: str, folder: Path, *, otherwise: str | None = None) -> str:
    """The query instruction with which an untuned model works best.

    In order: its folder's own, the one that its authors prescribe (BGE), `otherwise`, none. Wherever a tuned
    model is held against its base, the base has this one, even if the user chose another to train with: a base
    without its instruction, or with one that it never saw, makes any tuning look good.
    """
    return read_layout(folder).query_instruction or default_query_instruction(name) or otherwise or ""


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, L) and mask (B, L) of rows of different lengths."""
    length = max(len(row) for row in rows)
    ids = np.full((len(rows), length), pad_id, np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def autocast(precision: Precision, where: torch.device) -> AbstractContextManager[Any]:
    """The context in which a forward runs in that precision; weights stay in fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(where.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def with_query_instruction(layout: Layout, instruction: str) -> Layout:
    """The layout with another query instruction."""
    return replace(layout, prompts={**layout.prompts, "query": instruction})
