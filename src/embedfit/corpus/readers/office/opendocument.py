"""OpenDocument texts, spreadsheets and slides (LibreOffice) → blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from embedfit.corpus.blocks import Block, ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.package import Attributes, Package, Walker
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import Table, record_blocks

_WHAT = "OpenDocument file"
_CONTENT = "content.xml"
_MIMETYPE = b"mimetypeapplication/vnd.oasis.opendocument."
#: How often a cell that is said to be repeated is taken at most, and all of them together.
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
    return ParsedDocument(blocks=tuple(walker.blocks), pages=walker.pages, removed=tuple(walker.removed))


class _Content(Walker):
    """Reads content.xml. Characters count inside paragraphs and headings only."""

    skipped: ClassVar[frozenset[str]] = frozenset(("office:forms", "text:sequence-decls", "text:note-citation"))
    listed: ClassVar[Mapping[str, str]] = {
        "text:tracked-changes": "deleted text (tracked change)",
        "office:annotation": "comment",
        "text:table-of-content": "table of contents",
        "text:ruby-text": "reading of characters (ruby)",
    }
    texts: ClassVar[frozenset[str]] = frozenset(("text:p", "text:h"))

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self.removed: list[Removed] = []
        self.pages = 0
        self._sinks = [self.blocks]
        #: Paragraphs that are open: pieces, level (0 for text), and blocks that follow.
        self._open: list[tuple[list[str], int, list[Block]]] = []
        self._lists = 0
        self._tables: list[Table] = []
        self._is_sheet = False
        self._sheet: list[list[str]] = []
        self._repeated: list[int] = []
        self._repeats_left = _MAX_ALL_REPEATED
        self.opens |= {
            "text:p": lambda _: self._open.append(([], 0, [])),
            "text:h": lambda a: self._open.append(([], _level(a.get("text:outline-level", "1")), [])),
            "text:s": lambda _: self.add(" "),
            "text:tab": lambda _: self.add(" "),
            "text:line-break": lambda _: self.add(" "),
            "text:list": lambda _: self._count_lists(1),
            "text:note-body": self._open_beside,
            "drawing:text-box": self._open_beside,
            "office:spreadsheet": lambda _: setattr(self, "_is_sheet", True),
            "table:table": self._open_table,
            "table:table-row": lambda _: self._tables[-1].row() if self._tables else None,
            "table:table-cell": self._open_cell,
            "table:covered-table-cell": self._open_cell,
            "drawing:page": self._open_page,
        }
        self.closes |= {
            "text:p": self._close_paragraph,
            "text:h": self._close_paragraph,
            "text:list": lambda: self._count_lists(-1),
            "text:note-body": self._close_sink,
            "drawing:text-box": self._close_sink,
            "table:table-cell": self._close_cell,
            "table:covered-table-cell": self._close_cell,
            "table:table-row": self._close_row,
            "table:table": self._close_table,
        }

    def add(self, data: str) -> None:
        """A piece of the present paragraph's text."""
        if self._open:
            self._open[-1][0].append(data)

    def left_out(self, reason: str, text: str) -> None:
        """Deleted text, a comment or the contents."""
        if text.strip():
            self.removed.append(Removed(page=self.pages, reason=reason, preview=clean_line(text)))

    def _count_lists(self, step: int) -> None:
        self._lists += step

    def _open_page(self, _: Attributes) -> None:
        self.pages += 1

    def _open_beside(self, _: Attributes) -> None:
        """Notes and text boxes stand inside a paragraph and follow it."""
        self._sinks.append(self._open[-1][2] if self._open else self._sinks[-1])

    def _close_sink(self) -> None:
        if len(self._sinks) > 1:
            self._sinks.pop()

    def _close_paragraph(self) -> None:
        if not self._open:
            return
        parts, level, after = self._open.pop()
        text = clean_line("".join(parts))
        if text and level:
            self._sinks[-1].append(Block(kind="heading", text=text, level=level, page=self.pages))
        elif text and self._lists and not self._tables:
            self._sinks[-1].append(Block(kind="item", text=f"• {text}", page=self.pages))
        elif text:
            self._sinks[-1].append(Block(kind="text", text=text, page=self.pages))
        self._sinks[-1].extend(after)

    def _open_table(self, attributes: Attributes) -> None:
        if self._is_sheet and not self._tables and (name := clean_line(attributes.get("table:name", ""))):
            self.blocks.append(Block(kind="heading", text=name, level=1))
        self._tables.append(Table(page=self.pages))

    def _open_cell(self, attributes: Attributes) -> None:
        repeated = attributes.get("table:number-columns-repeated", "1")
        self._repeated.append(int(repeated) if re.fullmatch(r"\d{1,9}", repeated) else 1)
        self._sinks.append(self._tables[-1].cell() if self._tables else [])

    def _close_cell(self) -> None:
        repeated = self._repeated.pop() if self._repeated else 1
        self._close_sink()
        if self._tables and self._tables[-1].rows and (row := self._tables[-1].rows[-1]):
            # Empty cells are repeated to the sheet's edge; only those between filled ones count.
            more = min(repeated - 1, _MAX_REPEATED, self._repeats_left)
            self._repeats_left -= more
            row.extend([row[-1]] * more)

    def _close_row(self) -> None:
        if self._is_sheet and len(self._tables) == 1:
            cells = self._tables[0].rows.pop() if self._tables[0].rows else []
            self._sheet.append([" ".join(block.text for block in cell) for cell in cells])

    def _close_table(self) -> None:
        if not self._tables:
            return
        table = self._tables.pop()
        if self._is_sheet and not self._tables:
            found = list(record_blocks(self._sheet))
            self._sheet = []
            if not found and self.blocks and self.blocks[-1].kind == "heading":
                self.blocks.pop()  # the name of an empty sheet
            self.blocks += found
        else:
            self._sinks[-1].extend(table.blocks())


def _level(text: str) -> int:
    return min(int(text), 9) if re.fullmatch(r"[1-9]\d?", text) else 1


READER = Reader(
    kind="opendocument",
    extensions=(".odt", ".ott", ".ods", ".ots", ".odp", ".otp"),
    read=read_opendocument,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and head[30:].startswith(_MIMETYPE),
    in_memory=False,
)
