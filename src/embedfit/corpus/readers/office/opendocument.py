"""OpenDocument texts, spreadsheets and slides (LibreOffice) → blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from embedfit.corpus.blocks import Block, ParsedDocument, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.package import Package
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import record_blocks
from embedfit.corpus.readers.walker import Attributes, BlockWalker

_WHAT = "OpenDocument file"
_CONTENT = "content.xml"
_MIMETYPE = b"mimetypeapplication/vnd.oasis.opendocument."
#: The most repetitions of a repeated cell that are taken, and of all such cells together.
_MAX_REPEATED = 100
_MAX_ALL_REPEATED = 1_000_000


def read_opendocument(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of an .odt, .ods or .odp file. Deleted text and comments are listed as removed."""
    with Package(path, _WHAT) as package:
        if _CONTENT not in package.names:
            raise UnreadableDocument(f"not a readable {_WHAT}: the archive holds something else")
        walker = _Content()
        try:
            package.walk(_CONTENT, walker)
        except UnreadableDocument as error:
            if b"encryption-data" in package.read("META-INF/manifest.xml"):
                raise UnreadableDocument("protected by a password") from error
            raise
    return ParsedDocument(blocks=tuple(walker.blocks), pages=walker.page, removed=tuple(walker.removed))


class _Content(BlockWalker):
    """Reads content.xml. Only characters inside paragraphs and headings count."""

    skipped = frozenset(("office:forms", "text:sequence-decls", "text:note-citation"))
    listed: ClassVar[Mapping[str, str]] = {
        "text:tracked-changes": "deleted text (tracked change)",
        "office:annotation": "comment",
        "text:table-of-content": "table of contents",
        "text:ruby-text": "reading of characters (ruby)",
    }
    texts = frozenset(("text:p", "text:h"))
    signs: Mapping[str, str] = dict.fromkeys(("text:s", "text:tab", "text:line-break"), " ")
    counted = frozenset(("text:list", "office:spreadsheet"))
    table, row, cells = "table:table", "table:table-row", ("table:table-cell", "table:covered-table-cell")

    def __init__(self) -> None:
        super().__init__()
        #: The open paragraphs: pieces, level (0 for text), and blocks that follow.
        self._open: list[tuple[list[str], int, list[Block]]] = []
        self._sheet: list[list[str]] = []
        self._repeated: list[int] = []
        self._repeats_left = _MAX_ALL_REPEATED
        self.opens |= {
            "text:p": lambda _: self._open.append(([], 0, [])),
            "text:h": lambda a: self._open.append(([], _level(a.get("text:outline-level", "1")), [])),
            "text:note-body": self._open_beside,
            "drawing:text-box": self._open_beside,
            "drawing:page": self._open_page,
        }
        self.closes |= {
            "text:p": self._close_paragraph,
            "text:h": self._close_paragraph,
            "text:note-body": self.close_sink,
            "drawing:text-box": self.close_sink,
            self.row: self._close_row,
        }
        self.closes |= dict.fromkeys(self.cells, self._close_cell)

    def add(self, data: str) -> None:
        """A piece of the present paragraph's text."""
        if self._open:
            self._open[-1][0].append(data)

    def _open_page(self, _: Attributes) -> None:
        self.page += 1

    def _open_beside(self, _: Attributes) -> None:
        """Notes and text boxes stand inside a paragraph and follow it."""
        self.sinks.append(self._open[-1][2] if self._open else self.sinks[-1])

    def _close_paragraph(self) -> None:
        if not self._open:
            return
        parts, level, after = self._open.pop()
        text = clean_line("".join(parts))
        if text and level:
            self.emit("heading", text, level)
        elif text and self.inside["text:list"] and not self.tables:
            self.emit("item", f"• {text}")
        elif text:
            self.emit("text", text)
        self.sinks[-1].extend(after)

    @property
    def _is_sheet(self) -> bool:
        return self.inside["office:spreadsheet"] > 0

    def open_table(self, attributes: Attributes) -> None:
        """A table begins; the name of a sheet is a heading."""
        if self._is_sheet and not self.tables and (name := clean_line(attributes.get("table:name", ""))):
            self.blocks.append(Block(kind="heading", text=name, level=1))
        super().open_table(attributes)

    def open_cell(self, attributes: Attributes) -> None:
        """A cell begins."""
        repeated = attributes.get("table:number-columns-repeated", "1")
        self._repeated.append(int(repeated) if re.fullmatch(r"\d{1,9}", repeated) else 1)
        super().open_cell(attributes)

    def _close_cell(self) -> None:
        repeated = self._repeated.pop() if self._repeated else 1
        self.close_sink()
        if self.tables and self.tables[-1].rows and (row := self.tables[-1].rows[-1]):
            # Empty cells are repeated to the sheet's edge; only those between filled ones count.
            more = min(repeated - 1, _MAX_REPEATED, self._repeats_left)
            self._repeats_left -= more
            row.extend([row[-1]] * more)

    def _close_row(self) -> None:
        if self._is_sheet and len(self.tables) == 1:
            cells = self.tables[0].rows.pop() if self.tables[0].rows else []
            self._sheet.append([" ".join(block.text for block in cell) for cell in cells])

    def close_table(self) -> None:
        """A table ends; a sheet is read as records."""
        if not self._is_sheet or len(self.tables) != 1:
            super().close_table()
            return
        self.tables.pop()
        found = list(record_blocks(self._sheet))
        self._sheet = []
        if not found and self.blocks and self.blocks[-1].kind == "heading":
            self.blocks.pop()  # leave out the heading of an empty sheet
        self.blocks += found


def _level(text: str) -> int:
    return min(int(text), 9) if re.fullmatch(r"[1-9]\d?", text) else 1


READER = Reader(
    kind="opendocument",
    extensions=(".odt", ".ott", ".ods", ".ots", ".odp", ".otp"),
    read=read_opendocument,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and head[30:].startswith(_MIMETYPE),
    in_memory=False,
)
