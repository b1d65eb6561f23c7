"""Which files a person meant, of what kind they are, and what to call them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedfit.errors import InputError

Kind = Literal["pdf", "markdown", "text", "html", "docx", "pptx", "beir", "unsupported"]
Role = Literal["train", "eval"]

_EXTENSIONS: dict[str, Kind] = {
    ".pdf": "pdf",
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".txt": "text",
    ".text": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".docx": "docx",
    ".pptx": "pptx",
}
_DATA = frozenset(
    ".json .jsonl .csv .tsv .xml .yaml .yml .toml .ini .lock .log .svg .css .js .ipynb .xlsx .xls .doc .ppt".split()
)
#: Beginnings of files that are surely no text.
_BINARY = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x7fELF", b"MZ", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"SQLite",
    b"RIFF", b"ID3", b"OggS",
)  # fmt: skip
_OFFICE_LEFTOVER = "~$"
_SNIFFED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to read. problem: why it is not read, "" where it is."""

    path: Path
    document_id: str
    kind: Kind
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


def kind_of(path: Path) -> tuple[Kind, str]:
    """(kind, problem) of a file: by its extension, and by its first bytes where that says nothing."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return "unsupported", "not a regular file"
        if path.stat().st_size == 0:
            return _EXTENSIONS.get(path.suffix.lower(), "unsupported"), "the file is empty (zero bytes)"
        suffix = path.suffix.lower()
        if suffix == ".jsonl":
            return _kind_of_jsonl(path)
        with path.open("rb") as file:
            head = file.read(_SNIFFED)
    except OSError as error:
        return "unsupported", f"can't be read: {error.strerror or error}"
    if path.parent.name == "qrels" and suffix == ".tsv":
        return "unsupported", "BEIR judgements are for evaluation only (--eval-beir)"
    if suffix in _DATA:
        return "unsupported", f"the format {suffix} is not supported"
    kind = _EXTENSIONS.get(suffix) or _sniff(head)
    return (kind, "") if kind != "unsupported" else (kind, "unknown format: neither text nor a supported document")


def _kind_of_jsonl(path: Path) -> tuple[Kind, str]:
    """A BEIR corpus, or nothing that is read: human queries in particular never are."""
    if path.name.startswith("queries"):
        return "unsupported", "BEIR queries are for evaluation only (--eval-beir)"
    if path.name == "corpus.jsonl":
        return "beir", ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        record = json.loads(first)
    except ValueError:
        return "beir", ""  # read in full, which names the line
    if isinstance(record, dict) and "_id" in record and "text" in record:
        return "beir", ""
    return "unsupported", "JSONL without the fields _id and text of a BEIR corpus"


def _sniff(head: bytes) -> Kind:
    start = head.lstrip()[:64].lower()
    if head.startswith(b"%PDF") or b"%PDF-" in head[:1024]:
        return "pdf"
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if head.startswith(b"PK\x03\x04"):
        return "docx" if b"word/" in head else "pptx" if b"ppt/" in head else "unsupported"
    if head.startswith(
        (
            b"\x89PNG",
            b"\xff\xd8\xff",
            b"GIF8",
            b"\x7fELF",
            b"MZ",
            b"\x1f\x8b",
            b"7z\xbc\xaf",
            b"Rar!",
            b"SQLite",
            b"RIFF",
            b"ID3",
            b"OggS",
        )
    ):
        return "unsupported"
    return "text"
