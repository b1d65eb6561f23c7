"""Blocks → passages that fit the model's window, cut at headings, paragraphs, rows and sentences."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from tokenizers import Tokenizer

from embedfit.corpus.blocks import Block
from embedfit.retrieval.words import CLUSTER, UNSPACED

#: The title has at most this share of a passage's tokens.
TITLE_SHARE = 0.25
#: Sections below this share of the budget are joined to a neighbour under the same heading.
SMALL_SECTION = 0.4
SEPARATOR = " > "
_BATCH = 10_000

_BOUNDARY = re.compile(
    r"(?P<lines>\n\s*)"
    r"|[.!?…][\"”’»')\]]*(?P<gap>[ \t]+)(?=[\"“‘«¿¡'(\[•]*(?P<next>[^\W_a-z]))"
    # Signs that only end sentences, in Chinese, Arabic, Urdu, Indian scripts, Khmer, Burmese, …
    r"|(?P<sign>(?:[。！？｡؟۔।॥።։។៕။]|．(?![\d０-９]))[」』”’）»]*)"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(“\"])(?:[A-Z]|[A-Z](?:\.[A-Z])+|Mr|Mrs|Ms|Dr|Prof|St|Nos?|vs|v|cf|e\.g|i\.e|Figs?|Eqs?|Secs?|Art|Vol"
    r"|pp?|[ap]\.m|approx|al|Inc|Corp|Ltd|Co|Jr|Sr|Gen|Rep|Sen|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)\.$"
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
    """The text under one heading. start includes the heading itself, body does not."""

    path: tuple[str, ...]
    start: int
    body: int
    end: int


class Window:
    """Counts tokens as the model does. size: tokens of a passage with its title, special tokens not counted."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        # A copy without truncation, which tokenizer files often set and which would hide every token over the limit.
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.size = size

    def tokens(self, text: str) -> int:
        """Tokens of a text without special tokens."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        counts: list[int] = []
        for start in range(0, len(texts), _BATCH):
            encodings = self.tokenizer.encode_batch_fast(list(texts[start : start + _BATCH]), add_special_tokens=False)
            counts += [len(one.ids) for one in encodings]
        return counts


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
    blocks = _with_text(blocks)
    text, starts = document_text(blocks)
    units = _units(text, window)
    ends = [unit.end for unit in units]
    pages = _page_marks(blocks, starts)
    groups = _grouped(_sections(blocks, starts), units, ends, window)
    titles = [fit_title(group.path, window) for group in groups]
    budgets = [window.size - tokens for tokens in window.tokens_of(titles)]
    found: list[tuple[str, int, int, int]] = []
    for group, title, budget in zip(groups, titles, budgets, strict=True):
        # The title has no room for some words of the heading; they must not be lost, so the text begins with the
        # heading.
        whole = not group.path or title.endswith(group.path[-1])
        start = group.body if whole else group.start
        inside = units[bisect_right(ends, start) : bisect_left(ends, group.end) + 1]
        found += [(title, budget, *span) for span in _packed(text, inside, start, group.end, window, budget)]
    sizes = window.tokens_of([text[start:end] for _, _, start, end in found])
    chunks: list[Chunk] = []
    for (title, budget, first, last), size in zip(found, sizes, strict=True):
        # Some tokenizers count a text higher than the sum of its sentences.
        spans = [(first, last)] if size <= budget else _smaller(text, first, last, size, window, budget)
        chunks += [
            Chunk(title=title, text=text[start:end], page=_page(pages, start), start=start, end=end)
            for start, end in spans
        ]
    return chunks


def _with_text(blocks: Sequence[Block]) -> Sequence[Block]:
    """The blocks. If most of a document looks like headings (a poster, a slide), they become its text."""
    headings = sum(len(block.text) for block in blocks if block.kind == "heading")
    if 2 * headings <= sum(len(block.text) for block in blocks):
        return blocks
    return [replace(block, kind="text") if block.kind == "heading" else block for block in blocks]


def _sections(blocks: Sequence[Block], starts: Sequence[int]) -> list[_Section]:
    """The sections that have text. A section begins at its own heading; the headings above it are in its path."""
    sections: list[_Section] = []
    path: list[tuple[int, str]] = []
    heading: int | None = None
    is_open = False
    for block, position in zip(blocks, starts, strict=True):
        end = position + len(block.text)
        if block.kind == "heading":
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, block.text))
            heading, is_open = position, False
        elif is_open:
            sections[-1] = replace(sections[-1], end=end)
        else:
            start = position if heading is None else heading
            sections.append(_Section(tuple(text for _, text in path), start, position, end))
            is_open = True
    return sections


def _grouped(
    sections: Sequence[_Section], units: Sequence[_Unit], ends: Sequence[int], window: Window
) -> list[_Section]:
    """Sections, small ones joined to a neighbour under the same heading. ends: the units' ends."""
    if not sections:
        return []
    total = [0, *accumulate(unit.tokens for unit in units)]
    sizes = [
        total[min(bisect_left(ends, section.end) + 1, len(units))] - total[bisect_right(ends, section.start)]
        for section in sections
    ]
    room = window.size * (1 - TITLE_SHARE)
    groups: list[_Section] = [sections[0]]
    size = sizes[0]
    for section, tokens in zip(sections[1:], sizes[1:], strict=True):
        last = groups[-1]
        common = _common(last.path, section.path)
        small = min(size, tokens) < SMALL_SECTION * window.size
        related = len(common) >= max(1, min(len(last.path), len(section.path)) - 1) or not (last.path and section.path)
        if small and related and size + tokens <= room:
            # A heading that is no longer in the title belongs to the text.
            body = last.start if len(common) < len(last.path) else last.body
            groups[-1] = _Section(common, last.start, body, section.end)
            size += tokens
        else:
            groups.append(section)
            size = tokens
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

    A piece ends at a paragraph, row, sentence or word. Only a "word" that alone exceeds the budget is cut inside.
    """
    pieces: list[tuple[int, int]] = []
    spans = _packed(text, _units(text, window), 0, len(text), window, budget)
    for (start, end), size in zip(spans, window.tokens_of([text[a:b] for a, b in spans]), strict=True):
        pieces += [(start, end)] if size <= budget else _smaller(text, start, end, size, window, budget)
    return pieces


def _packed(
    text: str, units: Sequence[_Unit], start: int, end: int, window: Window, budget: int
) -> list[tuple[int, int]]:
    """Spans of at most `budget` tokens by the count of their units, without outer space."""
    fitting = [
        part for unit in units for part in ([unit] if unit.tokens <= budget else _clauses(text, unit, window, budget))
    ]
    spans = []
    for first, last in pack([unit.tokens for unit in fitting], [unit.boundary for unit in fitting], budget):
        span = _stripped(text, max(start, fitting[first].start), min(end, fitting[last].end))
        if span[0] < span[1]:
            spans.append(span)
    return spans


def _smaller(text: str, start: int, end: int, size: int, window: Window, budget: int) -> list[tuple[int, int]]:
    """A span of `size` tokens, over the budget, in parts that keep to it. One character is never parted."""
    if end - start <= 1:
        return [(start, end)]
    lower = max(1, min(budget - 1, budget * budget // size))
    return [(start + first, start + last) for first, last in cut(text[start:end], window, lower)]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence; or a word, or a part of one, of a sentence that is too long. boundary: the kind of its end."""

    start: int
    end: int
    boundary: int
    tokens: int = 0


_WORD_BOUNDARY, _CLAUSE_BOUNDARY, _SENTENCE_BOUNDARY, _ROW_BOUNDARY, _PARAGRAPH_BOUNDARY = range(5)
#: The cost of a cut at each kind of boundary, beside the cost of unevenness. Half a budget's unevenness costs 0.25.
_CUT_COST = (1.0, 0.3, 0.08, 0.06, 0.0)
_SOUTH_EAST = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese and Khmer set spaces between clauses
_CLAUSE = re.compile(rf"(?<=[;:,])\s+|(?<=[，、；：،؛၊])\s*|(?<=[{_SOUTH_EAST}])\s+(?=[{_SOUTH_EAST}])")
#: Words of a long clause are cut in groups, so many to a passage.
_WORD_GROUPS = 32


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


def _units(text: str, window: Window) -> list[_Unit]:
    """The sentences of a text with their tokens."""
    spans = list(sentences(text))
    counts = window.tokens_of([text[start:end] for start, end, _ in spans])
    return [_Unit(*span, tokens) for span, tokens in zip(spans, counts, strict=True)]


def _clauses(text: str, unit: _Unit, window: Window, budget: int) -> list[_Unit]:
    """The clauses of a sentence that is over the budget; a clause over the budget is given as words."""
    ends = [*(unit.start + match.end() for match in _CLAUSE.finditer(text[unit.start : unit.end])), unit.end]
    spans = [(start, end) for start, end in pairwise([unit.start, *ends]) if start < end]
    counts = window.tokens_of([text[start:end] for start, end in spans])
    result: list[_Unit] = []
    for (start, end), tokens in zip(spans, counts, strict=True):
        clause = _Unit(start, end, unit.boundary if end == unit.end else _CLAUSE_BOUNDARY, tokens)
        result += [clause] if tokens <= budget else _word_units(text, clause, window, budget)
    return result


def _word_units(text: str, unit: _Unit, window: Window, budget: int) -> list[_Unit]:
    """The words of a clause that is over the budget; a word over the budget is given in parts."""
    spans = [(unit.start + m.start(), unit.start + m.end()) for m in re.finditer(r"\S+", text[unit.start : unit.end])]
    pieces: list[tuple[int, int]] = []
    for (begin, stop), tokens in zip(spans, window.tokens_of([text[a:b] for a, b in spans]), strict=True):
        # Chinese, Japanese and Thai have no spaces, so a cut between letters is the best there is.
        if UNSPACED.search(text[begin:stop]):
            pieces += _unspaced_pieces(text, begin, stop)
        elif tokens > budget:
            step = max(1, (stop - begin) * budget // (2 * tokens))
            pieces += [(place, min(place + step, stop)) for place in range(begin, stop, step)]
        else:
            pieces.append((begin, stop))
    counts = window.tokens_of([text[a:b] for a, b in pieces])
    units: list[_Unit] = []
    for (a, b), tokens in zip(pieces, counts, strict=True):
        # A file without sentences is one clause of many thousand words; cutting a few of them at a time is fast.
        if units and units[-1].tokens + tokens <= budget // _WORD_GROUPS:
            units[-1] = _Unit(units[-1].start, b, _WORD_BOUNDARY, units[-1].tokens + tokens)
        else:
            units.append(_Unit(a, b, _WORD_BOUNDARY, tokens))
    if units:
        units[-1] = replace(units[-1], boundary=unit.boundary)
    return units


def _unspaced_pieces(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Spans of single letters with their marks, and of runs of letters that do have spaces."""
    pieces: list[tuple[int, int]] = []
    cut_before = False
    for match in CLUSTER.finditer(text, start, end):
        unspaced = UNSPACED.match(match[0]) is not None
        if pieces and not unspaced and not cut_before:
            pieces[-1] = (pieces[-1][0], match.end())
        else:
            pieces.append((match.start(), match.end()))
        cut_before = unspaced
    return pieces


def sentences(text: str) -> Iterator[tuple[int, int, int]]:
    """(start, end, boundary) of each sentence, or part of one that a line break ends."""
    start = 0
    for match in _BOUNDARY.finditer(text):
        if match["lines"]:
            boundary = _PARAGRAPH_BOUNDARY if match["lines"].count("\n") > 1 else _ROW_BOUNDARY
        elif match["next"] and match["next"].islower():
            continue
        elif match["sign"] or not _ABBREVIATION.search(text[max(start, match.start() - 14) : match.start("gap")]):
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
