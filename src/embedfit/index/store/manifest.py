"""The manifest that makes a folder an index. Reading it needs no library of models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embedfit.errors import ArtifactMissing, InputError
from embedfit.index.retriever import Retriever
from embedfit.path.workspace import sha256_json

SCHEMA = 1
MANIFEST = "manifest.json"
AGAIN = "Build it again: embedfit index --run DIR --force, or embedfit index --to-folder DIR --force"
PASSAGE_STARTS = "passages.starts.npy"
#: The folder of a run's index, and the files that mark a folder as a run folder.
IN_RUN = "index"
RUN_SETTINGS = "embedfit.toml"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Identity(_Record):
    """The model that an index was built with.

    name: the name that the user gave, or the path of its folder. key: hash of its weights, tokenizer and layout.
    instruction: the text put before queries.
    """

    name: str
    key: str
    instruction: str


class MadeOf(_Record):
    """Hashes of the inputs of an index. The index is up to date if the present inputs have the same hashes.

    passages, metadata, asked, written: None for an input that there was not. removed: documents that were taken out.
    """

    passages: str = ""
    model: str = ""
    instruction: str = ""
    retriever: Retriever | None = None
    removed: tuple[str, ...] = ()
    metadata: str = ""
    asked: str | None = None
    written: str | None = None


class WrittenCost(_Record):
    """The written queries in an index.

    covered: the share of passages that have some. bytes: the size of their vectors. usd: the price paid for them.
    """

    queries: int
    covered: float
    size: Annotated[int, Field(alias="bytes")]
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float


class FieldColumns(_Record):
    """A field of the passages. flag, number, text: the number of distinct values of each type.

    values, codes, starts, dates: the beginning and end of its part of each file that store.columns describes.
    """

    name: str
    is_list: bool
    passages: int
    flag: int
    number: int
    text: int
    values: tuple[int, int]
    codes: tuple[int, int]
    starts: tuple[int, int]
    dates: tuple[int, int]


class ListsFile(_Record):
    """A file of approximate lists. rows: vectors in it. head: its first bytes, whose hash is sha256."""

    file: str
    rows: int
    lists: int
    head: int
    sha256: str


class Lists(_Record):
    """The approximate lists of a large index, or why it has none.

    parts: files by dense part. share: the share of the lists that a query reads. recall: the share of the exact best
    `depth` that it finds, in the mean of `queries` queries.
    """

    used: bool
    why: str = ""
    parts: Mapping[str, tuple[ListsFile, ...]] = {}
    share: float = 0.0
    recall: float | None = None
    depth: int | None = None
    queries: int | None = None
    library: str = ""


class StoredFile(_Record):
    """The size of a file, and its hash."""

    size: Annotated[int, Field(alias="bytes")]
    sha256: str


class Golden(_Record):
    """A golden answer: a sentence of a passage as a query, and the numbers of the passages it found, best first."""

    query: str
    passages: tuple[int, ...]


class IndexManifest(_Record):
    """manifest.json of an index.

    base: the untuned model; None if `model` itself is untuned. written: None if the index holds no written queries.
    approximate: None for a small index. files: by name.
    """

    edition: Annotated[int, Field(alias="schema")] = SCHEMA
    model: Identity
    base: Identity | None = None
    retriever: Retriever
    passages: int
    fields: tuple[FieldColumns, ...]
    made_of: MadeOf = MadeOf()
    written: WrittenCost | None = None
    approximate: Lists | None = None
    golden: tuple[Golden, ...] = ()
    files: Mapping[str, StoredFile]


def is_index(folder: Path) -> bool:
    """Whether a folder is an index, rather than a model or a run."""
    return (folder / MANIFEST).is_file() and (folder / PASSAGE_STARTS).is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder, from which an index can be built."""
    return (folder / RUN_SETTINGS).is_file()


def is_searchable(folder: Path) -> bool:
    """Whether a folder is an index or a run folder."""
    return is_index(folder) or is_index(folder / IN_RUN) or is_run(folder)


def index_folder(folder: Path) -> Path:
    """The folder of the index that a run folder or an index folder holds. Raises ArtifactMissing for a run without."""
    inner = folder / IN_RUN
    if (inner / MANIFEST).exists() or not (folder / MANIFEST).exists():
        if is_run(folder) and not (inner / MANIFEST).exists():
            raise ArtifactMissing(f"{folder} has no index yet.", remedy=f"Run: embedfit index --run {folder}")
        return inner if inner.exists() else folder
    return folder


def read_manifest(folder: Path) -> IndexManifest:
    """The manifest of an index, checked. Raises ArtifactMissing if there is none, InputError if it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactMissing(
            f"{folder} holds no index.",
            remedy="Run: embedfit index --run DIR, or embedfit index DOCS... --model minilm --to-folder DIR",
        )
    try:
        value: dict[str, object] = json.loads(path.read_text("utf-8"))
        schema = value["schema"]
        lacking = {"files", "passages", "fields", "model", "retriever", "sha256"} - set(value)
    except PermissionError as error:
        raise InputError(f"You have no permission to read {path}.", remedy=f"For example: chmod u+r {path}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not an index' manifest.", remedy=AGAIN) from error
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema version {schema}; this embedfit reads version {SCHEMA}.",
            remedy=AGAIN,
        )
    if lacking:
        raise InputError(f"{path} lacks {', '.join(sorted(lacking))}.", remedy=AGAIN)
    if digest_of(value) != value["sha256"]:
        raise InputError(f"{path} has changed since the index was built.", remedy=AGAIN)
    try:
        return IndexManifest.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{path} is not an index' manifest.", remedy=AGAIN) from error


def manifest_text(manifest: IndexManifest) -> str:
    """The text of manifest.json, with the hash of all the rest."""
    value = manifest.model_dump(mode="json", by_alias=True)
    return json.dumps({**value, "sha256": digest_of(value)}, indent=2, ensure_ascii=False, allow_nan=False)


def digest_of(manifest: Mapping[str, object]) -> str:
    """Hex SHA-256 of a manifest's other members. A manifest was edited if its own hash differs from this."""
    return sha256_json({name: value for name, value in manifest.items() if name != "sha256"})
