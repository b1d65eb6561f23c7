"""Counting a prompt's tokens: by the model's own tokenizer where it is at hand, else estimated upwards."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from embedfit.llm.protocol import Request

#: Hub repositories that hold the tokenizer of a model family sold under other names.
_LLAMA_3 = (
    "meta-llama/Llama-3.3-70B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "meta-llama/Meta-Llama-3-70B-Instruct",
)
_PER_MESSAGE = 6  # role, its brackets, the end of the turn (Llama 3: 5, ChatML: 5)
_PER_PROMPT = 8
_BYTES_PER_TOKEN = 3.0  # English prose has 4 to 4.5 under current tokenizers


class TokenCounter:
    """Input tokens of requests. exact: whether they are counted by the model's own tokenizer."""

    def __init__(self, tokenizer_file: Path | None = None) -> None:
        self.exact = tokenizer_file is not None
        if tokenizer_file is None:
            self._count = _estimate
            return
        from tokenizers import Tokenizer  # not needed where no tokenizer is at hand

        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        tokenizer.no_truncation()
        tokenizer.no_padding()

        @lru_cache(maxsize=4096)  # the few-shot turns come again in every request
        def count(text: str) -> int:
            return len(tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)

        self._count = count

    @classmethod
    def of_model(cls, model: str) -> TokenCounter:
        """For a model id of a provider: with its tokenizer if the Hugging Face cache has it. Asks no network."""
        for repository in _repositories(model):
            file = _cached(repository)
            if file is not None:
                return cls(file)
        return cls()

    def __call__(self, request: Request) -> int:
        """Input tokens of a request with a chat template around it."""
        contents = sum(self._count(message.content) + _PER_MESSAGE for message in request.messages)
        return contents + _PER_PROMPT


class CountsTokens:
    """A provider's model that counts tokens by a tokenizer if one is at hand. model: its id at the provider."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._counter = TokenCounter.of_model(model)
        self.counts_exactly = self._counter.exact

    def count_tokens(self, request: Request) -> int:
        """Input tokens."""
        return self._counter(request)


def _estimate(text: str) -> int:
    return round(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN) + 1


def _repositories(model: str) -> tuple[str, ...]:
    if "meta.llama3" in model:
        return _LLAMA_3
    return (model,) if model.count("/") == 1 else ()


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
