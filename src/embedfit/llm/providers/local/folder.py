"""Opens a Hugging Face folder: the tokenizer, and the tokens that end a turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from embedfit.errors import ModelError


def open_folder(path: Path) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The tokenizer and the ids that end a turn. Raises ModelError for a folder that is not complete."""
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is not a complete model folder: {str(error).splitlines()[0]}",
            remedy="Give a folder with config.json, tokenizer.json and *.safetensors.",
        ) from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"{path} has no chat template, so it can't follow a request.",
            remedy="Use an instruct or chat version of the model.",
        )
    return tokenizer, _ends(path, config)


def _ends(path: Path, config: Any) -> list[int]:  # noqa: ANN401
    """Ids that end a turn: generation_config.json before config.json, as transformers does."""
    value: Any = None
    generation = path / "generation_config.json"
    if generation.is_file():
        value = json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id")
    if value is None:
        value = getattr(config, "eos_token_id", None)
    if value is None:
        return []
    return [int(v) for v in value] if isinstance(value, list) else [int(value)]
