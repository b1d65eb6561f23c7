"""Markdown → blocks, with its markup taken off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from embedfit.corpus.blocks import Block, ParsedDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import read_text_file
from embedfit.corpus.readers.registry import Progress, Reader

_FRONT_MATTER = re.compile(r"\A---\n(?P<body>.*?)\n(?:---|\.\.\.)\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(?P<title>.+?)[\"']?\s*$", re.MULTILINE)
_TAG = re.compile(r"<[^<>]+>")


def read_markdown(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a Markdown file."""
    text, note = read_text_file(path)
    return ParsedDocument(blocks=tuple(blocks_of(text)), note=note)


def blocks_of(text: str) -> Iterator[Block]:
    """Blocks of Markdown text: CommonMark and pipe tables. The title of front matter is its first heading."""
    front = _FRONT_MATTER.match(text)
    if front:
        title = _FRONT_TITLE.search(front["body"])
        if title:
            yield Block(kind="heading", text=clean_line(title["title"]), level=1)
        text = text[front.end() :]
    yield from _blocks(MarkdownIt("commonmark").enable("table").parse(text))


def _blocks(tokens: Sequence[Token]) -> Iterator[Block]:
    level, items = 0, 0
    rows: list[list[str]] | None = None
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            level = int(token.tag[1]) if token.nesting > 0 else 0
        elif token.type in ("list_item_open", "list_item_close"):
            items += token.nesting
        elif token.type == "table_open":
            rows = []
        elif token.type == "tr_open" and rows is not None:
            rows.append([])
        elif token.type == "table_close" and rows is not None:
            yield Block(kind="table", text="\n".join(" | ".join(row) for row in rows if any(row)))
            rows = None
        elif token.type in ("fence", "code_block") and token.content.strip():
            yield Block(kind="code", text=token.content.strip("\n"))
        elif token.type in ("inline", "html_block"):
            text = clean_line(_inline(token))
            if rows:
                rows[-1].append(text)
            elif text:
                yield _block(text, level, in_list=items > 0)


def _block(text: str, level: int, *, in_list: bool) -> Block:
    if level:
        return Block(kind="heading", text=text, level=level)
    return Block(kind="item", text=f"• {text}") if in_list else Block(kind="text", text=text)


def _inline(token: Token) -> str:
    """The text of inline markup: of a link its words, of an image its description."""
    if token.type == "html_block":
        return _TAG.sub(" ", re.sub(r"<!--.*?-->", " ", token.content, flags=re.DOTALL))
    parts = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type == "image":
            parts.append(child.content)
        elif child.type == "html_inline" and child.content.lower().startswith("<br"):
            parts.append(" ")
    return "".join(parts)


READER = Reader(kind="markdown", extensions=(".md", ".markdown", ".mdx"), read=read_markdown)
