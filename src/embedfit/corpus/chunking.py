"""Blocks → passages that fit the model's window, cut at headings, paragraphs, rows and sentences."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from embedfit.corpus.blocks import Block
from embedfit.corpus.quality import DENSE

#: Of a passage's tokens, the title has at most this share.
TITLE_SHARE = 0.25
#: Sections below this share of the budget are put together with a neighbour under the same heading.
SMALL_SECTION = 0.4
SEPARATOR = " > "

_BOUNDARY = re.compile(
    r"(?P<lines>[ \t]*\n\s*)"
    r"|[.!?…][\"”’')\]]*(?P<gap>[ \t]+)(?=[\"“‘'(\[•]*[^\W_a-z])"
    r"|(?P<dense>[。！？｡][」』”’）]*)"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(“\"])(?:[A-Z]|[A-Z](?:\.[A-Z])+|Mr|Mrs|Ms|Dr|Prof|St|Nos?|vs|v|cf|e\.g|i\.e|Figs?|Eqs?|Secs?|Art|Vol"
    r"|pp?|approx|al|Inc|Corp|Ltd|Co|Jr|Sr|Gen|Rep|Sen|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)\.$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A passage without its ids. text is the document's cleaned text from start to end."""

    title: str
    text: str
    page: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Section:
    """What stands under one heading. start includes the heading itself, body does not."""

    path: tuple[str, ...]
    start: int
    body: int
    end: int


class Window:
    """Counts tokens as the model does. size: tokens of a passage with its title, special tokens not counted."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        # A copy: truncation, which tokenizer files often bring, would hide every token over the limit.
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.size = size

    def tokens(self, text: str) -> int:
        """Tokens of a text without special tokens."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(one.ids) for one in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def document_text(blocks: Sequence[Block]) -> tuple[str, list[int]]:
    """The cleaned text of a document, and where each block begins in it."""
    parts: list[str] = []
    starts: list[int] = []
    position = 0
    for index, block in enumerate(blocks):
        if index:
            separator = "\n" if block.kind == "item" and blocks[index - 1].kind == "item" else "\n\n"
            parts.append(separator)
            position += len(separator)
        starts.append(position)
        parts.append(block.text)
        position += len(block.text)
    return "".join(parts), starts


def chunk(blocks: Sequence[Block], window: Window) -> list[Chunk]:
    """The passages of a document, in order. They don't overlap, and all text but headings is in one of them."""
    text, starts = document_text(blocks)
    sections = _sections(blocks, starts)
    pages = _page_marks(blocks, starts)
    chunks: list[Chunk] = []
    for path, start, end in _grouped(sections, text, window):
        title = fit_title(path, window)
        budget = window.size - (window.tokens(title) if title else 0)
        for begin, stop in cut(text[start:end], window, budget):
            piece = text[start + begin : start + stop]
            chunks.append(
                Chunk(title=title, text=piece, page=_page(pages, start + begin), start=start + begin, end=start + stop)
            )
    return chunks


def _sections(blocks: Sequence[Block], starts: Sequence[int]) -> list[_Section]:
    sections: list[_Section] = []
    path: list[tuple[int, str]] = []
    start: int | None = None
    body: int | None = None
    end = 0

    def close() -> None:
        nonlocal start, body
        if body is not None and start is not None:
            sections.append(_Section(tuple(text for _, text in path), start, body, end))
        start = body = None

    for block, position in zip(blocks, starts, strict=True):
        if block.kind == "heading":
            close()
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, block.text))
            start = position
        else:
            start = position if start is None else start
            body = position if body is None else body
            end = position + len(block.text)
    close()
    return sections


def _grouped(sections: Sequence[_Section], text: str, window: Window) -> list[tuple[tuple[str, ...], int, int]]:
    """(heading path, start, end) of what becomes one or more passages: small sections go with a neighbour."""
    if not sections:
        return []
    sizes = window.tokens_of([text[section.start : section.end] for section in sections])
    room = window.size * (1 - TITLE_SHARE)
    groups: list[tuple[tuple[str, ...], int, int]] = []
    path, start, end, size = sections[0].path, sections[0].body, sections[0].end, sizes[0]
    first_start = sections[0].start
    for section, tokens in zip(sections[1:], sizes[1:], strict=True):
        common = _common(path, section.path)
        small = min(size, tokens) < SMALL_SECTION * window.size
        related = len(common) >= max(1, min(len(path), len(section.path)) - 1) or not (path and section.path)
        if small and related and size + tokens <= room:
            if len(common) < len(path):
                start = first_start  # its heading is no longer in the title, so it belongs to the text
            path, end, size = common, section.end, size + tokens
        else:
            groups.append((path, start, end))
            path, start, end, size = section.path, section.body, section.end, tokens
            first_start = section.start
    groups.append((path, start, end))
    return groups


def _common(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return first[:length]


def fit_title(path: Sequence[str], window: Window) -> str:
    """The heading path within the title's share: outer headings go first, then the last is cut at a word."""
    limit = int(window.size * TITLE_SHARE)
    parts = list(path)
    while len(parts) > 1 and window.tokens(SEPARATOR.join(parts)) > limit:
        parts.pop(0)
    title = SEPARATOR.join(parts)
    words = title.split(" ")
    while words and window.tokens(" ".join(words)) > limit:
        words.pop()
    return " ".join(words)


def cut(text: str, window: Window, budget: int) -> list[tuple[int, int]]:
    """(start, end) of pieces of at most `budget` tokens and of about equal length, in order, without outer space.

    A piece ends at a paragraph, row, sentence or word. A "word" that alone exceeds the budget, and
    only that, is cut inside.
    """
    units = _units(text, window, budget)
    pieces: list[tuple[int, int]] = []
    for first, last in pack([unit.tokens for unit in units], [unit.boundary for unit in units], budget):
        pieces += _fitting(text, units[first].start, units[last].end, window, budget)
    return pieces


def _fitting(text: str, start: int, end: int, window: Window, budget: int) -> list[tuple[int, int]]:
    """The piece, in as many parts as it takes: some tokenizers count a text higher than the sum of its sentences."""
    end = start + len(text[start:end].rstrip())
    start += len(text[start:end]) - len(text[start:end].lstrip())
    if start >= end:
        return []
    tokens = window.tokens(text[start:end])
    if tokens <= budget or end - start == 1:
        return [(start, end)]
    smaller = max(1, int(budget * 0.95 * budget / tokens) if tokens < 2 * budget else budget // 2)
    return [
        (start + begin, start + stop)
        for begin, stop in cut(text[start:end], window, smaller)
        if text[start + begin : start + stop].strip()
    ]


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence, or a word or less of one that is too long. boundary: what stands at its end."""

    start: int
    end: int
    boundary: int
    tokens: int = 0


_WORD_BOUNDARY, _SENTENCE_BOUNDARY, _ROW_BOUNDARY, _PARAGRAPH_BOUNDARY = range(4)
#: What a cut there costs, beside unevenness. Half a budget's unevenness costs 0.25.
_CUT_COST = (1.0, 0.08, 0.06, 0.0)


def pack(tokens: Sequence[int], boundaries: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """(first, last) unit of each piece: the cheapest way to cut, by dynamic programming.

    The cost of a piece is the square of its distance from an even share, in budgets, and that of the
    boundary at its end. A unit over the budget is a piece of its own.
    """
    count = len(tokens)
    total = sum(tokens)
    if not count:
        return []
    if total <= budget:
        return [(0, count - 1)]
    share = total / -(-total // budget)
    best = [0.0] * (count + 1)
    previous = [0] * (count + 1)
    for end in range(1, count + 1):
        best[end] = float("inf")
        cut_cost = _CUT_COST[boundaries[end - 1]] if end < count else 0.0
        size = 0
        for start in range(end - 1, -1, -1):
            size += tokens[start]
            if size > budget and start < end - 1:
                break
            cost = best[start] + ((size - share) / budget) ** 2 + cut_cost
            if cost < best[end]:
                best[end], previous[end] = cost, start
    pieces = []
    end = count
    while end:
        pieces.append((previous[end], end - 1))
        end = previous[end]
    return pieces[::-1]


def _units(text: str, window: Window, budget: int) -> list[_Unit]:
    """The sentences of a text with their tokens; those over the budget word by word."""
    spans = list(sentences(text))
    units: list[_Unit] = []
    for (start, end, boundary), tokens in zip(
        spans, window.tokens_of([text[start:end] for start, end, _ in spans]), strict=True
    ):
        if tokens <= budget:
            units.append(_Unit(start, end, boundary, tokens))
        else:
            units += _word_units(text, start, end, boundary, window, budget)
    return units


def _word_units(text: str, start: int, end: int, boundary: int, window: Window, budget: int) -> list[_Unit]:
    spans = [(start + match.start(), start + match.end()) for match in re.finditer(r"\S+", text[start:end])]
    pieces: list[tuple[int, int]] = []
    for (begin, stop), tokens in zip(spans, window.tokens_of([text[a:b] for a, b in spans]), strict=True):
        # Chinese, Japanese and Thai have no spaces: between their characters a cut is as good as it gets.
        if DENSE.search(text[begin:stop]):
            pieces += _dense_pieces(text, begin, stop)
        elif tokens > budget:
            step = max(1, (stop - begin) * budget // (2 * tokens))
            pieces += [(place, min(place + step, stop)) for place in range(begin, stop, step)]
        else:
            pieces.append((begin, stop))
    counts = window.tokens_of([text[a:b] for a, b in pieces])
    return [
        _Unit(a, b, boundary if number == len(pieces) - 1 else _WORD_BOUNDARY, tokens)
        for number, ((a, b), tokens) in enumerate(zip(pieces, counts, strict=True))
    ]


def _dense_pieces(text: str, start: int, end: int) -> list[tuple[int, int]]:
    pieces = []
    begin = start
    for place in range(start + 1, end):
        if DENSE.match(text[place]) or DENSE.match(text[place - 1]):
            pieces.append((begin, place))
            begin = place
    pieces.append((begin, end))
    return pieces


def sentences(text: str) -> Iterator[tuple[int, int, int]]:
    """(start, end, boundary) of each sentence, or part of one that a line break ends."""
    start = 0
    for match in _BOUNDARY.finditer(text):
        if match["lines"]:
            boundary = _PARAGRAPH_BOUNDARY if match["lines"].count("\n") > 1 else _ROW_BOUNDARY
        elif match["dense"] or not _ABBREVIATION.search(text[max(start, match.start() - 14) : match.start("gap")]):
            boundary = _SENTENCE_BOUNDARY
        else:
            continue
        if match.end() > start and text[start : match.end()].strip():
            yield start, match.end(), boundary
            start = match.end()
    if text[start:].strip():
        yield start, len(text), _PARAGRAPH_BOUNDARY


def _page_marks(blocks: Sequence[Block], starts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Offsets at which a page begins, and those pages."""
    offsets: list[int] = []
    pages: list[int] = []
    for block, start in zip(blocks, starts, strict=True):
        for offset, page in ((0, block.page), *block.breaks):
            offsets.append(start + offset)
            pages.append(page)
    return offsets, pages


def _page(marks: tuple[list[int], list[int]], offset: int) -> int:
    offsets, pages = marks
    index = bisect_right(offsets, offset) - 1
    return pages[index] if index >= 0 else 0
