"""Markdown → blocks, with its markup taken off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from embedfit.corpus.blocks import Block, BlockKind, ParsedDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import read_text_file

_FRONT_MATTER = re.compile(r"\A---\n(?P<body>.*?)\n(?:---|\.\.\.)\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(?P<title>.+?)[\"']?\s*$", re.MULTILINE)
_TAG = re.compile(r"<[^<>]+>")


def read_markdown(path: Path) -> ParsedDocument:
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
    rows: list[str] = []
    cells: list[str] = []
    in_table = False
    for token in tokens:
        if token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "heading_close":
            level = 0
        elif token.type == "list_item_open":
            items += 1
        elif token.type == "list_item_close":
            items -= 1
        elif token.type == "table_open":
            in_table, rows = True, []
        elif token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            rows.append(" | ".join(cells).strip(" |"))
        elif token.type == "table_close":
            in_table = False
            yield Block(kind="table", text="\n".join(filter(None, rows)))
        elif token.type in ("fence", "code_block"):
            if token.content.strip():
                yield Block(kind="code", text=token.content.strip("\n"))
        elif token.type in ("inline", "html_block"):
            text = clean_line(_inline(token))
            if in_table:
                cells.append(text)
            elif text:
                kind: BlockKind = "heading" if level else "item" if items else "text"
                yield Block(kind=kind, text=f"• {text}" if kind == "item" else text, level=level)


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
