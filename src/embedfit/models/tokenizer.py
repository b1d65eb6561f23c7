"""The tokenizer of a model folder."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from embedfit.errors import ModelError


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a model folder, without truncation or padding."""
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"{path} can't be read: {error}") from error
    else:
        from transformers import AutoTokenizer  # slow to import, and rarely needed

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
        except (OSError, ValueError, AttributeError) as error:
            raise ModelError(f"{folder} has no tokenizer that can be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
