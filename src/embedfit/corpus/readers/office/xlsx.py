"""Excel workbooks → blocks: every sheet, hidden ones too, as records that name their columns. Values, not formulas.

Words of charts and text boxes follow the sheets. Cells without a value that can be read are counted in the note.
"""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedfit.corpus.blocks import Block, ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.office.drawing import drawing_blocks
from embedfit.corpus.readers.package import MAX_BYTES, Package
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import record_blocks
from embedfit.corpus.readers.walker import TextCollector

if TYPE_CHECKING:
    from openpyxl.cell import Cell
    from openpyxl.worksheet.worksheet import Worksheet

#: The most cells that are read, with the empty ones between filled ones: a sheet has room for 17 billion. A row costs
#: the time of some more cells; rows without cells are only counted.
_MAX_CELLS = 1_000_000
_CELLS_OF_A_ROW = 4
_MAX_ROWS = 2_000_000
_DRAWINGS = re.compile(r"xl/(?:drawings/drawing|charts/chart|diagrams/data)\d*\.xml")
_COMMENTS = re.compile(r"xl/(?:comments\d*|comments/comment\d*|threadedComments/threadedComment\d*)\.xml")
_COMMENT_TEXTS, _COMMENT_ENDS = frozenset(("?:t", "?:text")), ("?:comment", "?:threadedComment")
_NO_COMMENTS = frozenset(("?:rPh", "?:author"))
_SHEET = re.compile(r"xl/worksheets/[^/]+\.xml")
#: The end of a cell with a formula and without a value.
_NO_VALUE = re.compile(
    rb"(?:</(?:\w{1,9}:)?f>|<(?:\w{1,9}:)?f\b[^<>]{0,200}/>)\s{0,9}"
    rb"(?:<(?:\w{1,9}:)?v ?/>|<(?:\w{1,9}:)?v>\s{0,9}</(?:\w{1,9}:)?v>)?\s{0,9}</(?:\w{1,9}:)?c>"
)
_LONGEST_END = 1 << 10
_DEFAULT_NAME = re.compile(r"\D{1,12}\d{0,3}")


def read_xlsx(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a workbook. A sheet's name is a heading; its rows are lines "column: value; column: value"."""
    with Package(path, "Excel workbook") as package:
        package.main_part()
        beside = _Beside(package)
    with zipfile.ZipFile(path) as archive:  # zipfile unpacks no more than this stated size
        if sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith(".xml")) > MAX_BYTES:
            raise UnreadableDocument(f"it unpacks to more than {MAX_BYTES >> 20} MiB")
    import openpyxl  # an extra

    blocks: list[Block] = []
    budget = _Budget()
    try:
        # An open file, because openpyxl judges a path by its extension, which may be wrong.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # its warnings are about parts of the file without text
            workbook = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
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
    except Exception as error:  # openpyxl's errors for damaged files are not documented
        raise UnreadableDocument(f"not a readable Excel workbook: {type(error).__name__}") from error
    notes = filter(None, (budget.note, beside.note, budget.errors))
    return ParsedDocument(blocks=(*blocks, *beside.blocks), note="; ".join(notes), removed=tuple(beside.removed))


class _Beside:
    """The content of a workbook beside the values of its cells.

    blocks: words of charts, diagrams and text boxes. removed: comments. note: formulas without a stored value, as
    programs leave them that write workbooks but can't calculate.
    """

    def __init__(self, package: Package) -> None:
        self.blocks: list[Block] = []
        self.removed: list[Removed] = []
        unknown = 0
        for name in sorted(package.names):
            if _DRAWINGS.fullmatch(name):
                self.blocks += drawing_blocks(package, name)
            elif _COMMENTS.fullmatch(name):
                comments = TextCollector(_COMMENT_TEXTS, _COMMENT_ENDS, skipped=_NO_COMMENTS)
                package.walk(name, comments)
                self.removed += (Removed(page=0, reason="comment", preview=text) for text in comments.found)
            elif _SHEET.fullmatch(name):
                unknown += _formulas_without_value(package.pieces(name))
        formulas = "1 formula has" if unknown == 1 else f"{unknown:,} formulas have"
        self.note = f"{formulas} no stored value: save the workbook in a spreadsheet program" if unknown else ""


def _formulas_without_value(pieces: Iterable[bytes]) -> int:
    """How many cells of a sheet's XML have a formula but no value. openpyxl gives either formulas or values."""
    found = 0
    held = b""
    for piece in pieces:
        held += piece
        end = held.rfind(b"c>") + 2
        if end > 1:
            found += len(_NO_VALUE.findall(held, 0, end))
            held = held[end:]
        held = held[-_LONGEST_END:]
    return found


class _Budget:
    """Gives the rows of sheets until their cells are used up. note: the cells that were not read, in words."""

    def __init__(self) -> None:
        self._cells = _MAX_CELLS
        self._rows = _MAX_ROWS
        self.note = ""
        self._errors: Counter[str] = Counter()

    @property
    def errors(self) -> str:
        """Cells that were left out because they hold an error, "" for none."""
        count = self._errors.total()
        if not count:
            return ""
        return f"{count:,} cell{'s' * (count != 1)} left out that hold{'s' * (count == 1)} an error " + (
            f"({', '.join(name for name, _ in self._errors.most_common(3))})"
        )

    def rows(self, sheet: Worksheet) -> Iterator[Sequence[str]]:
        """The rows of a sheet as texts."""
        sheet.reset_dimensions()  # the stated size may be wrong
        for number, row in enumerate(sheet.iter_rows(), 1):
            self._rows -= 1
            self._cells -= len(row) + _CELLS_OF_A_ROW if row else 0
            if self._cells < 0 or self._rows < 0:
                self.note = self.note or f"read up to row {number - 1:,} of sheet {clean_line(sheet.title)!r}"
                return
            self._errors.update(str(cell.value) for cell in row if cell.data_type == "e")
            yield [_text(cell) for cell in row]


def _text(cell: Cell) -> str:
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
