"""Which files a person meant, of what kind they are, and what to call them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedfit.corpus.kinds import kind_of
from embedfit.errors import InputError

Role = Literal["train", "eval"]

_OFFICE_LEFTOVER = "~$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to read. problem: why it is not read, "" where it is."""

    path: Path
    document_id: str
    kind: str
    role: Role = "train"
    problem: str = ""


def discover(docs: Sequence[str], *, role: Role = "train", taken: Iterable[str] = ()) -> list[Source]:
    """The files that paths name, folders searched, in a stable order. taken: ids that are used already.

    Ids are paths relative to the folder that was named, made unique. Raises InputError for a path
    that is not there.
    """
    found: list[tuple[Path, str]] = []
    seen: set[Path] = set()
    for name in docs:
        root = Path(name).expanduser()
        if not root.exists():
            raise InputError(f"{root} is not there.", remedy="Name existing files or folders after the command.")
        files = _walk(root) if root.is_dir() else [root]
        for path in files:
            real = path.resolve()
            if real not in seen:
                seen.add(real)
                found.append((path, path.relative_to(root).as_posix() if root.is_dir() else path.name))
    ids = unique_ids([path for path, _ in found], [relative for _, relative in found], taken)
    sources = []
    for (path, _), document_id in zip(found, ids, strict=True):
        kind, problem = kind_of(path)
        sources.append(Source(path=path, document_id=document_id, kind=kind, role=role, problem=problem))
    return sources


def _walk(root: Path) -> Iterator[Path]:
    """The files under a folder, sorted, hidden ones left out. Linked folders are entered once, so loops end."""
    visited: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            names.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        if "embedfit.toml" in files and ".lock" in files:
            names.clear()  # a run folder: what embedfit wrote is no document
            continue
        names[:] = sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(files):
            if not name.startswith((".", _OFFICE_LEFTOVER)):
                yield Path(folder) / name


def unique_ids(paths: Sequence[Path], names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """An id for each file: its relative path without spaces, with parent folders where that is not unique."""
    used = set(taken)
    candidates = [re.sub(r"\s+", "_", name) for name in names]
    twice = {name for name, count in Counter(candidates).items() if count > 1} | (used & set(candidates))
    result = []
    for path, name in zip(paths, candidates, strict=True):
        parents = [re.sub(r"\s+", "_", part) for part in path.absolute().parent.parts[1:]]
        chosen, depth = name, len(Path(name).parts)
        if name in twice:
            outer = parents[: len(parents) - (depth - 1)] if depth > 1 else parents
            chosen = f"{outer[-1]}/{name}" if outer else name
        number = 2
        base = chosen
        while chosen in used:
            chosen, number = f"{base}~{number}", number + 1
        used.add(chosen)
        result.append(chosen)
    return result
