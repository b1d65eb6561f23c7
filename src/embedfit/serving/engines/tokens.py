"""From requests' inputs to token ids: prompts, special tokens, truncation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Literal

from tokenizers import Tokenizer
from typing_extensions import TypedDict

from embedfit.files.textfiles import without_surrogates
from embedfit.serving.engines.engine import Prompted
from embedfit.serving.failures import BackendFailure, Invalid, TokenizerFailure

Direction = Literal["Left", "Right"]
Input = str | list[int]

#: Texts of fewer characters together are tokenised on the event loop: that takes less than changing threads.
_INLINE_CHARACTERS = 512
#: The most characters of a text that are read for each token of the window, as in TEI: a body of megabytes must not
#: cost a second of tokenising for the few hundred tokens that the model reads.
_CHARACTERS_A_TOKEN = 250


class Token(TypedDict):
    """One token of /tokenize. start, stop: characters of the input; None for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TextEncoder:
    """The tokenizer of a model in the three forms that requests need.

    max_tokens: of a row, special tokens included. prompts: by name. default_prompt: put before texts of requests that
    name none; default_name: its name, if it has one. special: ids of special tokens, for a model that leaves its
    prompts out of the pooling; None: all tokens are pooled.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        prompts: Mapping[str, str],
        default_prompt: str = "",
        default_name: str | None = None,
        special: frozenset[int] | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.max_tokens = max_tokens
        self.prompts = dict(prompts)
        self.default_prompt = default_prompt
        self.default_name = default_name
        self.vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
        self._special = special
        self._prompt_tokens: dict[str, int] = {}
        self._executor = executor
        # Truncation is a state of a tokenizer, so each form has a tokenizer of its own, which never changes afterwards.
        serialised = tokenizer.to_str()
        self._whole = Tokenizer.from_str(serialised)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._cut: dict[Direction, Tokenizer] = {}
        directions: tuple[Direction, ...] = ("Right", "Left")
        for direction in directions:
            cut = Tokenizer.from_str(serialised)
            cut.no_padding()
            cut.enable_truncation(max_tokens, direction=direction.lower())
            self._cut[direction] = cut

    def prompt(self, name: str | None) -> str:
        """The text to put before inputs, none for an empty name. Raises Invalid for a name that the model lacks."""
        if name is None:
            return self.default_prompt
        if not name:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise Invalid(f"`prompt_name` {name!r} is not a prompt of this model; it has: {known}")
        return self.prompts[name]

    def encode(self, texts: Sequence[Input], *, prompt: str = "") -> list[list[int]]:
        """Token ids with special tokens, cut to the window, on the calling thread."""
        return self._rows(texts, prompt=prompt, truncate=True, direction="Right")

    async def rows(
        self, inputs: Sequence[Input], *, prompt: str = "", truncate: bool = True, direction: Direction = "Right"
    ) -> list[list[int]]:
        """Token ids with special tokens of every input. Raises Invalid for one that is too long to serve."""
        work = partial(self._rows, inputs, prompt=prompt, truncate=truncate, direction=direction)
        if sum(map(len, inputs)) + len(prompt) * len(inputs) < _INLINE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _rows(self, inputs: Sequence[Input], *, prompt: str, truncate: bool, direction: Direction) -> list[list[int]]:
        cut = direction if truncate else None
        texts = [
            (index, prompt + self._bounded(text, cut)) for index, text in enumerate(inputs) if isinstance(text, str)
        ]
        rows: list[list[int]] = [[] for _ in inputs]
        tokenizer = self._cut[direction] if truncate else self._whole
        for (index, _), ids in zip(texts, self._encode(tokenizer, [text for _, text in texts]), strict=True):
            rows[index] = self._prompted(ids, prompt)
        for index, given in enumerate(inputs):
            if not isinstance(given, str):
                rows[index] = self._given(given, prompt, tokenizer, cut)
        for ids in rows:
            if len(ids) > self.max_tokens:
                raise Invalid(f"`inputs` must have less than {self.max_tokens} tokens. Given: {len(ids)}")
            if not ids:
                raise Invalid("`inputs` has no tokens")
        return rows

    def _prompted(self, ids: list[int], prompt: str) -> list[int]:
        """The row, with the number of its prompt's tokens where these are not pooled."""
        if self._special is None or not prompt:
            return ids
        if prompt not in self._prompt_tokens:
            own = self._encode(self._cut["Right"], [prompt])[0]
            self._prompt_tokens[prompt] = len(own) - (1 if own and own[-1] in self._special else 0)
        return Prompted(ids, self._prompt_tokens[prompt])

    def _bounded(self, text: str, cut: Direction | None) -> str:
        limit = self.max_tokens * _CHARACTERS_A_TOKEN
        if len(text) <= limit:
            return text
        if cut is None:
            raise Invalid(f"`inputs` must have less than {limit} characters. Given: {len(text)}")
        return text[:limit] if cut == "Right" else text[-limit:]

    def _given(self, ids: list[int], prompt: str, tokenizer: Tokenizer, cut: Direction | None) -> list[int]:
        """The row of ids that the client made: the ids as they are, with a prompt before them if one is asked for."""
        self._check_vocabulary(ids)
        if prompt:
            return self._encode(tokenizer, [prompt + self._whole.decode(ids, skip_special_tokens=True)])[0]
        if cut is None or len(ids) <= self.max_tokens:
            return ids
        return ids[: self.max_tokens] if cut == "Right" else ids[-self.max_tokens :]

    def _encode(self, tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        try:
            return [
                encoding.ids for encoding in tokenizer.encode_batch_fast([without_surrogates(text) for text in texts])
            ]
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerFailure(f"Tokenization error: {error}") from error

    def _check_vocabulary(self, ids: Sequence[int]) -> None:
        if max(ids) >= self.vocabulary or min(ids) < 0:
            raise Invalid(f"`inputs` holds a token id outside 0 to {self.vocabulary - 1}")

    async def tokens(self, inputs: Sequence[Input], *, prompt: str, special: bool) -> list[list[Token]]:
        """The tokens of every input, never truncated."""
        work = partial(self._tokens, inputs, prompt=prompt, special=special)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _tokens(self, inputs: Sequence[Input], *, prompt: str, special: bool) -> list[list[Token]]:
        texts = []
        for given in inputs:
            if not isinstance(given, str):
                self._check_vocabulary(given)
            texts.append(prompt + (without_surrogates(given) if isinstance(given, str) else self._whole.decode(given)))
        try:
            encodings = self._whole.encode_batch(texts, add_special_tokens=special)
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerFailure(f"Tokenization error: {error}") from error
        return [
            [
                Token(id=token_id, text=token, special=True, start=None, stop=None)
                if is_special
                else Token(id=token_id, text=text[start:stop], special=False, start=start, stop=stop)
                for token_id, token, is_special, (start, stop) in zip(
                    encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
                )
            ]
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    async def texts(self, rows: Sequence[list[int]], *, skip_special_tokens: bool) -> list[str]:
        """Token ids back to text."""
        for ids in rows:
            self._check_vocabulary(ids)
        work = partial(self._whole.decode_batch, list(rows), skip_special_tokens=skip_special_tokens)
        try:
            texts: list[str] = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except Exception as error:  # tokenizers raises bare Exception
            raise BackendFailure(f"Tokenization error: {error}") from error
        return texts
