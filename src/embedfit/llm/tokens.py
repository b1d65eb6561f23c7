"""Counting a prompt's tokens: by the model's own tokenizer if it is at hand, else estimated upwards."""

from __future__ import annotations

from collections.abc import Callable
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


class CountsTokens:
    """A provider's model that counts tokens: by its own tokenizer if the Hugging Face cache has it. Asks no network.

    model: its id at the provider. tokenizer_file: instead of the one in the cache. counts_exactly: whether the
    tokenizer is at hand; else tokens are estimated upwards.
    """

    def __init__(self, model: str, tokenizer_file: Path | None = None) -> None:
        self.model = model
        file = tokenizer_file or next(filter(None, map(_cached, _repositories(model))), None)
        self.counts_exactly = file is not None
        self._count = _counter(file) if file is not None else _estimate

    def count_tokens(self, request: Request) -> int:
        """Input tokens of a request with a chat template around it."""
        return sum(self._count(message.content) + _PER_MESSAGE for message in request.messages) + _PER_PROMPT


def _counter(tokenizer_file: Path) -> Callable[[str], int]:
    """Counts a text's tokens by a tokenizer.json."""
    from tokenizers import Tokenizer  # not needed if no tokenizer is at hand

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    @lru_cache(maxsize=4096)  # the few-shot turns come again in every request
    def count(text: str) -> int:
        return len(tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)

    return count


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
