"""An index on disk: a folder of plain arrays, the passages, and a manifest that is written last.

    manifest.json            model, retrievers, constants, counts, golden answers, the size of every file
    passages.jsonl           a passage a line, by ascending id;  passages.starts.npy  (N + 1,) bytes where lines begin
    one.npy, base.npy        (N, H) float16; base: by the untuned model, if the index' model was tuned
    windows.npy              (W, H) float16;  windows.starts.npy  (N + 1,)
    queries.npy              (R, H) float16;  queries.starts.npy  (N + 1,)
    words/, words_and_queries/    BM25
    metadata.*               the fields of the passages, by column: see columns
    approximate/             lists of the vectors, in a large index only: see approximate
    tokens.npy               (T, D) int8;  tokens.starts.npy  (N + 1,);  tokens.projection.npy;  tokens.holders.npy

Arrays are mapped into memory, so that an index larger than the memory can be searched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.files.hashes import sha256_file
from embedfit.index import approximate
from embedfit.index.build import Built
from embedfit.index.retriever import Retriever
from embedfit.index.scoring import Parts, Rows, Tokens
from embedfit.index.store.columns import FILES, Catalogue, write_columns
from embedfit.index.store.manifest import (
    AGAIN,
    MANIFEST,
    PASSAGE_STARTS,
    Golden,
    Identity,
    IndexManifest,
    MadeOf,
    StoredFile,
    WrittenCost,
    manifest_text,
    read_manifest,
)
from embedfit.index.tokens import TokenSpace
from embedfit.numerics.arrays import Bytes, Floats, Halves, Ints
from embedfit.path.artefacts import Passage, Value
from embedfit.path.workspace import encode_record
from embedfit.progress import Reporter, Silent
from embedfit.retrieval.bm25 import Bm25

_ROWS = ("windows", "queries")
#: Files up to this size are hashed when an index is opened, which takes some milliseconds each.
CHECKED_BYTES = 4 << 20
_WORDS = ("words", "words_and_queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An opened index folder.

    catalogue: the fields of its passages. base, base_vectors: the untuned model and its one vector of each passage;
    None if `model` itself is untuned.
    """

    folder: Path
    manifest: IndexManifest
    model: Identity
    retriever: Retriever
    parts: Parts
    tokens: TokenSpace | None
    starts: Ints
    lines: npt.NDArray[np.uint8] | None
    catalogue: Catalogue
    base: Identity | None = None
    base_vectors: Halves | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The untuned model and its one vector of each passage, (N, H) float16."""

    identity: Identity
    vectors: Halves


_OF_NOTHING = MadeOf()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of an index, for its manifest.

    base: the untuned model, if `model` was tuned. made_of: hashes that tell whether the index is up to date. written:
    cost of the written queries in it. golden: see golden_of.
    """

    model: Identity
    base: Base | None = None
    made_of: MadeOf = _OF_NOTHING
    written: WrittenCost | None = None
    golden: tuple[Golden, ...] = ()


def write(
    folder: Path,
    built: Built,
    passages: Sequence[Passage],
    origin: Origin,
    *,
    metadata: Sequence[Mapping[str, Value]] = (),
    report: Reporter | None = None,
) -> None:
    """Write all files into an empty folder, the manifest last. metadata: the fields of each passage, or () for none."""
    parts, base = built.parts, origin.base
    _write_passages(folder, passages)
    fields = write_columns(folder, passages, metadata)
    arrays: dict[str, Halves | Floats | Ints | Bytes | None] = {
        "one": parts.one,
        "base": base.vectors if base else None,
    }
    for name in _ROWS:
        rows: Rows | None = getattr(parts, name)
        if rows is not None:
            arrays |= {name: rows.vectors, f"{name}.starts": rows.starts}
    if parts.tokens is not None and built.tokens is not None:
        arrays |= {"tokens": parts.tokens.vectors, "tokens.starts": parts.tokens.starts}
        arrays |= {"tokens.projection": built.tokens.projection, "tokens.holders": built.tokens.holders}
    for name, array in arrays.items():
        if array is not None:
            with atomic_file(folder / f"{name}.npy", binary=True) as file:
                np.save(file, array, allow_pickle=False)
    for name in _WORDS:
        words: Bm25 | None = getattr(parts, name)
        if words is not None:
            words.save(folder / name)
    lists = approximate.write(folder, parts, built.retriever, built.sample, report or Silent())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    _write_manifest(
        folder,
        IndexManifest(
            model=origin.model,
            base=base.identity if base else None,
            retriever=built.retriever,
            passages=len(passages),
            fields=fields,
            made_of=origin.made_of,
            written=origin.written,
            approximate=lists,
            golden=origin.golden,
            files={path.relative_to(folder).as_posix(): _about(path) for path in files},
        ),
    )


def rewrite_metadata(
    source: Path,
    folder: Path,
    passages: Sequence[Passage],
    metadata: Sequence[Mapping[str, Value]],
    made_of: MadeOf,
) -> None:
    """Write a copy of the index `source` with other fields of its passages into an empty folder.

    Files that stay the same become hard links, or copies if the file system has no links.
    """
    manifest = read_manifest(source)
    for name in manifest.files:
        if name not in FILES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / name, folder / name)
            except OSError:
                shutil.copyfile(source / name, folder / name)
    fields = write_columns(folder, passages, metadata)
    files = {**manifest.files, **{name: _about(folder / name) for name in FILES}}
    update = {"fields": fields, "made_of": made_of, "files": dict(sorted(files.items()))}
    _write_manifest(folder, manifest.model_copy(update=update))


def _about(path: Path) -> StoredFile:
    return StoredFile(size=path.stat().st_size, sha256=sha256_file(path))


def _write_manifest(folder: Path, manifest: IndexManifest) -> None:
    with atomic_file(folder / MANIFEST) as file:
        file.write(manifest_text(manifest))


def _write_passages(folder: Path, passages: Sequence[Passage]) -> None:
    starts = [0]
    with atomic_file(folder / "passages.jsonl", binary=True) as file:
        for passage in passages:
            line = f"{encode_record(passage)}\n".encode()
            file.write(line)
            starts.append(starts[-1] + len(line))
    with atomic_file(folder / PASSAGE_STARTS, binary=True) as file:
        np.save(file, np.array(starts, np.int64), allow_pickle=False)


def read(folder: Path) -> Stored:
    """Open an index. Raises ArtifactMissing if there is none, InputError if a file has changed since it was written.

    The manifest has the size and hash of every file. Every size is compared; the hash only of files up to
    CHECKED_BYTES, because larger ones are mapped and not read.
    """
    manifest = read_manifest(folder)
    try:
        for name, file in manifest.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else -1
            if size != file.size or (size <= CHECKED_BYTES and sha256_file(path) != file.sha256):
                raise InputError(f"{path} is not the file that the index was made with.", remedy=AGAIN)
        return _read(folder, manifest)
    except (ValueError, LookupError, TypeError, AttributeError, EOFError) as error:  # numpy's, or the manifest's
        raise InputError(f"The index {folder} is damaged: {error}", remedy=AGAIN) from error


def _read(folder: Path, manifest: IndexManifest) -> Stored:
    parts = Parts(
        size=manifest.passages,
        one=_array(folder / "one.npy"),
        windows=_rows(folder, "windows"),
        queries=_rows(folder, "queries"),
        words=_bm25(folder, "words"),
        words_and_queries=_bm25(folder, "words_and_queries"),
        tokens=_tokens(folder),
        near=approximate.opened(folder, manifest.approximate, manifest.retriever),
    )
    starts = np.load(folder / PASSAGE_STARTS, allow_pickle=False)
    return Stored(
        folder=folder,
        starts=starts,
        lines=np.memmap(folder / "passages.jsonl", np.uint8, mode="r") if starts[-1] else None,
        manifest=manifest,
        model=manifest.model,
        retriever=manifest.retriever,
        parts=parts,
        tokens=_space(folder, manifest.passages),
        catalogue=Catalogue(manifest.fields, manifest.passages, folder),
        base=manifest.base,
        base_vectors=_array(folder / "base.npy"),
    )


def _array(path: Path) -> Any:  # noqa: ANN401 - an array of any type, or None
    """A mapped array. Copy-on-write, because torch warns of memory that it may not write."""
    return np.load(path, mmap_mode="c", allow_pickle=False) if path.exists() else None


def _rows(folder: Path, name: str) -> Rows | None:
    vectors = _array(folder / f"{name}.npy")
    return None if vectors is None else Rows(vectors, np.load(folder / f"{name}.starts.npy", allow_pickle=False))


def _tokens(folder: Path) -> Tokens | None:
    vectors = _array(folder / "tokens.npy")
    return None if vectors is None else Tokens(vectors, np.load(folder / "tokens.starts.npy", allow_pickle=False))


def _space(folder: Path, passages: int) -> TokenSpace | None:
    if not (folder / "tokens.projection.npy").exists():
        return None
    return TokenSpace(
        projection=np.load(folder / "tokens.projection.npy", allow_pickle=False),
        holders=np.load(folder / "tokens.holders.npy", allow_pickle=False),
        passages=passages,
    )


def _bm25(folder: Path, name: str) -> Bm25 | None:
    return Bm25.load(folder / name) if (folder / name).is_dir() else None
