"""Markdown → blocks: cmark, GitHub's parser, makes HTML of it, and the HTML reader does the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

from embedfit.corpus.blocks import Block, ParsedDocument, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import read_text_file
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.texts import elements, html
from embedfit.corpus.readers.texts.front_matter import front_matter

_PREVIEW = 120
_DELIMITERS = re.compile(r"[ >]{0,30}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_BAR = re.compile(r"(?<!\\)\|")
_MAX_COLUMNS = 200
_NOTE = re.compile(r"^ {0,3}\[\^([^\]\s]{1,80})\]:", re.M)
_REFERENCE = re.compile(r"\[\^([^\]\s]{1,80})\](?!:)")
_TAG = re.compile(r"<(/?)([a-z][a-z0-9-]{0,40})\b([^<>]{0,300})>", re.I)
_BLOCK_END = frozenset("p li h1 h2 h3 h4 h5 h6 td th dd dt blockquote".split())
#: Elements whose whole content is no text.
_SWALLOWS = frozenset("title textarea style xmp iframe noembed noframes script plaintext".split())


def read_markdown(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The document of a Markdown file."""
    text, note = read_text_file(path)
    return parse(text, note)


def blocks_of(text: str) -> tuple[Block, ...]:
    """Blocks of Markdown text: CommonMark, pipe tables, footnotes. The title of front matter is its first heading."""
    return parse(text).blocks


def parse(text: str, note: str = "") -> ParsedDocument:
    """The document of Markdown text; `removed` lists the rest of the front matter, `metadata` its fields."""
    from cmarkgfm import cmark  # C code, which only the reading process needs

    render: Callable[..., str] = cmark.markdown_to_html_with_extensions
    front, text = front_matter(text.removeprefix("\ufeff"))
    text = _with_all_notes(_with_wide_tables(text))
    page = render(
        text.encode("utf-8", "ignore").decode("utf-8"),
        cmark.Options.CMARK_OPT_UNSAFE | cmark.Options.CMARK_OPT_FOOTNOTES,  # safe: the HTML in it is read, never shown
        ["table", "strikethrough"],
    )
    parsed = html.parse(_with_names_in_angles(page), "; ".join(filter(None, (note, front.problem))))
    before = [Block(kind="heading", text=front.title, level=1)] if front.title else []
    before += [Block(kind="text", text=line) for line in map(clean_line, front.lines) if line]
    listed = (Removed(page=0, reason="front matter", preview=front.others[:_PREVIEW]),) if front.others else ()
    return replace(
        parsed, blocks=(*before, *parsed.blocks), removed=listed + parsed.removed, metadata=dict(front.fields)
    )


def _with_wide_tables(text: str) -> str:
    """The text with every table as wide as its widest row, because GitHub's parser drops cells beyond the header's."""
    if "|" not in text or "-" not in text:
        return text
    lines = text.split("\n")
    for number in range(1, len(lines)):
        header, delimiters = lines[number - 1], lines[number]
        if "|" not in header or not _DELIMITERS.fullmatch(delimiters):
            continue
        width = min(max(map(_columns, _rows(lines, number + 1)), default=0), _MAX_COLUMNS)
        more = width - _columns(header)
        if more > 0 and _columns(header) == _columns(delimiters):
            lines[number - 1] = header.rstrip().removesuffix("|") + "| " * more + "|"
            lines[number] = delimiters.rstrip().removesuffix("|") + "|-" * more + "|"
    return "\n".join(lines)


def _rows(lines: list[str], start: int) -> Iterator[str]:
    for number in range(start, len(lines)):
        if "|" not in lines[number] or _DELIMITERS.fullmatch(lines[number]):
            return
        yield lines[number]


def _columns(line: str) -> int:
    line = line.strip(" \t>")
    return len(_BAR.findall(line)) + 1 - line.startswith("|") - (line.endswith("|") and not line.endswith("\\|"))


def _with_all_notes(text: str) -> str:
    """The text with a reference to each footnote that has none, because the parser would drop it."""
    if "[^" not in text:
        return text
    used = set(_REFERENCE.findall(text))
    unused = [name for name in dict.fromkeys(_NOTE.findall(text)) if name not in used]
    return "".join(f"[^{name}]" for name in unused) + "\n\n" + text if unused else text


def _with_names_in_angles(page: str) -> str:
    """The page with false tags escaped as text, such as a name to fill in or an element that the text mentions.

    A tag is one that HTML knows, or that has a value or an end. An element that hides its content needs its end in the
    same paragraph, unless it begins a line.
    """
    ended = {match[2].lower() for match in _TAG.finditer(page) if match[1] or match[3].endswith("/")}
    text_at: set[int] = set()
    hiding: dict[str, tuple[int, bool]] = {}
    for tag in _TAG.finditer(page):
        name, is_end = tag[2].lower(), bool(tag[1])
        if name in _SWALLOWS and not tag[3].endswith("/"):
            if is_end:
                hiding.pop(name, None)
            else:
                hiding.setdefault(name, (tag.start(), page[tag.start() - 1 : tag.start()] in ("", "\n")))
        elif is_end and name in _BLOCK_END and hiding:
            text_at.update(start for start, is_block in hiding.values() if not is_block)
            hiding = {name: one for name, one in hiding.items() if one[1]}
        elif not elements.is_element(name) and name not in ended and "=" not in tag[3]:
            text_at.add(tag.start())
    text_at.update(start for start, _ in hiding.values())
    return _TAG.sub(lambda tag: escape(tag[0], quote=False) if tag.start() in text_at else tag[0], page)


READER = Reader(kind="markdown", extensions=(".md", ".markdown", ".mdx"), read=read_markdown)
