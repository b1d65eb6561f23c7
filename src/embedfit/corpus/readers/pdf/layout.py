"""Lines of a PDF's pages → blocks: headings, paragraphs, list items and tables.

Each line is judged alone (its type, its words), then with the line before it, then with the line after it. Lines
of one kind that belong together become a block.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from embedfit.corpus.blocks import Block, BlockKind, Removed
from embedfit.corpus.cleaning import (
    LINE_HYPHENS,
    Vocabulary,
    clean_line,
    expand_ligatures,
    joined,
    mend_lost_ligatures,
    vocabulary,
)
from embedfit.corpus.readers.pdf.furniture import (
    DIVISION,
    NUMBERED,
    Line,
    Pages,
    without_contents,
    without_running_lines,
)

_BULLET = re.compile(
    r"^(?:(?P<sign>[•◦▪‣●○■□◆➢✓])\s*|[\-–*]\s+|\(?(?:[a-z]|[ivx]{1,4}|\d{1,2})\)\s+|\d{1,2}\.\s+(?=[A-Z]))"
)
_ITEM_END = re.compile(r"(?:[.!?:;,][\"”’)\]]*|[;,] (?:and|or))$")
_NUMBER = re.compile(r"^[$€£(+\-–—]*\d[\d,.]*[)%]*$|^[—–\-]+%?$|^[$€£%)(]+$|^N/?A$|^NM$|^\*+$")
_NOISE = re.compile(r"^(?:\(\d{1,2}\)|\*{1,3}|[†‡]|[_\-–—=.·\s]{3,}|\W)$")
_SENTENCE_END = re.compile(r"[.!?:;][\"”’)\]]*$")
_PART = re.compile(r"^(?:part|book|volume)\s+(?:[ivxl]{1,5}|\d{1,3})\b\.?", re.I)
_UNITS = re.compile(r"^\((?:in|unaudited|amounts|dollars|continued)\b", re.I)
_COLUMN_HEAD = re.compile(
    r",$|\b(?:years?|quarters?|months|weeks) (?:ended|ending)\b|^(?:as of|(?:december|june|march) 3[01])\b", re.I
)
_FIGURE = re.compile(r"[\d—–%$]")
_LETTER = re.compile(r"[^\W\d_]")

_MAX_HEADING = 350
_SHORT = 70
_ENOUGH_CHARACTERS = 400
#: From this rank on a line has no bold or larger type, only capitals or italics.
_CAPITALS, _ITALICS = 4.0, 5.0
#: Prose sets a character in about 0.45 of its size; a line much wider than its text has columns.
_SPARSE = 0.75

#: A heading's rank: the smallest is the highest. () for other lines.
Rank = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Usual:
    """The usual type of a document, or of the text around a page. leading: distance of baselines in points."""

    size: float
    bold: bool
    leading: float
    right: float
    width: float


@dataclass(slots=True)
class _Seen:
    """A line, the usual type around it, and the kind that it seems to be."""

    line: Line
    usual: _Usual
    kind: Literal["heading", "row", "text", "noise"] = "text"
    rank: Rank = ()

    @property
    def is_small(self) -> bool:
        """Whether the line's type is smaller than the text's."""
        return self.line.size < 0.93 * self.usual.size

    @property
    def is_short(self) -> bool:
        """Whether the line is short enough for a label."""
        return len(self.line.text) < _SHORT

    def follows(self, above: _Seen) -> bool:
        """Whether the line is directly under another line, as the next line of the same paragraph is."""
        gap = above.line.y - self.line.y
        return above.line.page == self.line.page and 0 < gap <= 1.3 * max(self.usual.leading, self.line.size * 1.05)


@dataclass(slots=True)
class _Group:
    """Lines that make a block."""

    kind: BlockKind
    rank: Rank
    lines: list[Line] = field(default_factory=list)


def blocks_of(pages: Pages) -> tuple[tuple[Block, ...], tuple[Removed, ...]]:
    """The blocks of a document, and the removed texts: running headers, page numbers, tables of contents."""
    kept, headers = without_running_lines(pages)
    kept, contents = without_contents(kept)
    words = vocabulary(line.text for page in kept for line in page)
    lines = [line for page in kept for one in page if (line := _cleaned(one, words)).text]
    blocks = [_block(group, words) for group in _grouped(_judged(lines))]
    ranks = sorted({rank for _, rank in blocks if rank})
    levels = {rank: level for level, rank in enumerate(ranks, 1)}
    return tuple(replace(block, level=levels.get(rank, 0)) for block, rank in blocks), (*headers, *contents)


def _cleaned(line: Line, words: Vocabulary) -> Line:
    text = mend_lost_ligatures(expand_ligatures(line.text), words)
    hyphen = text[-1:] if text[-1:] in tuple(LINE_HYPHENS) else ""
    return replace(line, text=clean_line(text) + hyphen)


# --- the usual type and distances


def _usual(lines: Sequence[Line]) -> _Usual:
    weights: Counter[tuple[float, bool]] = Counter()
    for line in lines:
        weights[(round(line.size * 2) / 2, line.bold)] += len(line.text)
    size, bold = max(weights, key=lambda style: weights[style])
    body = [line for line in lines if abs(line.size - size) <= 0.5] or list(lines)
    gaps = [
        above.y - below.y
        for above, below in pairwise(body)
        if above.page == below.page and 0.6 * size < above.y - below.y < 3 * max(size, 1)
    ]
    rights = sorted(line.x1 for line in body if len(line.text) > 40) or [line.x1 for line in body]
    right = rights[int(0.9 * (len(rights) - 1))]
    width = max(right - median(line.x0 for line in body), 1.0)
    return _Usual(size=size, bold=bold, leading=_usual_gap(gaps) or 1.2 * size, right=right, width=width)


def _usual_gap(gaps: Sequence[float]) -> float:
    """The smallest distance that occurs often: lists and tables are set wider than text. 0 for no gaps."""
    counts = Counter(round(gap * 2) / 2 for gap in gaps)
    often = [gap for gap, count in counts.items() if count >= 0.15 * len(gaps)]
    return min(often, default=max(counts, key=lambda gap: counts[gap], default=0.0))


def _with_usual(lines: Sequence[Line]) -> list[_Seen]:
    """The lines with the usual type around their page, because exhibits and appendices often have another size."""
    by_page: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        by_page[line.page].append(line)
    usual: dict[int, _Usual] = {}
    for page in by_page:
        around = [line for number in (page - 1, page, page + 1) for line in by_page.get(number, ())]
        enough = sum(len(line.text) for line in around) > _ENOUGH_CHARACTERS
        usual[page] = _usual(around if enough else lines)
    return [_Seen(line, usual[line.page]) for line in lines]


# --- the kind of a line


def _judged(lines: Sequence[Line]) -> list[_Seen]:
    """The lines with their kinds, without noise."""
    seen = _with_usual(lines)
    for above, one in zip([None, *seen], seen, strict=False):
        one.rank = _rank(one, continues=above is not None and above.kind == "heading" and one.follows(above))
        if _NOISE.match(one.line.text):
            one.kind = "noise"
        elif _is_row(one.line):
            one.kind = "row"
        elif one.rank:
            one.kind = "heading"
    for index, one in enumerate(seen):
        _beside_others(one, seen[index - 1] if index else None, seen[index + 1] if index + 1 < len(seen) else None)
    for one, below in reversed(list(pairwise(seen))):
        _above_another(one, below)
    counts = Counter(one.line.text for one in seen if one.kind == "heading")
    return [one for one in seen if one.kind != "noise" and not _is_refrain(one, counts[one.line.text])]


def _is_sparse(line: Line) -> bool:
    return bool(line.size) and (line.x1 - line.x0) / (len(line.text) * line.size) > _SPARSE


def _is_row(line: Line) -> bool:
    """Whether a line belongs to a table: it has columns with gaps, or mostly numbers."""
    tokens = line.text.split()
    if not _FIGURE.search(line.text):
        return 2 <= len(tokens) <= 12 and _is_sparse(line)
    numeric = sum(bool(_NUMBER.match(token)) for token in tokens)
    if (numeric >= 2 and numeric / len(tokens) >= 0.4) or (len(tokens) <= 4 and numeric == len(tokens)):
        return True
    return len(tokens) >= 2 and (numeric >= 1 or len(tokens) <= 12) and _is_sparse(line)


def _rank(one: _Seen, *, continues: bool) -> Rank:
    """The rank of a line as a heading, () for other lines.

    continues: the line before is a heading, and this one may be the rest of it.
    """
    line, usual, text = one.line, one.usual, one.line.text
    if one.is_small or len(text) > 200 or not _LETTER.search(text) or text[0] in "•◦▪" or _UNITS.match(text):
        return ()
    if (not continues and (text[0].islower() or text[0] in "(,;")) or (
        _is_sparse(line) and any(char.isdigit() for char in text)
    ):
        return ()
    caps = text.isupper() and len(_LETTER.findall(text)) >= 4
    larger = line.size > 1.12 * usual.size
    bold = line.bold and not usual.bold
    short = len(text) < 90 and not _SENTENCE_END.search(text)
    if _PART.match(text) and len(text) < 60 and (larger or bold or caps):
        return (0.0,)
    if DIVISION.match(text) and (larger or bold or (caps and len(text) < 120)):
        return (1.0,)
    if larger or bold:
        size = -round(line.size / usual.size, 1) if larger else 0.0
        return (2.0, size, 0.0 if bold else 0.5, 0.0 if caps else 1.0, 1.0 if line.italic else 0.0)
    if NUMBERED.match(text) and short:
        return (3.0, float(text.split()[0].strip(".").count(".")))
    if caps and short and len(text.split()) <= 12:
        return (_CAPITALS,)
    return (_ITALICS,) if line.italic and short and line.x1 < usual.right - 0.25 * usual.width else ()


def _beside_others(one: _Seen, above: _Seen | None, below: _Seen | None) -> None:
    """Labels between the rows of a table become rows; a bold line set off above a table becomes a heading."""
    line, usual = one.line, one.usual
    under_row, over_row = above is not None and above.kind == "row", below is not None and below.kind == "row"
    if one.kind == "heading" and over_row and not (_PART.match(line.text) or DIVISION.match(line.text)):
        gap = above.line.y - line.y if above is not None else 0.0
        stands_off = gap > 1.5 * usual.leading or gap < 0
        if _COLUMN_HEAD.search(line.text) or (under_row and not stands_off):
            one.kind = "row"
    elif one.kind == "row" and above is not None and above.kind == "text" and _ends_paragraph(above, one):
        one.kind = "text"  # "… for fiscal" / "2021."
    elif (
        one.kind == "text"
        and one.is_short
        and ((under_row and (over_row or one.is_small)) or (one.is_small and over_row))
    ):
        one.kind = "row"  # a column head, or the first line of a long label


def _ends_paragraph(above: _Seen, one: _Seen) -> bool:
    """Whether a line that looks like a row is the rest of the sentence in the full line above it."""
    return (
        not _SENTENCE_END.search(above.line.text)
        and one.follows(above)
        and above.line.x1 >= one.usual.right - 0.2 * one.usual.width
        and not _is_sparse(above.line)
        and len(one.line.text.split()) <= 4
    )


def _above_another(one: _Seen, below: _Seen) -> None:
    """Whole paragraphs in capitals or italics become text, and lines of small type above rows column heads."""
    if one.kind == "heading" and below.kind == "text" and one.rank[0] >= _CAPITALS and below.follows(one):
        if below.line.text.isupper() if one.rank == (_CAPITALS,) else below.line.italic:
            one.kind = "text"
    elif one.kind == "text" and below.kind == "row" and one.is_small and one.is_short:
        one.kind = "row"


def _is_refrain(one: _Seen, count: int) -> bool:
    """Whether a line is a sentence that recurs as a heading: "The accompanying notes are …"."""
    text = one.line.text
    return one.kind == "heading" and count > 1 and text.endswith(".") and len(text.split()) >= 6


# --- lines that belong together


def _grouped(seen: Sequence[_Seen]) -> list[_Group]:
    groups: list[_Group] = []
    for above, one in zip([None, *seen], seen, strict=False):
        last = groups[-1] if groups else None
        if above is None or last is None or not _joins(last, above, one):
            is_item = one.kind == "text" and _BULLET.match(one.line.text)
            kind: BlockKind = "table" if one.kind == "row" else "item" if is_item else one.kind  # type: ignore[assignment]
            last = _Group(kind, one.rank if kind == "heading" else ())
            groups.append(last)
        last.lines.append(one.line)
    return groups


def _joins(group: _Group, above: _Seen, one: _Seen) -> bool:
    """Whether a line continues the group whose last line is above."""
    if one.kind == "row":
        return group.kind == "table"
    if one.kind == "text":
        return group.kind in ("text", "item") and not _starts_paragraph(group, above.line, one)
    if group.kind != "heading" or not one.follows(above):
        return False
    # The name of "Item 7." continues on a second line.
    named = group.rank in ((0.0,), (1.0,)) and one.rank[0] == 2.0
    return named or (group.rank == one.rank and sum(len(line.text) for line in group.lines) < _MAX_HEADING)


def _starts_paragraph(group: _Group, above: Line, one: _Seen) -> bool:
    """Whether a line of text begins a new paragraph. group: the paragraph so far, whose last line is above."""
    line, usual, is_item = one.line, one.usual, group.kind == "item"
    bullet = _BULLET.match(line.text)
    # "24." or a dash at the beginning of a line may also be the rest of a sentence.
    if bullet and (bullet["sign"] or is_item or _ITEM_END.search(above.text)):
        return True
    if above.text[-1:] in (*LINE_HYPHENS, "-"):
        return False
    if abs(above.size - line.size) > 0.12 * max(usual.size, 1.0):
        return True
    ended = bool(_SENTENCE_END.search(above.text))
    if not ended and line.text[:1].islower():
        return False
    if line.page != above.page or line.y > above.y + usual.leading:  # a new page or column
        return ended or (line.text[:1].isupper() and line.x0 > above.x0 + usual.size)
    if above.y - line.y > 1.35 * max(usual.leading, line.size):
        return True
    if line.x0 > above.x0 + 0.8 * line.size and not (is_item and len(group.lines) == 1):
        return True
    if is_item and line.x0 < above.x0 - 0.8 * line.size:
        return ended
    return ended and above.x1 < usual.right - 0.2 * usual.width and line.text[:1].isupper()


def _block(group: _Group, words: Vocabulary) -> tuple[Block, Rank]:
    """(block without a level, its rank)."""
    texts = [line.text for line in group.lines]
    if group.kind == "table":
        text, starts = joined([text.rstrip(LINE_HYPHENS) for text in texts], words, separator="\n")
    else:
        text, starts = joined(texts, words)
    pages = [line.page for line in group.lines]
    breaks = tuple((start, new) for start, (old, new) in zip(starts[1:], pairwise(pages), strict=True) if old != new)
    is_text = group.kind == "heading" and len(text) > _MAX_HEADING
    kind = "text" if is_text else group.kind
    text = text.translate(dict.fromkeys(map(ord, LINE_HYPHENS), "-"))
    return Block(kind=kind, text=text, page=pages[0], breaks=breaks), () if is_text else group.rank
