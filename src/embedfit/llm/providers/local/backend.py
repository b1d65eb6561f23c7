"""Backends, which write the drafts of a wave: their interface, and the one on our own Llama."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

from embedfit.llm.providers.local.llama import Llama, Root
from embedfit.llm.providers.local.prefix import Tokens, Wave
from embedfit.llm.providers.local.replies import Draft, Writer
from embedfit.llm.providers.local.smooth import CALIBRATION

#: Shared beginnings kept between calls.
_KEPT_ROOTS = 8


class Backend(Protocol):
    """Something that writes the drafts of a wave."""

    context: int
    position_bytes: int

    def write(self, wave: Wave, drafts: Sequence[Draft], writer: Writer) -> Iterator[Draft]:
        """Yield the wave's drafts as they are finished. drafts: all of the call's, by request index."""


class LlamaBackend:
    """Waves through Llama: shared text read once, replies side by side."""

    def __init__(self, model: Llama) -> None:
        self._model = model
        self.context = model.shape.context
        self.position_bytes = model.position_bytes
        self._roots: OrderedDict[Tokens, Root] = OrderedDict()

    def write(self, wave: Wave, drafts: Sequence[Draft], writer: Writer) -> Iterator[Draft]:
        """Write the replies of a wave; yield each draft when it is finished."""
        model = self._model
        order = [index for family in wave.families for leaf in family.leaves for index in leaf.requests]
        live = [drafts[index] for index in order]
        room = max(draft.request.max_tokens for draft in live)
        replies, hidden = model.start(self._root(wave.root), wave, room)
        try:
            while True:
                writer.extend(live, model.logits(hidden))
                kept = [row for row, draft in enumerate(live) if draft.finish is None]
                if len(kept) < len(live):
                    yield from [draft for draft in live if draft.finish is not None]
                    if not kept:
                        return
                    live = [live[row] for row in kept]
                    replies.keep(kept)
                latest = torch.tensor([draft.tokens[-1] for draft in live], device=hidden.device)
                hidden = model.write(replies, latest)
        finally:
            model.give_back(replies)

    def _root(self, tokens: Tokens) -> Root:
        root = self._roots.pop(tokens, None)
        if root is None:
            root = self._model.read_root(tokens)
        self._roots[tokens] = root
        while len(self._roots) > _KEPT_ROOTS:
            self._roots.popitem(last=False)
        return root


def calibration_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The tokens of the text that finds the large channels, by which int8 products become more exact."""
    return tuple(tokenizer(CALIBRATION, add_special_tokens=False)["input_ids"])
