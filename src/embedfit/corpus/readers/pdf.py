"""PDF → lines with their place and font. What the lines mean is pdf_layout's business."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.readers.pdf_layout import Line, blocks_of
from embedfit.corpus.readers.registry import Progress, Reader

#: The C functions are bound at run time, so type checkers don't see them.
pdfium: Any = pypdfium2.raw

#: A page with fewer characters than this has no text worth the name: a scan, a figure, a blank.
_MIN_PAGE_CHARACTERS = 20
_WORD_START = re.compile(r"(?<=[ \ufffe\u00ad])\S")
_FONT_NAME_BYTES = 256


def read_pdf(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a PDF.

    Raises UnreadableDocument where no text can be had, and says why.
    """
    document = _open(path)
    try:
        total = len(document)
        pages: list[list[Line]] = []
        unread = 0
        for index in range(total):
            try:
                pages.append(list(_lines(document, index)))
            except pypdfium2.PdfiumError:
                pages.append([])
                unread += 1
            if progress is not None:
                progress(index + 1, total)
    finally:
        document.close()
    blank = sum(sum(len(line.text) for line in page) < _MIN_PAGE_CHARACTERS for page in pages)
    if total == 0 or blank == total:
        raise UnreadableDocument(
            f"no text in its {total} page{'s' * (total != 1)}, only images: run OCR on it first (for example ocrmypdf)"
        )
    notes = []
    if unread:
        notes.append(f"{unread} of {total} pages are damaged")
    elif blank > total // 2:
        notes.append(f"{blank} of {total} pages have no text (scans or figures)")
    if _cut_short(path):
        notes.append(f"the file is cut short; {total} pages were read")
    blocks, removed = blocks_of(pages)
    return ParsedDocument(blocks=blocks, pages=total, note="; ".join(notes), removed=removed)


def _open(path: Path) -> Any:  # noqa: ANN401 - pypdfium2 is untyped
    library: Any = pypdfium2
    try:
        return library.PdfDocument(path)
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


def _lines(document: pypdfium2.PdfDocument, index: int) -> Iterator[Line]:
    page = document[index]
    text_page = page.get_textpage()
    try:
        text = text_page.get_text_range()
        position = 0
        for raw in re.split(r"(\r\n|\r|\n)", text):
            if raw.strip() and raw not in ("\r\n", "\r", "\n"):
                yield from _visual_lines(text_page, raw, position, index + 1)
            position += len(raw.encode("utf-16-le")) // 2
    finally:
        text_page.close()
        page.close()


def _visual_lines(text_page: pypdfium2.PdfTextPage, raw: str, position: int, page: int) -> Iterator[Line]:
    """PDFium runs some visual lines into one (after bullets, dashes, hyphens): cut where the baseline jumps."""
    offset = len(raw) - len(raw.lstrip())
    end = len(raw.rstrip())
    first = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, position + offset)
    if first < 0:
        yield Line(text=raw.strip(), page=page)
        return
    starts = [offset, *(match.start() for match in _WORD_START.finditer(raw, offset, end))]
    x, y = ctypes.c_double(), ctypes.c_double()
    box = pdfium.FS_RECTF()
    baselines = []
    for start in starts:
        pdfium.FPDFText_GetCharOrigin(text_page, first + start - offset, x, y)
        baselines.append(y.value)
    begin, size = 0, 0.0
    for number in range(1, len(starts) + 1):
        at_end = number == len(starts)
        if begin == number - 1:
            pdfium.FPDFText_GetLooseCharBox(text_page, first + starts[begin] - offset, box)
            size = abs(box.top - box.bottom)
        if not at_end and abs(baselines[number] - baselines[number - 1]) <= 0.6 * max(size, 1.0):
            continue
        stop = end if at_end else starts[number]
        text = raw[starts[begin] : stop].rstrip(" ")
        yield _line(text_page, text, first + starts[begin] - offset, baselines[begin], page)
        begin = number


def _line(text_page: pypdfium2.PdfTextPage, text: str, first: int, baseline: float, page: int) -> Line:
    left, middle, right = pdfium.FS_RECTF(), pdfium.FS_RECTF(), pdfium.FS_RECTF()
    last = first + max(0, len(text.rstrip()) - 1)
    pdfium.FPDFText_GetLooseCharBox(text_page, first, left)
    # A bullet is often set in another font, and some characters have no box: the middle of three sizes.
    pdfium.FPDFText_GetLooseCharBox(text_page, (first + last) // 2, middle)
    pdfium.FPDFText_GetLooseCharBox(text_page, last, right)
    styles = [_font(text_page, index) for index in (first, (first + last) // 2, last)]
    return Line(
        text=text,
        page=page,
        x0=left.left,
        x1=max(right.right, left.left),
        y=baseline,
        size=round(sorted(abs(box.top - box.bottom) for box in (left, middle, right))[1], 1),
        bold=all(bold for bold, _ in styles),
        italic=all(italic for _, italic in styles),
    )


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
