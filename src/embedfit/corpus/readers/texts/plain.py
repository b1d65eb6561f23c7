"""Plain text → blocks: wrapped lines are joined, underlined and numbered lines are headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from embedfit.corpus.blocks import Block, BlockKind, ParsedDocument
from embedfit.corpus.cleaning import Vocabulary, clean_line, joined, vocabulary
from embedfit.corpus.readers.decoding import read_text_file
from embedfit.corpus.readers.registry import Progress, Reader

_UNDERLINE = re.compile(r"^([=\-~^\"'`#*+.:])\1{2,}\s*$")
_OVERLINED_LEVEL = 1
_MAX_HEADING = 150
_UNDERLINE_LEVELS = {"=": 2, "*": 2, "-": 3, "~": 4, "^": 5, '"': 5, "+": 5}
_BULLET = re.compile(r"^\s*(?:[•◦▪‣●*\-–+]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+")
_NUMBERED_HEADING = re.compile(
    r"^(?:\d{1,2}(?:\.\d{1,2})*\.?|chapter \w+\.?|part [ivx\d]+\.?|section \d+\.?)\s+\S", re.I
)
_COLUMNS = re.compile(r"\S(?: {3,}|\t)\S")
_SENTENCE_END = re.compile(r"[.!?:;,][\"”’)\]]*$")


def read_text(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a plain text file."""
    text, note = read_text_file(path)
    return ParsedDocument(blocks=tuple(blocks_of(text)), note=note)


def blocks_of(text: str) -> Iterator[Block]:
    """Blocks of plain text. A form feed begins a new page."""
    words = vocabulary([text]) if "-\n" in text else {}
    page_breaks = "\f" in text
    for number, page in enumerate(text.split("\f"), 1):
        for paragraph in re.split(r"\n[ \t]*(?:\n[ \t]*)+", page):
            yield from _paragraph(paragraph.strip("\n"), words, number if page_breaks else 0)


def _paragraph(paragraph: str, words: Vocabulary, page: int) -> Iterator[Block]:
    lines = [line.rstrip() for line in paragraph.split("\n") if line.strip()]
    begin = 0
    while begin < len(lines):
        taken, level, heading = _heading(lines[begin : begin + 4])
        if not taken:
            break
        if heading:
            yield Block(kind="heading", text=heading, level=level, page=page)
        begin += taken
    lines = lines[begin:]
    if not lines:
        return
    if sum(bool(_COLUMNS.search(line.strip())) for line in lines) >= max(2, 0.6 * len(lines)):
        yield Block(kind="table", text="\n".join(filter(None, map(clean_line, lines))), page=page)
    elif _is_code(lines):
        yield Block(kind="code", text=_dedented(lines), page=page)
    else:
        yield from _prose(lines, words, page)


def _heading(lines: list[str]) -> tuple[int, int, str]:
    """(lines taken, level, text) of a heading that lines begin with; (0, 0, "") for none. lines: 4, or all."""
    if len(lines) >= 3 and _UNDERLINE.match(lines[0]) and _UNDERLINE.match(lines[2]) and lines[0][0] == lines[2][0]:
        return 3, _OVERLINED_LEVEL, clean_line(lines[1])
    if (
        len(lines) >= 2
        and _UNDERLINE.match(lines[1])
        and len(lines[0].strip()) <= _MAX_HEADING
        and not _UNDERLINE.match(lines[0])
    ):
        return 2, _UNDERLINE_LEVELS.get(lines[1][0], 5), clean_line(lines[0])
    if _UNDERLINE.match(lines[0]):
        return 1, 0, ""
    line = lines[0].strip()
    alone = len(lines) == 1 and len(line) <= 90 and not _SENTENCE_END.search(line) and not lines[0][0].isspace()
    if alone and _NUMBERED_HEADING.match(line):
        numbers = re.match(r"^[\d.]+", line)
        return 1, 2 + (numbers[0].strip(".").count(".") if numbers else 0), clean_line(line)
    if alone and line.isupper() and len(line.split()) <= 12 and sum(char.isalpha() for char in line) >= 4:
        return 1, 3, clean_line(line)
    return 0, 0, ""


def _is_code(lines: list[str]) -> bool:
    indented = all(line[0] in " \t" for line in lines)
    symbols = sum(len(re.findall(r"[{}()\[\]=<>;_|\\]|>>>", line)) for line in lines)
    return indented and symbols > 0.04 * sum(map(len, lines))


def _dedented(lines: list[str]) -> str:
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(re.sub(r"[\x00-\x08\x0b-\x1f]", "", line[margin:].expandtabs(4)) for line in lines)


def _prose(lines: list[str], words: Vocabulary, page: int) -> Iterator[Block]:
    """A block for each bullet, and one for the text before the first."""
    items: list[tuple[BlockKind, list[str]]] = []
    for line in lines:
        if not (cleaned := clean_line(line)):
            continue
        if not items or _BULLET.match(line):
            items.append(("item" if _BULLET.match(line) else "text", []))
        items[-1][1].append(cleaned)
    for kind, texts in items:
        yield Block(kind=kind, text=joined(texts, words)[0], page=page)


READER = Reader(kind="text", extensions=(".txt", ".text", ".log", ".rst", ".adoc", ".asciidoc", ".org"), read=read_text)
