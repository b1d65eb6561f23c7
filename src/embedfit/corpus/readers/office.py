"""Word and PowerPoint files → blocks. Both are zip archives of XML, read by python-docx and python-pptx."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedfit.corpus.blocks import Block, BlockKind, ParsedDocument, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.registry import Progress, Reader

#: A small archive that unpacks to more than this is an attack or a mistake.
_MAX_UNPACKED = 1 << 30
_OLE_MAGIC = b"\xd0\xcf\x11\xe0"
_HEADING_STYLE = re.compile(r"^heading (\d)", re.I)


def read_docx(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a Word file. Its running headers and footers are not part of the body."""
    _check_archive(path)
    import docx  # an extra

    try:
        blocks = tuple(_docx_blocks(docx.Document(str(path))))
    except Exception as error:  # what python-docx raises on a damaged file is not documented
        raise UnreadableDocument(f"not a readable Word file: {_first_line(error)}") from error
    return ParsedDocument(blocks=blocks)


def _docx_blocks(document: Any) -> Iterator[Block]:  # noqa: ANN401 - python-docx is untyped
    for part in document.iter_inner_content():
        if hasattr(part, "rows"):
            rows = [" | ".join(_distinct(clean_line(cell.text) for cell in row.cells)) for row in part.rows]
            if any(rows):
                yield Block(kind="table", text="\n".join(filter(None, rows)))
            continue
        text = clean_line(part.text)
        if not text:
            continue
        style = (part.style.name if part.style is not None else "") or ""
        match = _HEADING_STYLE.match(style)
        if style.lower().startswith("toc"):
            continue
        if match or style == "Title":
            yield Block(kind="heading", text=text, level=int(match[1]) + 1 if match else 1)
        else:
            kind: BlockKind = "item" if style.lower().startswith("list") else "text"
            yield Block(kind=kind, text=f"• {text}" if kind == "item" else text)


def _distinct(cells: Iterator[str]) -> list[str]:
    """Cells in order; a merged cell is given once for each column it spans, and taken once."""
    result: list[str] = []
    for cell in cells:
        if cell and (not result or result[-1] != cell):
            result.append(cell)
    return result


def read_pptx(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a PowerPoint file: of each slide its title, texts, tables and notes. A slide is a page."""
    _check_archive(path)
    import pptx  # an extra

    try:
        slides = list(pptx.Presentation(str(path)).slides)
        blocks = tuple(block for number, slide in enumerate(slides, 1) for block in _slide_blocks(slide, number))
    except Exception as error:  # as above
        raise UnreadableDocument(f"not a readable PowerPoint file: {_first_line(error)}") from error
    return ParsedDocument(blocks=blocks, pages=len(slides))


def _slide_blocks(slide: Any, number: int) -> Iterator[Block]:  # noqa: ANN401 - python-pptx is untyped
    title = slide.shapes.title
    if title is not None and (text := clean_line(title.text_frame.text)):
        yield Block(kind="heading", text=text, level=1, page=number)
    for shape in slide.shapes:
        if title is not None and shape.shape_id == title.shape_id:
            continue
        yield from _shape_blocks(shape, number)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        for paragraph in slide.notes_slide.notes_text_frame.paragraphs:
            if text := clean_line(paragraph.text):
                yield Block(kind="text", text=text, page=number)


def _shape_blocks(shape: Any, number: int) -> Iterator[Block]:  # noqa: ANN401 - python-pptx is untyped
    if hasattr(shape, "shapes"):  # a group
        for inner in shape.shapes:
            yield from _shape_blocks(inner, number)
    elif getattr(shape, "has_table", False) and shape.has_table:
        rows = [" | ".join(_distinct(clean_line(cell.text) for cell in row.cells)) for row in shape.table.rows]
        if any(rows):
            yield Block(kind="table", text="\n".join(filter(None, rows)), page=number)
    elif shape.has_text_frame:
        for paragraph in shape.text_frame.paragraphs:
            if text := clean_line(paragraph.text):
                yield Block(kind="item", text=f"• {text}", page=number)


def _check_archive(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) == _OLE_MAGIC:
            raise UnreadableDocument("protected by a password, or in the format of Office before 2007")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UnreadableDocument("damaged or cut short: not a whole Office file") from error
    if unpacked > _MAX_UNPACKED:
        raise UnreadableDocument(f"unpacks to {unpacked >> 20:,} MiB")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


DOCX = Reader(
    kind="docx",
    extensions=(".docx",),
    read=read_docx,
    extra="formats",
    sniff=lambda head: head.startswith(b"PK\x03\x04") and b"word/" in head,
    in_memory=False,
)
PPTX = Reader(
    kind="pptx",
    extensions=(".pptx",),
    read=read_pptx,
    extra="formats",
    sniff=lambda head: head.startswith(b"PK\x03\x04") and b"ppt/" in head,
    in_memory=False,
)
