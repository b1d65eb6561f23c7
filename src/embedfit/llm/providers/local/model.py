"""The provider "local": a language model in a Hugging Face folder, run on this machine by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from embedfit.errors import ModelError
from embedfit.llm.protocol import Failure, LanguageModel, Outcome, Request
from embedfit.llm.providers.local.folder import open_folder
from embedfit.llm.providers.local.generic import GenericBackend
from embedfit.llm.providers.local.hash import content_hash
from embedfit.llm.providers.local.prefix import Tokens, plan
from embedfit.llm.providers.local.replies import Draft, Writer
from embedfit.numerics.machine import Precision

#: Replies written side by side: products are near their full speed, and few steps run for stragglers alone.
_MAX_SAMPLES = 128
#: Bytes of keys and values of a wave.
_CACHE_BYTES = 1 << 30


class LocalGenerator(LanguageModel):
    """A language model on this machine.

    path: the folder of a causal language model. precision: of its arithmetic; by default the one that a short probe
    finds fastest. cache_bytes: bound of the keys and values held at a time. Nothing is loaded before the first use.

    The same request gives the same reply: its random numbers come from its seed and its text alone. Neighbours only
    influence the order of float sums.
    """

    provider = "local"
    counts_exactly = True
    takes_turns = False

    def __init__(
        self,
        path: Path | str,
        *,
        precision: Precision | None = None,
        cache_bytes: int = _CACHE_BYTES,
        max_samples: int = _MAX_SAMPLES,
    ) -> None:
        self._path = Path(path)
        self._precision: Precision | None = precision
        self._cache_bytes = cache_bytes
        self._max_samples = max_samples
        if not self._path.is_dir():
            raise ModelError(f"There is no folder {self._path}.", remedy="Give the folder of a language model.")
        self.model = f"{self._path.name}@{content_hash(self._path)[:12]}"

    def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt, exactly."""
        return len(self._encode([request])[0])

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index, outcome). Requests that share text share its cost; order them as you like."""
        if not requests:
            return
        prompts = self._encode(requests)
        fitting: list[int] = []
        for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            if request.max_tokens < 1:
                yield index, Failure(error=f"max_tokens is {request.max_tokens}, not at least 1", retryable=False)
            elif len(prompt) + request.max_tokens > self._backend.context:
                yield (
                    index,
                    Failure(
                        error=f"{len(prompt)} tokens and {request.max_tokens} for the reply are more than the "
                        f"model's {self._backend.context}",
                        retryable=False,
                    ),
                )
            else:
                fitting.append(index)
        if not fitting:
            return
        drafts = [Draft(index, requests[index], prompts[index]) for index in fitting]
        waves = plan(
            [prompts[index] for index in fitting],
            token_budget=self._cache_bytes // self._backend.position_bytes,
            reply_tokens=max(requests[index].max_tokens for index in fitting),
            max_samples=self._max_samples,
        )
        for wave in waves:
            for draft in self._backend.write(wave, drafts, self._writer):
                yield draft.index, draft.reply()

    def _encode(self, requests: Sequence[Request]) -> list[Tokens]:
        """The prompt of each request as tokens; equal conversations are encoded once."""
        distinct = {request.messages: request for request in requests}
        tokenizer = self._tokenizer
        specials = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        texts = []
        for messages in distinct:
            if messages[0].role == "text":
                texts.append(messages[0].harmless(specials))
                continue
            conversation = [{"role": one.role, "content": one.harmless(specials)} for one in messages]
            texts.append(str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)))
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens = {messages: tuple(ids) for messages, ids in zip(distinct, encoded, strict=True)}
        return [tokens[request.messages] for request in requests]

    @cached_property
    def _loaded(self) -> tuple[PreTrainedTokenizerBase, GenericBackend, Writer]:
        tokenizer, ends = open_folder(self._path)
        return tokenizer, GenericBackend(self._path, self._precision), Writer(tokenizer, ends)

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._loaded[0]

    @property
    def _backend(self) -> GenericBackend:
        return self._loaded[1]

    @property
    def _writer(self) -> Writer:
        return self._loaded[2]
