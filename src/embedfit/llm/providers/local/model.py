"""The provider "local": a small instruct model on this machine, from a GGUF file or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from embedfit.errors import ModelError
from embedfit.llm.protocol import Failure, LanguageModel, Message, Outcome, Request
from embedfit.llm.providers.local.backend import Backend, LlamaBackend, calibration_tokens
from embedfit.llm.providers.local.folder import load_folder
from embedfit.llm.providers.local.gguf import build_tokenizer, read_gguf, read_shape, read_weights
from embedfit.llm.providers.local.hash import content_hash
from embedfit.llm.providers.local.llama import Arithmetic, Llama
from embedfit.llm.providers.local.prefix import Tokens, plan
from embedfit.llm.providers.local.probe import best_arithmetic
from embedfit.llm.providers.local.replies import Draft, Writer

#: Replies written side by side: products are near their full speed, and few steps run for stragglers alone.
_MAX_SAMPLES = 128
#: Bytes of keys and values of a wave.
_CACHE_BYTES = 1 << 30


class LocalGenerator(LanguageModel):
    """A language model on this machine.

    path: a GGUF file of a Llama, or the folder of a causal language model. arithmetic: how products are
    computed; by default the arithmetic that a short probe finds fastest. cache_bytes: bound of the keys and values held
    at a time. Nothing is loaded before the first use.

    The same request gives the same reply: its random numbers come from its seed and its text alone, and int8 sums are
    exact. Neighbours only influence the order of float sums in attention.
    """

    provider = "local"
    counts_exactly = True
    takes_turns = False

    def __init__(
        self,
        path: Path | str,
        *,
        arithmetic: Arithmetic | None = None,
        cache_bytes: int = _CACHE_BYTES,
        max_samples: int = _MAX_SAMPLES,
    ) -> None:
        self._path = Path(path)
        self._arithmetic = arithmetic
        self._cache_bytes = cache_bytes
        self._max_samples = max_samples
        if not self._path.exists():
            raise ModelError(
                f"There is no model at {self._path}.", remedy="Give a GGUF file or the folder of a language model."
            )
        name = self._path.stem if self._path.is_file() else self._path.name
        self.model = f"{name}@{content_hash(self._path)[:12]}"

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
                texts.append(_harmless(messages[0], specials))
                continue
            conversation = [{"role": m.role, "content": _harmless(m, specials)} for m in messages]
            texts.append(str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)))
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens = {messages: tuple(ids) for messages, ids in zip(distinct, encoded, strict=True)}
        return [tokens[request.messages] for request in requests]

    @cached_property
    def _loaded(self) -> tuple[PreTrainedTokenizerBase, Backend, Writer]:
        tokenizer, backend, ends = load(self._path, self._arithmetic)
        if not tokenizer.chat_template:
            raise ModelError(
                f"{self._path} has no chat template, so it can't follow a request.",
                remedy="Use an instruct or chat version of the model.",
            )
        return tokenizer, backend, Writer(tokenizer, ends)

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._loaded[0]

    @property
    def _backend(self) -> Backend:
        return self._loaded[1]

    @property
    def _writer(self) -> Writer:
        return self._loaded[2]


def _harmless(message: Message, specials: Sequence[str]) -> str:
    """The message's text, unable to end its own turn: control tokens in it are broken up."""
    text = message.content
    for special in specials:
        if special in text:
            text = text.replace(special, special[0] + " " + special[1:])
    return text


def load(path: Path, arithmetic: Arithmetic | None) -> tuple[PreTrainedTokenizerBase, Backend, list[int]]:
    """The tokenizer, the backend and the tokens that end a turn, of a GGUF file or a model folder."""
    if path.is_file():
        return _load_gguf(path, arithmetic or best_arithmetic())
    return load_folder(path, arithmetic or best_arithmetic())


def _load_gguf(path: Path, arithmetic: Arithmetic) -> tuple[PreTrainedTokenizerBase, Backend, list[int]]:
    file = read_gguf(path)
    shape = read_shape(file)
    names: list[str] = file.value("tokenizer.ggml.tokens")
    end = int(file.value("tokenizer.ggml.eos_token_id"))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=build_tokenizer(file),
        eos_token=names[end],
        chat_template=file.metadata.get("tokenizer.chat_template"),
    )
    model = Llama(shape, read_weights(file, shape), arithmetic, calibration=calibration_tokens(tokenizer))
    return tokenizer, LlamaBackend(model), [end]
