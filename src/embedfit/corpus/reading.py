"""Reading one document and cutting it into chunks: the work of ingest that any process can do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.chunking import Chunk, Window, chunk
from embedfit.corpus.readers.isolation import Limits, ReadingProcess
from embedfit.corpus.readers.registry import readers
from embedfit.scale.executor import Tell

#: Share of the time that a document takes until it is read; the rest is for cutting it.
_READING_SHARE = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to read. kind: its reader's."""

    path: Path
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CutDocument:
    """A document that was read. text: the text of all its blocks."""

    parsed: ParsedDocument
    text: str
    chunks: tuple[Chunk, ...]


class Reading:
    """The work on files, as embedfit.scale defines it. Readers run in a process that it opens."""

    def __init__(self, limits: Limits, window: Window) -> None:
        self._limits, self._window = limits, window
        self._process: ReadingProcess | None = None

    def __enter__(self) -> Reading:
        self._process = ReadingProcess(self._limits)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.close()

    def __call__(self, file: File, tell: Tell) -> CutDocument | str:
        """The document, or the reason why it can't be read."""
        assert self._process is not None  # for the type checker: __enter__ set it
        try:
            parsed = self._process.read(
                readers()[file.kind],
                file.path,
                lambda number, pages: tell(_READING_SHARE * min(number / max(pages, 1), 1)),
            )
        except UnreadableDocument as error:
            return str(error)
        except OSError as error:
            return unreadable(error)
        text = "\n".join(block.text for block in parsed.blocks)
        if not text.strip():
            return "no text in it"
        return CutDocument(parsed=parsed, text=text, chunks=tuple(chunk(parsed.blocks, self._window)))


def unreadable(error: OSError) -> str:
    """The system's reason why a file can't be read, in words."""
    return f"can't be read: {error.strerror or error}"
