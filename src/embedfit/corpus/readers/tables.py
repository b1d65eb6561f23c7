"""Tables → blocks: rows as lines; a table that only arranges the page is replaced by the content of its cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest

from embedfit.corpus.blocks import Block

#: A cell with more text than this, in several paragraphs, is a part of the page, not a value.
_MAX_CELL = 400
#: A table with fewer filled cells to a row than this has one column.
_ONE_COLUMN = 1.2
#: Characters of one block of records, so that a long sheet is cut between rows.
_BLOCK_CHARACTERS = 1000
#: The most rows among which the header is searched, and the most characters of a column's name.
_HEADER_SAMPLE = 20
_MAX_NAME = 80
_WORD = re.compile(r"[^\W\d_]")
#: Numbers, dates and sentences are values, not names of columns.
_NO_NAME = re.compile(r"[.!?]$|^[\W\d]+\w{0,2}$|^\d{4}-\d\d")

Cell = list[Block]


@dataclass(slots=True)
class Table:
    """A table that is being read. Rows are lists of cells, a cell the blocks in it. deleted: text of deleted rows."""

    page: int = 0
    rows: list[list[Cell]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    _deleted_rows: set[int] = field(default_factory=set)

    def row(self) -> None:
        """Begin a row."""
        self.rows.append([])

    def cell(self) -> Cell:
        """Begin a cell, and give the list that takes its blocks."""
        if not self.rows:
            self.row()
        self.rows[-1].append([])
        return self.rows[-1][-1]

    def delete_row(self) -> None:
        """Leave out the row that is being read."""
        self._deleted_rows.add(len(self.rows) - 1)

    def blocks(self) -> Iterator[Block]:
        """The table's blocks, after its last row."""
        kept = []
        for index, row in enumerate(self.rows):
            filled = [cell for cell in row if cell]
            if index in self._deleted_rows:
                self.deleted.append(" | ".join(map(_cell_text, filled)))
            elif filled:
                kept.append(filled)
        one_column = sum(map(len, kept)) <= _ONE_COLUMN * len(kept)
        lines: list[str] = []
        for row in kept:
            if not one_column and not any(map(_is_page, row)):
                lines.append(" | ".join(map(_cell_text, row)))
                continue
            yield from _table_block(lines, self.page)
            lines = []
            for cell in row:
                yield from cell
        yield from _table_block(lines, self.page)


def _cell_text(cell: Cell) -> str:
    return " ".join(block.text for block in cell)


def _is_page(cell: Cell) -> bool:
    kinds = {block.kind for block in cell}
    return "table" in kinds or (
        len(cell) > 1 and ("heading" in kinds or sum(len(block.text) for block in cell) > _MAX_CELL)
    )


def _table_block(lines: list[str], page: int = 0) -> Iterator[Block]:
    if lines:
        yield Block(kind="table", text="\n".join(lines), page=page)


def record_blocks(rows: Iterable[Sequence[str]]) -> Iterator[Block]:
    """The blocks of a sheet of records: each row is a line that names its columns, "name: value; name: value".

    rows: cells as clean single lines, "" for empty ones. The header is the first row of about full width, if it looks
    like one; rows above it, and all rows of a sheet without a header, are lines with " | " between the cells.
    """
    iterator = iter(rows)
    first = list(islice((row for row in iterator if any(row)), _HEADER_SAMPLE))
    place = _header_place(first)
    header = () if place is None else first[place]
    above = first if place is None else first[:place]
    below = [] if place is None else first[place + 1 :]
    lines: list[str] = []
    length = 0
    for names, row in chain(
        (((), row) for row in above), ((header, row) for row in below), ((header, row) for row in iterator)
    ):
        line = _record(names, row)
        if not line:
            continue
        if length + len(line) > _BLOCK_CHARACTERS:
            yield from _table_block(lines)
            lines, length = [], 0
        lines.append(line)
        length += len(line)
    yield from _table_block(lines)


def _header_place(rows: Sequence[Sequence[str]]) -> int | None:
    widths = [sum(map(bool, row)) for row in rows]
    full = max(2, 0.6 * max(widths, default=0))
    place = next((index for index, width in enumerate(widths) if width >= full), None)
    if place is None or place + 1 == len(rows):
        return None
    names = [cell for cell in rows[place] if cell]
    good = all(len(name) <= _MAX_NAME and _WORD.search(name) and not _NO_NAME.search(name) for name in names)
    return place if good and len(set(names)) == len(names) else None


def _record(names: Sequence[str], row: Sequence[str]) -> str:
    if not names:
        return " | ".join(filter(None, row))
    return "; ".join(
        f"{name}: {cell}" if name else cell for name, cell in zip_longest(names, row, fillvalue="") if cell
    )
