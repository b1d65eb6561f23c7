"""The user's cache: what lies in it, how large it is, and how it is cleaned."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from embedfit.files.atomic import disk_errors, is_temporary
from embedfit.runtime import cache_folder, default_vectors

VECTORS = "vectors"
#: Folders of the cache that hold what was converted, downloaded or measured.
OTHERS = ("models", "towers", "graphs", "tokenizers", "gates", "writers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing in the cache.

    key: under which vectors are stored; "" for other kinds. values: the number of vectors; None for other kinds.
    used: when it was last used, or written, in seconds since 1970.
    """

    kind: str
    name: str
    key: str
    values: int | None
    bytes: int
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The cache's size. bytes, folders: by kind. limit: the most bytes that vectors may have."""

    bytes: dict[str, int]
    folders: dict[str, str]
    limit: int


def entries() -> list[Entry]:
    """Everything in the cache, the longest unused first."""
    found = [
        Entry(kind=VECTORS, name=one.name, key=one.key, values=one.values, bytes=one.bytes, used=one.used)
        for one in default_vectors().holdings()
    ]
    for kind in OTHERS:
        for path in _within(cache_folder() / kind):
            size, used = _size(path)
            found.append(Entry(kind=kind, name=path.name, key="", values=None, bytes=size, used=used))
    return sorted(found, key=lambda one: (one.used, one.kind, one.name))


def sizes() -> Sizes:
    """The bytes of each kind."""
    store = default_vectors()
    folders = {VECTORS: store.folder, **{kind: cache_folder() / kind for kind in OTHERS}}
    every = entries()
    return Sizes(
        bytes={kind: sum(one.bytes for one in every if one.kind == kind) for kind in folders},
        folders={kind: str(folder) for kind, folder in folders.items()},
        limit=store.limit,
    )


def clean(*, most: int, everything: bool) -> int:
    """Delete vectors until at most `most` bytes are left, and, if asked, the other kinds. Returns the bytes deleted."""
    gone = default_vectors().clean(most=most)
    for path in (path for kind in OTHERS for path in _within(cache_folder() / kind)) if everything else ():
        gone += _size(path)[0]
        with disk_errors(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    return gone


def _within(folder: Path) -> list[Path]:
    """The whole files and folders in a folder; what another process is just writing is not one."""
    return sorted(path for path in folder.iterdir() if not is_temporary(path.name)) if folder.is_dir() else []


def _size(path: Path) -> tuple[int, float]:
    """The bytes of a file or folder, and when it was last written."""
    states = [one.lstat() for one in (path, *(path.rglob("*") if path.is_dir() else ()))]
    return sum(one.st_size for one in states), max(one.st_mtime for one in states)
