"""What a folder must hold to be an index, read without any library of models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedfit.errors import ArtifactMissing, InputError
from embedfit.path.workspace import sha256_json

SCHEMA = 1
MANIFEST = "manifest.json"
AGAIN = "Build it again: embedfit index --run DIR --force, or embedfit index --to-folder DIR --force"
PASSAGE_STARTS = "passages.starts.npy"
#: Where a run folder holds its index, and what makes a folder a run folder.
IN_RUN = "index"
RUN_SETTINGS = "embedfit.toml"


def is_index(folder: Path) -> bool:
    """Whether a folder is an index, rather than a model or a run."""
    return (folder / MANIFEST).is_file() and (folder / PASSAGE_STARTS).is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, whose index can be built where it is missing."""
    return (folder / RUN_SETTINGS).is_file()


def is_searchable(folder: Path) -> bool:
    """Whether a folder is an index, or a run folder that holds one or can get one."""
    return is_index(folder) or is_index(folder / IN_RUN) or is_run(folder)


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of an index, checked. Raises as read() does."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactMissing(
            f"{folder} holds no index.",
            remedy="Run: embedfit index --run DIR, or embedfit index DOCS... --model minilm --to-folder DIR",
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        schema = manifest["schema"]
        lacking = {"files", "passages", "fields", "model", "retriever", "sha256"} - set(manifest)
    except PermissionError as error:
        raise InputError(f"{path} can't be read: you may not.", remedy=f"For example: chmod u+r {path}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not an index' manifest.", remedy=AGAIN) from error
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema version {schema}; this embedfit reads version {SCHEMA}.",
            remedy=AGAIN,
        )
    if lacking:
        raise InputError(f"{path} lacks {', '.join(sorted(lacking))}.", remedy=AGAIN)
    if digest_of(manifest) != manifest["sha256"]:
        raise InputError(f"{path} is not what was written when the index was built.", remedy=AGAIN)
    return manifest


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Hex SHA-256 of all that a manifest holds but this hash: nobody has edited a manifest that has it."""
    return sha256_json({name: value for name, value in manifest.items() if name != "sha256"})
