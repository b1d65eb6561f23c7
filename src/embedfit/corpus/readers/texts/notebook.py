"""Jupyter notebooks → blocks: Markdown, code and printed output. Pictures are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from embedfit.corpus.blocks import Block, ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import decode
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.texts import html, markdown

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_OBJECT = re.compile(r"\s*<[\w.]+(?: object)?(?: at 0x[0-9a-f]+)?>\s*", re.I)
#: Longer output is a log or a dump; it is listed as removed.
_MAX_OUTPUT = 10_000
#: Values in the file's JSON: each takes memory, however short it is.
_MAX_VALUES = 2_000_000


def read_notebook(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a notebook, of format 3 or 4."""
    data = path.read_bytes()
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES:
        raise UnreadableDocument(f"it has more than {_MAX_VALUES:,} values")
    try:
        notebook = json.loads(decode(data)[0])
    except (ValueError, RecursionError) as error:
        raise UnreadableDocument("not a readable notebook: it is no whole JSON") from error
    cells = list(_cells(notebook))
    if not cells:
        raise UnreadableDocument("not a readable notebook: it has no cells")
    removed: list[Removed] = []
    blocks = tuple(block for cell in cells for block in _cell_blocks(cell, removed))
    return ParsedDocument(blocks=blocks, removed=tuple(removed))


def _cells(notebook: object) -> Iterator[dict[str, object]]:
    if isinstance(notebook, dict):
        sheets = notebook.get("worksheets")  # notebooks of format 3
        for holder in [notebook, *(sheets if isinstance(sheets, list) else ())]:
            cells = holder.get("cells") if isinstance(holder, dict) else None
            yield from (cell for cell in (cells if isinstance(cells, list) else ()) if isinstance(cell, dict))


def _cell_blocks(cell: dict[str, object], removed: list[Removed]) -> Iterator[Block]:
    kind = cell.get("cell_type")
    source = _text(cell.get("source", cell.get("input")))
    if kind == "code":
        yield from _code(source)
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else ():
            kind, printed = _printed(output) if isinstance(output, dict) else ("", "")
            if len(printed) > _MAX_OUTPUT:
                removed.append(Removed(page=0, reason="long output of a cell", preview=clean_line(printed[:500])))
            elif kind == "text/markdown":
                yield from markdown.blocks_of(printed)
            elif kind == "text/html":
                yield from html.blocks_of(printed)
            else:
                yield from _code(printed)
    elif kind == "heading":
        level = cell.get("level")
        if text := clean_line(source):
            yield Block(kind="heading", text=text, level=level if level in (1, 2, 3, 4, 5, 6) else 1)
    elif kind == "markdown" or kind == "html":
        yield from markdown.blocks_of(source)
    else:
        yield from _code(source)


def _code(text: str) -> Iterator[Block]:
    text = _CONTROL.sub("", text).encode("utf-8", "replace").decode().strip("\n")
    if text.strip():
        yield Block(kind="code", text=text)


def _printed(output: dict[str, object]) -> tuple[str, str]:
    """(format, text) of an output: printed text, a value, a page, or an error's message."""
    if output.get("output_type") in ("error", "pyerr"):
        return "", f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}"
    found = output.get("data")
    data: dict[str, object] = found if isinstance(found, dict) else {}
    text = _ESCAPE.sub("", _text(output.get("text") or data.get("text/plain")))
    if "png" in output or any(str(key).startswith("image/") for key in data):
        return "", ""
    # The plain form of a displayed text is only the name of a class.
    named = not text.strip() or _OBJECT.fullmatch(text) is not None
    for kind in ("text/markdown", "text/html", "text/latex"):
        if (named or kind == "text/markdown") and (shown := _text(data.get(kind))):
            return kind, shown
    return "", text


def _text(value: object) -> str:
    """The text of a field, which is one string or a list of lines."""
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


READER = Reader(kind="notebook", extensions=(".ipynb",), read=read_notebook)
