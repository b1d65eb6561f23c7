"""Lines outside the document's text: running headers and footers, page numbers, tables of contents."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from embedfit.corpus.blocks import Removed
from embedfit.corpus.cleaning import LINE_HYPHENS

_PAGE_NUMBER = re.compile(
    r"^(?:[-–—]\s*)?(?:page\s+)?(?:\d{1,4}|[ivxlc]{1,6}|[A-Z]-\d{1,3})(?:\s*(?:of|/)\s*\d{1,4})?(?:\s*[-–—])?$", re.I
)
_CONTENTS_ENTRY = re.compile(
    r"^(?P<label>.*?\S)(?:\s*\.[ .]*\.|\s*…+|\s)\s*(?P<page>\d{1,4}|[ivxl]{1,6}|[A-Z]-\d{1,3})$"
)
_ENTRY_END = re.compile(r"[\divxl]\s*$")
_LEADERS = re.compile(r"\.\s?\.\s?\.")
#: Names of parts of a document: "Item 1A", "Chapter Two".
DIVISION = re.compile(r"^(?:item\s+\d{1,2}[a-z]?\b|chapter\s+\w+|article\s+[ivxl\d]+|appendix\s+\w\b)", re.I)
NUMBERED = re.compile(r"^\d{1,2}(?:\.\d{1,2}){1,4}\.?\s+[A-Z]")
_EDGE_LINES = 3
#: No longer line is an entry of a table of contents.
_MAX_ENTRY = 300


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


def _shape(text: str) -> str:
    return re.sub(r"\d+", "#", " ".join(text.lower().split())).strip(LINE_HYPHENS)


def without_running_lines(pages: Pages) -> tuple[list[list[Line]], list[Removed]]:
    """Pages without lines that stand at the top or bottom of many pages, digits apart, and without page numbers.

    A line counts as running if it is on 5 pages, or on 3 of a short document, at about the same height.
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
    marks = sum(
        bool(_LEADERS.search(texts[i]) or DIVISION.match(texts[i]) or NUMBERED.match(texts[i])) for i in entries
    )
    return marks >= len(entries) / 2
