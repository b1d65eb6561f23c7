"""CSV and TSV → blocks: each row is a record that names its columns."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from embedfit.corpus.blocks import ParsedDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import read_text_file
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import record_blocks

_DELIMITERS = ",;\t|"
#: The first line of some files: it names the delimiter for Excel.
_EXCEL_HINT = re.compile(r"sep=(.)\n", re.I)
_SAMPLE_ROWS = 100
_SAMPLE = 1 << 17
_MAX_CHARACTERS = 128_000_000


def read_delimited(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a CSV or TSV file, in any encoding and with any of the usual delimiters."""
    text, note = read_text_file(path)
    hint = _EXCEL_HINT.match(text)
    start = hint.end() if hint else 0
    # A quote without a partner would swallow all lines up to the next one.
    quoting = csv.QUOTE_NONE if text.count('"') % 2 else csv.QUOTE_MINIMAL
    delimiter = hint[1] if hint else _delimiter(text[:_SAMPLE], quoting, "\t" if path.suffix.lower() != ".csv" else ",")
    rows = _Rows(text, start, delimiter, quoting)
    blocks = tuple(record_blocks(rows))
    notes = [note, f"the first {rows.given:,} rows were read" if rows.cut else ""]
    return ParsedDocument(blocks=blocks, note="; ".join(filter(None, notes)))


class _Rows:
    """The rows of a table as clean cells. given: how many rows it gave so far. cut: whether a limit ended it."""

    def __init__(self, text: str, start: int, delimiter: str, quoting: int) -> None:
        self._reader = _parsed(_lines(text, start), delimiter, quoting)
        self.given = 0
        self.cut = False

    def __iter__(self) -> Iterator[Sequence[str]]:
        characters = 0
        for row in self._reader:
            characters += sum(map(len, row))
            if characters > _MAX_CHARACTERS:
                self.cut = True
                return
            self.given += 1
            yield [clean_line(cell) for cell in row]


def _parsed(lines: Iterator[str], delimiter: str, quoting: int) -> Iterator[list[str]]:
    csv.field_size_limit(_MAX_CHARACTERS)
    return csv.reader(lines, delimiter=delimiter, quoting=quoting, skipinitialspace=True)  # type: ignore[arg-type]


def _lines(text: str, start: int = 0) -> Iterator[str]:
    """The lines one by one, because a list of them would double the memory."""
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _delimiter(sample: str, quoting: int, default: str) -> str:
    """The delimiter by which most of the first rows have the same number of columns, more than one."""
    best, score = default, 0
    for delimiter in (default, *_DELIMITERS.replace(default, "")):
        rows = _parsed(_lines(sample), delimiter, quoting)
        widths = Counter(len(row) for row in islice(rows, _SAMPLE_ROWS) if len(row) > 1)
        agreeing = max(widths.values(), default=0)
        if agreeing > score:
            best, score = delimiter, agreeing
    return best


READER = Reader(kind="csv", extensions=(".csv", ".tsv", ".tab"), read=read_delimited)
