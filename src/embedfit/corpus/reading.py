"""Reading one document and cutting it into chunks: the work of ingest that any process can do."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.chunking import Chunk, Window, chunk
from embedfit.corpus.readers.isolation import Limits, ReadingProcess
from embedfit.corpus.readers.registry import readers
from embedfit.errors import InputError
from embedfit.scale.executor import Tell

#: Share of the time that a document takes until it is read; the rest is for cutting it.
_READING_SHARE = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to read. kind: its reader's."""

    path: Path
    kind: str

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutDocument:
    """A document that was read. text: the text of all its blocks."""

    parsed: ParsedDocument
    text: str
    chunks: tuple[Chunk, ...]


class Readers:
    """What reading needs, as embedfit.scale's state: a process in which readers run, and the size of passages."""

    def __init__(self, limits: Limits, window: Window) -> None:
        self.window = window
        self._limits = limits
        self._process: ReadingProcess | None = None

    def __enter__(self) -> Readers:
        self._process = ReadingProcess(self._limits)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def parsed(self, file: File, tell: Tell) -> ParsedDocument:
        """The document's blocks. Raises UnreadableDocument or OSError."""
        assert self._process is not None  # for the type checker: __enter__ set it
        return self._process.read(
            readers()[file.kind],
            file.path,
            lambda number, pages: tell(_READING_SHARE * min(number / max(pages, 1), 1)),
        )


def read(opened: Readers, file: File, tell: Tell) -> CutDocument | str:
    """The document, or the reason why it can't be read. Raises InputError if this machine does not have the file."""
    if not file.path.exists():
        raise InputError(
            f"the file was listed, but {platform.node()} does not have it",
            remedy="Every machine that works must see the documents under the same path; then run it again.",
        )
    try:
        parsed = opened.parsed(file, tell)
    except UnreadableDocument as error:
        return str(error)
    except OSError as error:
        return unreadable(error)
    text = "\n".join(block.text for block in parsed.blocks)
    if not text.strip():
        return "no text in it"
    return CutDocument(parsed=parsed, text=text, chunks=tuple(chunk(parsed.blocks, opened.window)))


def unreadable(error: OSError) -> str:
    """The system's reason why a file can't be read, in words."""
    return f"can't be read: {error.strerror or error}"
