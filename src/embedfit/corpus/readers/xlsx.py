"""Excel workbooks → blocks: every sheet, hidden ones too, as records that name their columns. Values, not formulas."""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedfit.corpus.blocks import Block, ParsedDocument, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.package import MAX_BYTES, Package
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import record_blocks

#: Cells that are looked at, empty ones between filled ones included: a sheet has room for 17 billion. A row takes the
#: time of some cells more; rows without cells are only counted.
_MAX_CELLS = 1_000_000
_CELLS_OF_A_ROW = 4
_MAX_ROWS = 2_000_000
_DEFAULT_NAME = re.compile(r"\D{1,12}\d{0,3}")


def read_xlsx(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a workbook. A sheet's name is a heading; its rows are lines "column: value; column: value"."""
    with Package(path, "Excel workbook") as package:
        package.main_part()
    with zipfile.ZipFile(path) as archive:  # unpacking stops at the size that is stated here
        if sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith(".xml")) > MAX_BYTES:
            raise UnreadableDocument(f"it unpacks to more than {MAX_BYTES >> 20} MiB")
    import openpyxl  # an extra

    library: Any = openpyxl
    blocks: list[Block] = []
    budget = _Budget()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parts of the file that are not its text
            workbook = library.load_workbook(path, read_only=True, data_only=True, keep_links=False)
            sheets = workbook.worksheets
            for number, sheet in enumerate(sheets, 1):
                found = list(record_blocks(budget.rows(sheet)))
                if found and (len(sheets) > 1 or not _DEFAULT_NAME.fullmatch(sheet.title)):
                    blocks.append(Block(kind="heading", text=clean_line(sheet.title), level=1))
                blocks += found
                if progress is not None:
                    progress(number, len(sheets))
            workbook.close()
    except (UnreadableDocument, MemoryError):
        raise
    except Exception as error:  # what openpyxl raises on a damaged file is not documented
        raise UnreadableDocument(f"not a readable Excel workbook: {type(error).__name__}") from error
    return ParsedDocument(blocks=tuple(blocks), note=budget.note)


class _Budget:
    """Gives the rows of sheets until their cells are used up. note: what was not read."""

    def __init__(self) -> None:
        self._cells = _MAX_CELLS
        self._rows = _MAX_ROWS
        self.note = ""

    def rows(self, sheet: Any) -> Iterator[Sequence[str]]:  # noqa: ANN401 - openpyxl is untyped
        """The rows of a sheet as texts."""
        sheet.reset_dimensions()  # the stated size may be wrong
        for number, row in enumerate(sheet.iter_rows(), 1):
            self._rows -= 1
            self._cells -= len(row) + _CELLS_OF_A_ROW if row else 0
            if self._cells < 0 or self._rows < 0:
                self.note = self.note or f"read up to row {number - 1:,} of sheet {clean_line(sheet.title)!r}"
                return
            yield [_text(cell) for cell in row]


def _text(cell: Any) -> str:  # noqa: ANN401 - as above
    value = cell.value
    if value is None or cell.data_type == "e":
        return ""
    if isinstance(value, str):
        return clean_line(value)
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ", "seconds")
    if isinstance(value, float):
        if "%" in (cell.number_format or ""):
            return f"{100 * value:.12g}%"
        return f"{value:.15g}"
    return str(value)


READER = Reader(
    kind="xlsx",
    extensions=(".xlsx", ".xlsm", ".xltx", ".xltm"),
    read=read_xlsx,
    extra="formats",
    sniff=lambda head: (
        head.startswith(b"PK\x03\x04") and b"xl/" in head and b"word/" not in head and b"ppt/" not in head
    ),
    in_memory=False,
)
