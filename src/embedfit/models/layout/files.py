"""The files of a model folder: their JSON, their weights, and which of them decide its vectors."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from pydantic import JsonValue

from embedfit.errors import ModelError
from embedfit.models.architecture import Architecture, Dense, StaticEmbedding, Transformer, in_tower

JsonObject: TypeAlias = Mapping[str, JsonValue]

#: The part of a tuned model's folder that holds its adapter (LoRA) alone, for peft.
ADAPTER = "adapter"
#: The files beside the weights that a transformer and its tokenizer are made from.
_DECIDING = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
             "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model")  # fmt: skip


def read_json(path: Path, *, optional: bool = False) -> JsonObject:
    """The JSON object in a file of a model folder; optional: an empty one if the file is missing."""
    if optional and not path.exists():
        return {}
    content = read_value(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object.")
    return content


def read_value(path: Path) -> JsonValue:
    """The content of a JSON file of a model folder."""
    if not path.exists():
        raise ModelError(f"{path.parent} is not a whole model folder: {path.name} is missing.")
    try:
        content: JsonValue = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one module, all shards; empty if the module has none."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    listed = read_json(folder / "model.safetensors.index.json", optional=True).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    for name in names:
        if PurePosixPath(name).name != name:
            raise ModelError(f"{folder}/model.safetensors.index.json names {name!r}, which leaves the folder.")
        if not (folder / name).exists():
            raise ModelError(f"{folder} lacks the shard {name} that its model.safetensors.index.json names.")
    return [folder / name for name in names]


def check_weights(folder: Path, module: Path) -> None:
    """Raise ModelError unless a module of the folder has weights that can be read."""
    if weight_files(module):
        return
    others = sorted(path.name for path in module.glob("*.bin"))
    if not others:
        raise ModelError(f"{module} has no model.safetensors.", remedy="Fetch the model again, with its weights.")
    code = f"from sentence_transformers import SentenceTransformer as S; S({str(folder)!r}).save({f'{folder}-safe'!r})"
    raise ModelError(
        f"{module} has no model.safetensors ({', '.join(others)} is a pickle and is not read).",
        remedy=f"Convert it once: python -c {shlex.quote(code)}; then use {folder}-safe",
    )


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a module's weights, from the headers of its files."""
    from safetensors import SafetensorError, safe_open  # not needed to read most layouts

    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "np") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged or cut off: {error}", remedy="Fetch or make it again.") from error
    return found


def deciding_files(folder: Path, architecture: Architecture) -> list[Path]:
    """Every file that decides the vectors: weights, configurations, tokenizer. In a fixed order."""
    found: list[Path] = []
    for module in architecture.modules:
        if isinstance(module, Transformer | StaticEmbedding | Dense):
            where = folder / module.path
            named = () if isinstance(module, Dense) else _DECIDING
            found += [where / name for name in named if (where / name).exists()] + weight_files(where)
    return found


def content_names(folder: Path, architecture: Architecture) -> dict[str, Path]:
    """deciding_files() by their names in the tower's own folder, so that a tower has the names of a plain folder."""
    paths = deciding_files(folder, architecture)
    whole = {path.relative_to(folder).as_posix(): path for path in paths}
    own = {in_tower(name): path for name, path in whole.items()}
    return own if len(own) == len(whole) else whole


def pad_id(folder: Path, architecture: Architecture) -> int:
    """The token id that fills short rows, as a model's configuration says."""
    value = read_json(folder / architecture.first.path / "config.json", optional=True).get("pad_token_id")
    return value if isinstance(value, int) and value >= 0 else 0


def tokenizer_window(folder: Path) -> int | None:
    """The limit of tokens that a folder's tokenizer sets, or None if it sets none."""
    value = read_json(folder / "tokenizer_config.json", optional=True).get("model_max_length")
    return int(value) if isinstance(value, (int, float)) and value < 1e6 else None
