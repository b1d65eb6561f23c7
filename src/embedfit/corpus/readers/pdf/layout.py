"""Lines of a PDF's pages → blocks: what is a heading, a paragraph, a table, or not text of the document at all."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from embedfit.corpus.blocks import Block, Removed
from embedfit.corpus.cleaning import (
    LINE_HYPHENS,
    Vocabulary,
    clean_line,
    expand_ligatures,
    join_hyphen,
    line_gap,
    mend_lost_ligatures,
    vocabulary,
)

_BULLET = re.compile(
    r"^(?:(?P<sign>[•◦▪‣●○■□◆➢✓])\s*|[\-–*]\s+|\(?(?:[a-z]|[ivx]{1,4}|\d{1,2})\)\s+|\d{1,2}\.\s+(?=[A-Z]))"
)
_ITEM_END = re.compile(r"(?:[.!?:;,][\"”’)\]]*|[;,] (?:and|or))$")
_NUMBER = re.compile(r"^[$€£(+\-–—]*\d[\d,.]*[)%]*$|^[—–\-]+%?$|^[$€£%)(]+$|^N/?A$|^NM$|^\*+$")
_PAGE_NUMBER = re.compile(
    r"^(?:[-–—]\s*)?(?:page\s+)?(?:\d{1,4}|[ivxlc]{1,6}|[A-Z]-\d{1,3})(?:\s*(?:of|/)\s*\d{1,4})?(?:\s*[-–—])?$", re.I
)
_NOISE = re.compile(r"^(?:\(\d{1,2}\)|\*{1,3}|[†‡]|[_\-–—=.·\s]{3,}|\W)$")
_SENTENCE_END = re.compile(r"[.!?:;][\"”’)\]]*$")
_CONTENTS_ENTRY = re.compile(
    r"^(?P<label>.*?\S)(?:\s*\.[ .]*\.|\s*…+|\s)\s*(?P<page>\d{1,4}|[ivxl]{1,6}|[A-Z]-\d{1,3})$"
)
_ENTRY_END = re.compile(r"[\divxl]\s*$")
_LEADERS = re.compile(r"\.\s?\.\s?\.")
_PART = re.compile(r"^(?:part|book|volume)\s+(?:[ivxl]{1,5}|\d{1,3})\b\.?", re.I)
_ITEM = re.compile(r"^(?:item\s+\d{1,2}[a-z]?\b|chapter\s+\w+|article\s+[ivxl\d]+|appendix\s+\w\b)", re.I)
_UNITS = re.compile(r"^\((?:in|unaudited|amounts|dollars|continued)\b", re.I)
_COLUMN_HEAD = re.compile(
    r",$|\b(?:years?|quarters?|months|weeks) (?:ended|ending)\b|^(?:as of|(?:december|june|march) 3[01])\b",
    re.I,
)
_FIGURE = re.compile(r"[\d—–%$]")
_LETTER = re.compile(r"[^\W\d_]")
_NUMBERED = re.compile(r"^\d{1,2}(?:\.\d{1,2}){1,4}\.?\s+[A-Z]")

_EDGE_LINES = 3
_MAX_HEADING = 350
#: A line end cuts a word whose first part is shorter than this.
_MAX_WORD = 200
#: No longer line is an entry of a table of contents.
_MAX_ENTRY = 300
_SHORT = 70
_REFRAIN = 2
_ENOUGH_CHARACTERS = 400
#: From this rank on a line has no bold or larger type, only capitals or italics.
_WEAK_RANK = 4.0
#: Prose sets a character in about 0.45 of its size; a line much wider than its text has columns.
_SPARSE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a page. x0, x1, y (baseline, upwards) and size are in points; size is the font's height."""

    text: str
    page: int
    x0: float = 0.0
    x1: float = 0.0
    y: float = 0.0
    size: float = 0.0
    bold: bool = False
    italic: bool = False


Pages = Sequence[Sequence[Line]]


def blocks_of(pages: Pages) -> tuple[tuple[Block, ...], tuple[Removed, ...]]:
    """The blocks of a document, and what was left out: running headers, page numbers, tables of contents."""
    kept, headers = without_running_lines(pages)
    kept, contents = without_contents(kept)
    words = vocabulary(line.text for page in kept for line in page)
    lines = [_cleaned(line, words) for page in kept for line in page]
    lines = [line for line in lines if line.text]
    return tuple(_assemble(lines, words)), (*headers, *contents)


def _cleaned(line: Line, words: Vocabulary) -> Line:
    text = mend_lost_ligatures(expand_ligatures(line.text), words)
    hyphen = text[-1:] if text[-1:] in tuple(LINE_HYPHENS) else ""
    return replace(line, text=clean_line(text) + hyphen)


# --- running headers, footers and page numbers


def _shape(text: str) -> str:
    return re.sub(r"\d+", "#", " ".join(text.lower().split())).strip(LINE_HYPHENS)


def without_running_lines(pages: Pages) -> tuple[list[list[Line]], list[Removed]]:
    """Pages without lines that stand at the top or bottom of many pages, digits apart, and without page numbers.

    A line counts as running at 5 pages, or at 3 of a short document, at about the same height.
    """
    edges = [_edge_indices(page) for page in pages]
    places: dict[str, list[float]] = defaultdict(list)
    first_page: dict[str, Line] = {}
    for page, indices in zip(pages, edges, strict=True):
        seen = set()
        for index in sorted(indices):
            shape = _shape(page[index].text)
            if shape not in seen:
                seen.add(shape)
                places[shape].append(page[index].y)
                first_page.setdefault(shape, page[index])
    needed = 5 if len(pages) >= 12 else 3
    running = {
        shape
        for shape, heights in places.items()
        if any(char.isalpha() for char in shape) and _most_at_one_height(heights) >= needed
    }
    kept: list[list[Line]] = []
    for page, indices in zip(pages, edges, strict=True):
        outer = _outermost(page)
        kept.append(
            [
                line
                for index, line in enumerate(page)
                if not (index in indices and _shape(line.text) in running)
                and not (index in outer and _PAGE_NUMBER.match(line.text.strip()))
            ]
        )
    removed = [
        Removed(
            page=first_page[shape].page,
            reason=f"running header or footer ({len(places[shape])} pages)",
            preview=first_page[shape].text.strip(),
        )
        for shape in sorted(running, key=lambda shape: (first_page[shape].page, shape))
    ]
    return kept, removed


def _edge_indices(page: Sequence[Line]) -> set[int]:
    """The lines highest and lowest on a page, and those first and last in its reading order."""
    count = len(page)
    by_height = sorted(range(count), key=lambda index: -page[index].y)
    order = list(range(count))
    return {*by_height[:_EDGE_LINES], *by_height[-_EDGE_LINES:], *order[:_EDGE_LINES], *order[-_EDGE_LINES:]}


def _outermost(page: Sequence[Line]) -> set[int]:
    if not page:
        return set()
    heights = [line.y for line in page]
    edge = {heights.index(max(heights)), heights.index(min(heights)), 0, len(page) - 1}
    return edge


def _most_at_one_height(heights: Sequence[float]) -> int:
    """How many of the heights (points) lie within 6 points of one of them."""
    rounded = Counter(round(height / 4) for height in heights)
    return max(rounded[step] + rounded[step - 1] for step in rounded)


# --- tables of contents


def without_contents(pages: Pages) -> tuple[list[list[Line]], list[Removed]]:
    """Pages without runs of entries that end in page numbers, in order, such as "Item 1. Business 5"."""
    total = len(pages)
    kept: list[list[Line]] = []
    removed: list[Removed] = []
    for page in pages:
        drop = _contents_lines([line.text for line in page], total)
        kept.append([line for index, line in enumerate(page) if index not in drop])
        if drop:
            first = page[min(drop)]
            removed.append(Removed(page=first.page, reason="table of contents", preview=first.text.strip()))
    return kept, removed


def _contents_lines(texts: Sequence[str], pages: int) -> set[int]:
    """Indices of the lines of a table of contents, with its headings and entries that span lines."""
    entries: list[tuple[int, int]] = []
    for index, text in enumerate(texts):
        match = _CONTENTS_ENTRY.match(text.strip()) if len(text) <= _MAX_ENTRY and _ENTRY_END.search(text) else None
        # Without dot leaders a second number in the row means a table of figures.
        if (
            match
            and any(char.isalpha() for char in match["label"])
            and (_LEADERS.search(text) or not re.search(r"\d[\d,.%)]*$", match["label"]))
        ):
            number = match["page"]
            entries.append((index, int(number) if number.isdigit() else -1))
    best: list[int] = []
    current: list[tuple[int, int]] = []
    for index, number in entries:
        rises = not current or number == -1 or current[-1][1] == -1 or number >= current[-1][1]
        near = not current or index - current[-1][0] <= 4
        if not (rises and near) or number > pages + 50:
            current = []
        if number <= pages + 50:
            current.append((index, number))
        if len(current) > len(best):
            best = [place for place, _ in current]
    numbers = dict(entries)
    distinct = {numbers[index] for index in best}
    announced = any(re.fullmatch(r"(?:table of )?contents|index", text.strip(), re.I) for text in texts[:8])
    if len(best) < (4 if announced else 6) or len(distinct) < 3:
        return set()
    if not announced and not _leads_up(texts, best):
        return set()
    start = best[0]
    while start and len(texts[start - 1]) < 40 and best[0] - start < 4:
        start -= 1
    return set(range(start, best[-1] + 1))


def _leads_up(texts: Sequence[str], entries: Sequence[int]) -> bool:
    """Whether a run without the word "contents" is one: dot leaders, or Items and Parts."""
    marks = sum(bool(_LEADERS.search(texts[i]) or _ITEM.match(texts[i]) or _NUMBERED.match(texts[i])) for i in entries)
    return marks >= len(entries) / 2


# --- headings, paragraphs, tables


@dataclass(frozen=True, slots=True)
class _Page:
    """What is usual in a document. leading: distance of baselines in points."""

    size: float
    bold: bool
    leading: float
    right: float
    width: float


def _usual(lines: Sequence[Line]) -> _Page:
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
    left = median(line.x0 for line in body)
    return _Page(
        size=size, bold=bold, leading=_usual_gap(gaps) or 1.2 * size, right=right, width=max(right - left, 1.0)
    )


def _usual_gap(gaps: Sequence[float]) -> float:
    """The smallest distance that occurs often: lists and tables are set wider than text. 0 for no gaps."""
    counts = Counter(round(gap * 2) / 2 for gap in gaps)
    often = [gap for gap, count in counts.items() if count >= 0.15 * len(gaps)]
    return min(often, default=max(counts, key=lambda gap: counts[gap], default=0.0))


def _is_sparse(line: Line) -> bool:
    return bool(line.size) and (line.x1 - line.x0) / (len(line.text) * line.size) > _SPARSE


def _is_row(line: Line) -> bool:
    """Whether a line is of a table: columns with gaps, or mostly numbers."""
    tokens = line.text.split()
    if not _FIGURE.search(line.text):
        return 2 <= len(tokens) <= 12 and _is_sparse(line)
    numeric = sum(bool(_NUMBER.match(token)) for token in tokens)
    if numeric >= 2 and numeric / len(tokens) >= 0.4:
        return True
    if len(tokens) <= 4 and numeric == len(tokens):
        return True
    return len(tokens) >= 2 and (numeric >= 1 or len(tokens) <= 12) and _is_sparse(line)


def _heading_rank(line: Line, usual: _Page, *, continues: bool = False) -> tuple[float, ...] | None:
    """How high a heading a line looks to be (smaller is higher), None where it is none.

    continues: the line before is a heading, and this one may be the rest of it.
    """
    text = line.text
    if (
        len(text) > 200
        or not _LETTER.search(text)
        or _is_row(line)
        or text[0] in "•◦▪"
        or line.size < 0.93 * usual.size
    ):
        return None
    if (not continues and (text[0].islower() or text[0] in "(,;")) or _UNITS.match(text):
        return None
    if _is_sparse(line) and any(char.isdigit() for char in text):
        return None
    caps = text.isupper() and len(_LETTER.findall(text)) >= 4
    larger = line.size > 1.12 * usual.size
    bold = line.bold and not usual.bold
    styled = larger or bold
    if _PART.match(text) and len(text) < 60 and (styled or caps):
        return (0.0,)
    if _ITEM.match(text) and (styled or (caps and len(text) < 120)):
        return (1.0,)
    size = -round(line.size / usual.size, 1) if larger else 0.0
    if styled:
        return (2.0, size, 0.0 if bold else 0.5, 0.0 if caps else 1.0, 1.0 if line.italic else 0.0)
    if _NUMBERED.match(text) and len(text) < 90 and not _SENTENCE_END.search(text):
        return (3.0, float(text.split()[0].strip(".").count(".")))
    short = len(text) < 90 and not _SENTENCE_END.search(text)
    if caps and short and len(text.split()) <= 12:
        return (_WEAK_RANK,)
    if line.italic and short and line.x1 < usual.right - 0.25 * usual.width:
        return (5.0,)
    return None


def _usual_by_page(lines: Sequence[Line]) -> dict[int, _Page]:
    """What is usual around each page: exhibits and appendices are often set in another size."""
    by_page: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        by_page[line.page].append(line)
    whole = _usual(lines)
    result = {}
    for page in by_page:
        around = [line for number in (page - 1, page, page + 1) for line in by_page.get(number, ())]
        result[page] = _usual(around) if sum(len(line.text) for line in around) > _ENOUGH_CHARACTERS else whole
    return result


def _assemble(lines: Sequence[Line], words: Vocabulary) -> list[Block]:
    if not lines:
        return []
    usual = _usual_by_page(lines)
    ranks, kinds = _kinds(lines, usual)
    builder = _Builder(words)
    previous: Line | None = None
    for index, line in enumerate(lines):
        kind = kinds[index]
        rank = ranks[index]
        if kind == "heading" and rank is not None:
            joins = (
                previous is not None and kinds[index - 1] == "heading" and _follows(previous, line, usual[line.page])
            )
            builder.heading(line, rank, joins=joins)
        elif kind == "row":
            builder.row(line)
        elif kind != "noise":
            new = previous is None or _starts_paragraph(previous, line, builder, usual[line.page])
            builder.text(line, new=new)
        if kind != "noise":
            previous = line
    return builder.finish()


def _follows(above: Line, below: Line, usual: _Page) -> bool:
    """Whether a line stands directly under another, as the next line of the same paragraph does."""
    return above.page == below.page and 0 < above.y - below.y <= 1.3 * max(usual.leading, below.size * 1.05)


def _kinds(lines: Sequence[Line], usual: Mapping[int, _Page]) -> tuple[list[tuple[float, ...] | None], list[str]]:
    """For each line its rank as a heading, and what it is in the light of its neighbours."""
    ranks: list[tuple[float, ...] | None] = []
    kinds: list[str] = []
    for index, line in enumerate(lines):
        here = usual[line.page]
        above = lines[index - 1] if index else None
        continues = above is not None and kinds[-1] == "heading" and _follows(above, line, here)
        rank = _heading_rank(line, here, continues=continues)
        ranks.append(rank)
        if _NOISE.match(line.text):
            kinds.append("noise")
        elif _is_row(line):
            kinds.append("row")
        else:
            kinds.append("text" if rank is None else "heading")
    for index in range(len(lines)):
        _reconsider(lines, kinds, index, usual[lines[index].page])
    _demote_capitals(lines, kinds, ranks, usual)
    _demote_refrains(lines, kinds)
    # Column heads stand in small type above the first row, several lines deep.
    for index in range(len(lines) - 2, -1, -1):
        small = lines[index].size < 0.93 * usual[lines[index].page].size
        if kinds[index] == "text" and kinds[index + 1] == "row" and small and len(lines[index].text) < _SHORT:
            kinds[index] = "row"
    return ranks, kinds


def _ends_paragraph(above: Line, line: Line, usual: _Page) -> bool:
    """Whether a line that looks like a row is the rest of the sentence in the full line above it."""
    return (
        not _SENTENCE_END.search(above.text)
        and _follows(above, line, usual)
        and above.x1 >= usual.right - 0.2 * usual.width
        and not _is_sparse(above)
        and len(line.text.split()) <= 4
    )


def _demote_capitals(
    lines: Sequence[Line], kinds: list[str], ranks: Sequence[tuple[float, ...] | None], usual: Mapping[int, _Page]
) -> None:
    """Whole paragraphs in capitals or italics are text: such a line is no heading where its paragraph goes on."""
    for index in range(len(lines) - 2, -1, -1):
        rank, below = ranks[index], lines[index + 1]
        if kinds[index] == "heading" and rank is not None and rank[0] >= _WEAK_RANK and kinds[index + 1] == "text":
            same = below.text.isupper() if rank == (_WEAK_RANK,) else below.italic
            if same and _follows(lines[index], below, usual[below.page]):
                kinds[index] = "text"


def _demote_refrains(lines: Sequence[Line], kinds: list[str]) -> None:
    """A sentence that comes again and again ("The accompanying notes are …") is no heading."""
    counts = Counter(line.text for line, kind in zip(lines, kinds, strict=True) if kind == "heading")
    for index, line in enumerate(lines):
        refrain = counts[line.text] >= _REFRAIN and line.text.endswith(".") and len(line.text.split()) >= 6
        if kinds[index] == "heading" and refrain:
            kinds[index] = "noise"


def _reconsider(lines: Sequence[Line], kinds: list[str], index: int, usual: _Page) -> None:
    """Labels between the rows of a table are rows; a bold line that stands off above a table is a heading."""
    line = lines[index]
    before = kinds[index - 1] if index else ""
    after = kinds[index + 1] if index + 1 < len(lines) else ""
    short = len(line.text) < _SHORT
    small = line.size < 0.93 * usual.size
    if kinds[index] == "heading" and not (_PART.match(line.text) or _ITEM.match(line.text)):
        gap = lines[index - 1].y - line.y if index else 0.0
        stands_off = gap > 1.5 * usual.leading or gap < 0
        if after == "row" and (_COLUMN_HEAD.search(line.text) or (before == "row" and not stands_off)):
            kinds[index] = "row"
    elif kinds[index] == "row" and before == "text" and _ends_paragraph(lines[index - 1], line, usual):
        kinds[index] = "text"  # "… for fiscal" / "2021."
    elif kinds[index] == "text" and short and before == "row" and (after == "row" or small):
        kinds[index] = "row"  # the first line of a long label
    elif kinds[index] == "text" and short and small and after == "row":
        kinds[index] = "row"  # a column head


def _starts_paragraph(previous: Line, line: Line, builder: _Builder, usual: _Page) -> bool:
    """Whether a line of text begins a new paragraph."""
    bullet = _BULLET.match(line.text)
    # "24." or a dash at the beginning of a line may also be the rest of a sentence.
    if bullet and (bullet["sign"] or builder.is_item or _ITEM_END.search(previous.text)):
        return True
    if previous.text[-1:] in (*LINE_HYPHENS, "-"):
        return False
    if abs(previous.size - line.size) > 0.12 * max(usual.size, 1.0):
        return True
    ended = bool(_SENTENCE_END.search(previous.text))
    if not ended and line.text[:1].islower():
        return False
    if line.page != previous.page or line.y > previous.y + usual.leading:
        return ended or (line.text[:1].isupper() and line.x0 > builder.margin + usual.size)  # a new page or column
    gap = previous.y - line.y
    if gap > 1.35 * max(usual.leading, line.size):
        return True
    indented = line.x0 > previous.x0 + 0.8 * line.size
    if indented and not (builder.lines == 1 and builder.is_item):
        return True
    if builder.is_item and line.x0 < builder.margin - 0.8 * line.size:
        return ended
    return ended and previous.x1 < usual.right - 0.2 * usual.width and line.text[:1].isupper()


class _Builder:
    """Collects lines into blocks. margin: left edge of the present paragraph's last line, in points."""

    def __init__(self, words: Vocabulary) -> None:
        self._words = words
        self._blocks: list[Block] = []
        self._ranks: list[tuple[float, ...]] = []
        self._kind = ""
        # In parts, for adding a line to one long string copies the string.
        self._parts: list[str] = []
        self._length = 0
        self._page = 0
        self._last_page = 0
        self._breaks: list[tuple[int, int]] = []
        self._rank: tuple[float, ...] = ()
        self.lines = 0
        self.margin = 0.0

    @property
    def is_item(self) -> bool:
        """Whether the present paragraph is a list item."""
        return self._kind == "item"

    def text(self, line: Line, *, new: bool) -> None:
        if new or self._kind not in ("text", "item"):
            self._begin("item" if _BULLET.match(line.text) else "text", line)
        else:
            self._append(line)
        self.lines += 1
        self.margin = line.x0

    def heading(self, line: Line, rank: tuple[float, ...], *, joins: bool) -> None:
        if joins and self._kind == "heading" and rank == self._rank and self._length < _MAX_HEADING:
            self._append(line)
        elif joins and self._kind == "heading" and self._rank[:1] in ((0.0,), (1.0,)) and rank[:1] == (2.0,):
            self._append(line)  # "Item 7." is followed by the second line of its name
        else:
            self._begin("heading", line)
            self._rank = rank

    def row(self, line: Line) -> None:
        if self._kind == "table":
            self._break(line, "\n")
            self._add("\n" + line.text.rstrip(LINE_HYPHENS))
        else:
            self._begin("table", line)

    def _begin(self, kind: str, line: Line) -> None:
        self._end()
        self._kind = kind
        self._add(line.text)
        self._page = self._last_page = line.page
        self.lines = 0

    def _break(self, line: Line, separator: str) -> None:
        if line.page != self._last_page:
            self._breaks.append((self._length + len(separator), line.page))
            self._last_page = line.page

    def _append(self, line: Line) -> None:
        left = self._parts[-1]
        cut = left.endswith("-") and left[-2:-1].isalpha() and line.text[:1].islower()
        if cut or left[-1:] in tuple(LINE_HYPHENS):
            self._break(line, "")
            word = left[-_MAX_WORD:]
            self._parts[-1] = left[:-_MAX_WORD]
            self._length -= len(word)
            self._add(join_hyphen(word[:-1], line.text, self._words))
        else:
            gap = line_gap(left, line.text)
            self._break(line, gap)
            self._add(f"{gap}{line.text}")

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def _end(self) -> None:
        text = "".join(self._parts)
        if text[-1:] in tuple(LINE_HYPHENS):
            text = text[:-1] + "-"
        for mark in LINE_HYPHENS:
            text = text.replace(mark, "-")
        if text and self._kind == "heading" and len(text) > _MAX_HEADING:
            self._kind = "text"
        if text:
            breaks = tuple(place for place in self._breaks if place[0] < len(text))
            kind = self._kind
            self._blocks.append(Block(kind=kind, text=text, page=self._page, breaks=breaks))  # type: ignore[arg-type]
            self._ranks.append(self._rank if kind == "heading" else ())
        self._parts, self._length, self._kind, self._breaks = [], 0, "", []

    def finish(self) -> list[Block]:
        """The blocks, with heading levels from the order of the ranks that occur."""
        self._end()
        order = {rank: level for level, rank in enumerate(sorted({rank for rank in self._ranks if rank}), 1)}
        return [
            replace(block, level=order[rank]) if rank else block
            for block, rank in zip(self._blocks, self._ranks, strict=True)
        ]
