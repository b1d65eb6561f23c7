"""Any causal language model of transformers, on a GPU or the CPU. A beginning that prompts share is read once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache, DynamicLayer

from embedfit.errors import ModelError
from embedfit.llm.providers.local.prefix import Tokens, Wave
from embedfit.llm.providers.local.replies import Draft, Writer
from embedfit.numerics.machine import Precision, best_precision, device

_UNBOUNDED_CONTEXT = 1 << 20
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class GenericBackend:
    """Waves through transformers: prompts padded at the left, the root's keys computed once and repeated.

    precision: by default the one that a short probe finds fastest.
    """

    def __init__(self, path: Path, precision: Precision | None = None) -> None:
        on_apple = torch.backends.mps.is_available()
        dtype = _TYPES[precision or ("fp16" if on_apple else best_precision())]
        try:
            loader: Any = AutoModelForCausalLM
            self._model = loader.from_pretrained(path, dtype=dtype, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"transformers can't load {path}: {str(error).splitlines()[0]}",
                remedy="Give a causal language model saved as safetensors, of an architecture transformers has.",
            ) from error
        self._model.eval()
        self._device = torch.device("mps") if on_apple else device()
        self._model.to(self._device)
        config = self._model.config.get_text_config()
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.context = int(getattr(config, "max_position_embeddings", None) or _UNBOUNDED_CONTEXT)
        self.position_bytes = 2 * int(config.num_hidden_layers) * kv_heads * width * dtype.itemsize

    @torch.inference_mode()
    def _read(
        self, root: Tokens, remainders: Sequence[Tokens]
    ) -> tuple[DynamicCache, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(cache, mask of (rows, positions), length of each prompt, logits of the last tokens)."""
        cache: Any = None
        if root:
            cache = self._model(torch.tensor([root], device=self._device), use_cache=True, logits_to_keep=1)
            cache = copy.deepcopy(cache.past_key_values)
            if isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers):
                cache.batch_repeat_interleave(len(remainders))
            else:
                # Windows and recurrent states do not allow padding between the root and the rest.
                cache, root, remainders = None, (), [root + remainder for remainder in remainders]
        width = max(map(len, remainders))
        tokens = torch.zeros(len(remainders), width, dtype=torch.int64)
        mask = torch.zeros(len(remainders), len(root) + width, dtype=torch.int64)
        mask[:, : len(root)] = 1
        for row, remainder in enumerate(remainders):
            tokens[row, width - len(remainder) :] = torch.tensor(remainder, dtype=torch.int64)
            mask[row, len(root) + width - len(remainder) :] = 1
        positions = mask.cumsum(dim=1).sub_(1).clamp_min_(0)[:, len(root) :]
        result = self._model(
            tokens.to(self._device),
            attention_mask=mask.to(self._device),
            position_ids=positions.to(self._device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        lengths = mask.sum(dim=1).to(self._device)
        return result.past_key_values, mask.to(self._device), lengths, result.logits[:, -1].float()

    def write(self, wave: Wave, drafts: Sequence[Draft], writer: Writer) -> Iterator[Draft]:
        """Write the replies of a wave; yield each draft when it is finished."""
        leaves = [(family.trunk, leaf) for family in wave.families for leaf in family.leaves]
        cache, mask, lengths, logits = self._read(wave.root, [trunk + leaf.tokens for trunk, leaf in leaves])
        live = [drafts[index] for _, leaf in leaves for index in leaf.requests]
        source = [row for row, (_, leaf) in enumerate(leaves) for _ in leaf.requests]
        rows = torch.tensor(source, device=self._device)
        cache.batch_select_indices(rows)
        mask, lengths, logits = mask[rows], lengths[rows], logits[rows]
        while True:
            writer.extend(live, logits)
            yield from [draft for draft in live if draft.finish is not None]
            kept = [row for row, draft in enumerate(live) if draft.finish is None]
            if not kept:
                return
            if len(kept) < len(live):
                live = [live[row] for row in kept]
                rows = torch.tensor(kept, device=self._device)
                cache.batch_select_indices(rows)
                mask, lengths = mask[rows], lengths[rows]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            with torch.inference_mode():
                result = self._model(
                    torch.tensor([[draft.tokens[-1]] for draft in live], device=self._device),
                    attention_mask=mask,
                    position_ids=lengths[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
            cache, logits, lengths = result.past_key_values, result.logits[:, -1].float(), lengths + 1
