"""PDF → lines with their place and font. `layout` finds out what the lines are."""

from __future__ import annotations

import ctypes
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium

from embedfit.corpus.blocks import ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.pdf.forms import Entry, entries
from embedfit.corpus.readers.pdf.furniture import Line
from embedfit.corpus.readers.pdf.layout import blocks_of
from embedfit.corpus.readers.registry import Progress, Reader

#: A page with fewer characters than this counts as without text: a scan, a figure, a blank.
_MIN_PAGE_CHARACTERS = 20
_WORD_START = re.compile(r"(?<=[ \ufffe\u00ad])\S")
_FONT_NAME_BYTES = 256
#: A file may claim a billion pages. After so many damaged ones in a row no more are tried.
_MAX_DAMAGED = 200
_MAX_PAGES = 20_000
_MAX_CHARACTERS = 64_000_000


def read_pdf(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a PDF, with the text typed into its form and text boxes. Comments are listed as removed.

    Raises UnreadableDocument, with the reason, if it gives no text.
    """
    document = _open(path)
    try:
        found = _pages(document, progress)
        total = len(document)
        notes = _notes(document, found, path)
    finally:
        document.close()
    blocks, removed = blocks_of(found.pages)
    return ParsedDocument(blocks=blocks, pages=total, note="; ".join(notes), removed=(*removed, *found.comments))


@dataclass(slots=True)
class _Found:
    """The pages that were read so far. pages: the lines of each. damaged: how many pages could not be read."""

    pages: list[list[Line]] = field(default_factory=list)
    comments: list[Removed] = field(default_factory=list)
    damaged: int = 0
    characters: int = 0


def _pages(document: pypdfium2.PdfDocument, progress: Progress | None) -> _Found:
    document.init_forms()
    total = len(document)
    found = _Found()
    fields: set[str] = set()
    in_a_row = 0
    for index in range(min(total, _MAX_PAGES)):
        try:
            lines = _lines(document, index, fields, found.comments)
            in_a_row = 0
        except pypdfium2.PdfiumError:
            lines = []
            found.damaged += 1
            in_a_row += 1
        found.pages.append(lines)
        found.characters += sum(len(line.text) for line in lines)
        if progress is not None:
            progress(index + 1, total)
        if in_a_row == _MAX_DAMAGED or found.characters > _MAX_CHARACTERS:
            break
    return found


def _notes(document: pypdfium2.PdfDocument, found: _Found, path: Path) -> list[str]:
    """Notes on the parts that could not be read. Raises UnreadableDocument if no part could."""
    total = len(document)
    read = len(found.pages)
    blank = sum(sum(len(line.text) for line in page) < _MIN_PAGE_CHARACTERS for page in found.pages)
    if blank == read and found.damaged == read and total:
        raise UnreadableDocument(f"not a readable PDF: none of its {total:,} pages can be opened")
    if blank == read:
        raise UnreadableDocument(
            f"no text layer (scanned): no text in its {total:,} page{'s' * (total != 1)}, only images: "
            "run OCR on it first (for example ocrmypdf)"
        )
    notes = []
    if found.damaged:
        notes.append(f"{found.damaged} of {total:,} pages are damaged")
    elif blank > total // 2:
        notes.append(f"{blank} of {total} pages have no text (scans or figures)")
    if read < total:
        notes.append(f"only the first {read:,} of {total:,} pages were read")
    if document.get_formtype() in (pdfium.FORMTYPE_XFA_FULL, pdfium.FORMTYPE_XFA_FOREGROUND):
        notes.append("the values of its XFA form are not read")
    attached = pdfium.FPDFDoc_GetAttachmentCount(document)
    if attached > 0:
        notes.append(f"{attached} attached file{'s' * (attached != 1)} not read")
    if _cut_short(path):
        notes.append(f"the file is cut short; {total} pages were read")
    return notes


def _open(path: Path) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        message = str(error).lower()
        if "password" in message:
            raise UnreadableDocument("protected by a password") from error
        if "security" in message:
            raise UnreadableDocument("encrypted in a way that is not supported") from error
        reason = "the file is cut short" if _cut_short(path) else "the file is damaged"
        raise UnreadableDocument(f"not a readable PDF: {reason}") from error


def _cut_short(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2048))
        return b"%%EOF" not in file.read()


def _lines(document: pypdfium2.PdfDocument, index: int, fields: set[str], comments: list[Removed]) -> list[Line]:
    """The lines of a page, with the typed text in its place. fields and comments: extended with the page's."""
    page = document[index]
    try:
        lines, turn = _printed(page, index + 1)
        upright = -90 * turn % 360
        if lines and upright != page.get_rotation():
            # PDFium cuts the text of an unturned page into pieces and joins them backwards, so the page is turned.
            page.set_rotation(upright)
            lines, turn = _printed(page, index + 1)
        for entry in entries(document, page, fields):
            if entry.is_comment:
                comments.append(Removed(page=index + 1, reason="comment", preview=clean_line(entry.text)))
            else:
                _insert(lines, entry, turn, index + 1)
    finally:
        page.close()
    return lines


def _printed(page: pypdfium2.PdfPage, number: int) -> tuple[list[Line], int]:
    """The lines of a page's own text, and by how many quarter turns clockwise most of it is turned."""
    text_page = page.get_textpage()
    lines: list[Line] = []
    turns: Counter[int] = Counter()
    try:
        position = 0
        for raw in re.split(r"(\r\n|\r|\n)", text_page.get_text_range()):
            if raw.strip() and raw not in ("\r\n", "\r", "\n"):
                first = _index_of(text_page, raw, position)
                turn = _turn(text_page, first)
                turns[turn] += len(raw)
                lines += _visual_lines(text_page, raw, first, turn, number)
            position += len(raw.encode("utf-16-le", "surrogatepass")) // 2
    finally:
        text_page.close()
    return lines, max(turns, key=lambda turn: turns[turn], default=0)


def _index_of(text_page: pypdfium2.PdfTextPage, raw: str, position: int) -> int:
    """The number of the character with which a line's text begins; -1 if PDFium has none for it."""
    number: int = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, position + len(raw) - len(raw.lstrip()))
    return number


def _turn(text_page: pypdfium2.PdfTextPage, character: int) -> int:
    """How many quarter turns a character is turned clockwise."""
    angle = pdfium.FPDFText_GetCharAngle(text_page, character) if character >= 0 else 0.0
    return round(angle / (math.pi / 2)) % 4 if angle > 0 else 0


def _upright(x: float, y: float, turn: int) -> tuple[float, float]:
    """The coordinates of a place after the page is turned until its text is upright."""
    return ((x, y), (-y, x), (-x, -y), (y, -x))[turn]


def _visual_lines(text_page: pypdfium2.PdfTextPage, raw: str, first: int, turn: int, page: int) -> Iterator[Line]:
    """Cut at jumps of the baseline, because PDFium joins some visual lines (after bullets, dashes, hyphens).

    first: the number of the line's first character, see `_index_of`.
    """
    offset = len(raw) - len(raw.lstrip())
    end = len(raw.rstrip())
    if first < 0:
        yield Line(text=raw.strip(), page=page)
        return
    starts = [offset, *(match.start() for match in _WORD_START.finditer(raw, offset, end))]
    x, y = ctypes.c_double(), ctypes.c_double()
    baselines = []
    for start in starts:
        pdfium.FPDFText_GetCharOrigin(text_page, first + start - offset, x, y)
        baselines.append(_upright(x.value, y.value, turn)[1])
    begin, size = 0, 0.0
    for number in range(1, len(starts) + 1):
        at_end = number == len(starts)
        if begin == number - 1:
            _, bottom, _, top = _box(text_page, first + starts[begin] - offset, turn)
            size = top - bottom
        if not at_end and abs(baselines[number] - baselines[number - 1]) <= 0.6 * max(size, 1.0):
            continue
        stop = end if at_end else starts[number]
        text = raw[starts[begin] : stop].rstrip(" ")
        yield _line(text_page, text, first + starts[begin] - offset, baselines[begin], turn, page)
        begin = number


def _box(text_page: pypdfium2.PdfTextPage, character: int, turn: int) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of a character, upright, in points."""
    box = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(text_page, character, box)
    return _upright_box((box.left, box.bottom, box.right, box.top), turn)


def _upright_box(box: tuple[float, float, float, float], turn: int) -> tuple[float, float, float, float]:
    corners = _upright(box[0], box[1], turn), _upright(box[2], box[3], turn)
    (x0, x1), (y0, y1) = (sorted(values) for values in zip(*corners, strict=True))
    return x0, y0, x1, y1


def _line(text_page: pypdfium2.PdfTextPage, text: str, first: int, baseline: float, turn: int, page: int) -> Line:
    last = first + max(0, len(text.rstrip()) - 1)
    # The middle of three sizes, because a bullet often has another font, and some characters have no box.
    boxes = [_box(text_page, index, turn) for index in (first, (first + last) // 2, last)]
    styles = [_font(text_page, index) for index in (first, (first + last) // 2, last)]
    return Line(
        text=text,
        page=page,
        x0=boxes[0][0],
        x1=max(boxes[2][2], boxes[0][0]),
        y=baseline,
        size=round(sorted(top - bottom for _, bottom, _, top in boxes)[1], 1),
        bold=all(bold for bold, _ in styles),
        italic=all(italic for _, italic in styles),
    )


def _insert(lines: list[Line], entry: Entry, turn: int, page: int) -> None:
    """Put typed text into its place: into the printed line beside it, or between the lines above and below."""
    text = clean_line(entry.text)
    if not text:
        return
    x0, y0, x1, y1 = _upright_box(entry.box, turn)
    beside = [index for index, line in enumerate(lines) if line.size and y0 - 2 <= line.y <= y1]
    before = [index for index in beside if lines[index].x0 <= x0]
    if beside and entry.is_mark:
        place = min(beside, key=lambda index: abs(lines[index].x0 - x1))
        lines[place] = replace(lines[place], text=f"{text} {lines[place].text}")
    elif before:
        place = max(before, key=lambda index: lines[index].x0)
        lines[place] = replace(lines[place], text=f"{lines[place].text} {text}", x1=max(lines[place].x1, x1))
    else:
        place = max((index for index, line in enumerate(lines) if line.y > y1), default=-1) + 1
        name = f"{entry.name.rstrip(':')}: " if entry.name else ""
        size = lines[max(place - 1, 0)].size if lines else y1 - y0
        lines.insert(place, Line(text=f"{name}{text}", page=page, x0=x0, x1=x1, y=y0, size=size))


def _font(text_page: pypdfium2.PdfTextPage, index: int) -> tuple[bool, bool]:
    """(bold, italic) of a character."""
    buffer = ctypes.create_string_buffer(_FONT_NAME_BYTES)
    flags = ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(text_page, index, buffer, _FONT_NAME_BYTES, flags)
    name = buffer.value.decode("utf-8", "replace").lower()
    heavy = any(mark in name for mark in ("bold", "black", "heavy", "semibold", "-bd"))
    slanted = "italic" in name or "oblique" in name or bool(flags.value & 64)
    return heavy or pdfium.FPDFText_GetFontWeight(text_page, index) >= 600, slanted


READER = Reader(
    kind="pdf", extensions=(".pdf",), read=read_pdf, sniff=lambda head: b"%PDF-" in head[:1024], in_memory=False
)
