"""A reply while it grows: choosing its next token, and finding its end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from embedfit.llm.protocol import Reply, Request
from embedfit.llm.providers.local.sampling import chance, choose

#: Tokens that end a turn in one chat format or another; a model may emit them whatever its config calls the end.
_TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|im_start|>", "</s>", "<end_of_turn>")


class Draft:
    """One reply's tokens so far, and its own stream of random numbers."""

    __slots__ = ("finish", "index", "prompt_tokens", "request", "text", "tokens", "uniforms")

    def __init__(self, index: int, request: Request, prompt: Sequence[int]) -> None:
        self.index = index
        self.request = request
        self.prompt_tokens = len(prompt)
        self.uniforms = chance(request, prompt)
        self.tokens: list[int] = []
        self.text = ""
        self.finish: str | None = None

    def reply(self) -> Reply:
        """The finished reply."""
        return Reply(
            text=self.text,
            input_tokens=self.prompt_tokens,
            output_tokens=len(self.tokens),
            finish=self.finish or "length",
        )


class Writer:
    """Extends drafts by one token each, and finds their ends: a turn's end, a stop string, enough tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.ends = frozenset(ends) | {vocabulary[token] for token in _TURN_ENDS if token in vocabulary}
        self._pieces: dict[int, str] = {}

    def extend(self, drafts: Sequence[Draft], logits: torch.Tensor) -> None:
        """Give each draft its next token: logits (drafts, vocabulary). Ended drafts have finish set."""
        chosen = choose(
            logits,
            np.array([draft.request.temperature for draft in drafts]),
            np.array([draft.request.top_p for draft in drafts]),
            np.array([draft.uniforms[len(draft.tokens)] for draft in drafts]),
        )
        for draft, token in zip(drafts, chosen, strict=True):
            self._extend(draft, token)

    def _extend(self, draft: Draft, token: int) -> None:
        draft.tokens.append(token)
        if token in self.ends:
            draft.text, draft.finish = self._decode(draft.tokens[:-1]), "stop"
            return
        if draft.request.stop and self._may_stop(draft.request.stop, token):
            text = self._decode(draft.tokens)
            places = [place for stop in draft.request.stop if stop and (place := text.find(stop)) >= 0]
            if places:
                draft.text, draft.finish = text[: min(places)], "stop"
                return
        if len(draft.tokens) >= draft.request.max_tokens:
            draft.text, draft.finish = self._decode(draft.tokens), "length"

    def _may_stop(self, stops: Sequence[str], token: int) -> bool:
        """Whether the token's text can complete a stop string; decoding the whole reply every time is slow."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._decode([token])
        # A part of a character decodes to the replacement sign: only the whole reply tells.
        return "\ufffd" in piece or any(stop and stop[-1] in piece for stop in stops)

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)
