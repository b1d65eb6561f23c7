"""Markdown → blocks: cmark, GitHub's parser, makes HTML of it, and the HTML reader does the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedfit.corpus.blocks import Block, ParsedDocument, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers import html
from embedfit.corpus.readers.decoding import read_text_file
from embedfit.corpus.readers.registry import Progress, Reader

_FRONT_MATTER = re.compile(
    r"\A(?:---|\+\+\+)[ \t]*\n(?P<body>.*?)(?:^|\n)(?:---|\.\.\.|\+\+\+)[ \t]*(?:\n|\Z)", re.DOTALL
)
_TITLE = re.compile(r"title[ \t]*[:=]", re.I)
_WORTH_LISTING = 60
_PREVIEW = 120


def read_markdown(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The document of a Markdown file."""
    text, note = read_text_file(path)
    return parse(text, note)


def blocks_of(text: str) -> tuple[Block, ...]:
    """Blocks of Markdown text: CommonMark, pipe tables, footnotes. The title of front matter is its first heading."""
    return parse(text).blocks


def parse(text: str, note: str = "") -> ParsedDocument:
    """The document of Markdown text; `removed` lists what else front matter says."""
    from cmarkgfm import cmark  # C code, needed by the process that reads only

    render: Callable[..., str] = cmark.markdown_to_html_with_extensions
    front = _FRONT_MATTER.match(text)
    title, others = _front_matter(front["body"]) if front else ("", "")
    if front:
        text = text[front.end() :]
    page = render(
        text.encode("utf-8", "ignore").decode("utf-8"),
        cmark.Options.CMARK_OPT_UNSAFE | cmark.Options.CMARK_OPT_FOOTNOTES,  # the HTML in it is read, never shown
        ["table", "strikethrough"],
    )
    parsed = html.parse(page, note)
    heading = (Block(kind="heading", text=title, level=1),) if title else ()
    listed = (
        (Removed(page=0, reason="front matter", preview=others[:_PREVIEW]),) if len(others) > _WORTH_LISTING else ()
    )
    return replace(parsed, blocks=heading + parsed.blocks, removed=listed + parsed.removed)


def _front_matter(body: str) -> tuple[str, str]:
    """(the title, the other lines in one)."""
    title, others = "", []
    for line in body.split("\n"):
        key = _TITLE.match(line)
        if key and not title:
            title = clean_line(line[key.end() :].strip().strip("\"'"))
        else:
            others.append(line)
    return title, clean_line(" ".join(others))


READER = Reader(kind="markdown", extensions=(".md", ".markdown", ".mdx"), read=read_markdown)
