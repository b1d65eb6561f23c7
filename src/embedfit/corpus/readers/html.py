"""HTML → blocks: what a reader of the page reads, without navigation, scripts and forms."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from embedfit.corpus.blocks import Block, BlockKind, ParsedDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import read_text_file
from embedfit.corpus.readers.registry import Progress, Reader

_SKIPPED = frozenset(
    "script style noscript template svg math nav footer aside form iframe select button object head".split()
)
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE = frozenset(
    "a abbr b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small span strike strong sub "
    "sup time tt u var wbr".split()
)
_HIDDEN_ROLES = frozenset(("navigation", "banner", "contentinfo", "search", "menu"))


def read_html(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of an HTML file."""
    text, note = read_text_file(path)
    return ParsedDocument(blocks=blocks_of(text), note=note)


def blocks_of(text: str) -> tuple[Block, ...]:
    """The blocks of a page. Broken markup is read as far as it goes."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return parser.finish()


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[Block] = []
        self._parts: list[str] = []
        self._skipping: list[str] = []
        self._title: list[str] = []
        self._in_title = False
        self._heading = 0
        self._items = 0
        self._preformatted = 0
        self._cells: list[str] | None = None
        self._rows: list[list[str]] = []
        self._tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        if self._skipping:
            if tag == self._skipping[-1]:
                self._skipping.append(tag)
            elif tag == "body" and self._skipping[-1] == "head":  # </head> may be left out
                self._skipping.clear()
            return
        roles = {name: value or "" for name, value in attrs}
        hidden = (
            roles.get("role", "").lower() in _HIDDEN_ROLES or "hidden" in roles or roles.get("aria-hidden") == "true"
        )
        if tag not in _VOID and (tag in _SKIPPED or hidden):
            self._flush()
            self._skipping.append(tag)
        else:
            self._open(tag)

    def _open(self, tag: str) -> None:
        if tag in _INLINE:
            return
        if tag == "br":
            self._parts.append("\n" if self._preformatted else " ")
            return
        if tag in ("td", "th") and self._tables:
            self._cell()
            return
        if self._tables and tag not in ("table", "tr"):
            self._parts.append(" ")
            return
        self._flush()
        if tag == "table":
            self._tables += 1
        elif tag == "tr" and self._tables:
            self._row()
            self._cells = []
        elif tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag in ("li", "dd"):
            self._items += 1
        elif tag == "pre":
            self._preformatted += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if self._skipping:
            if tag == self._skipping[-1]:
                self._skipping.pop()
            return
        if tag in _INLINE or tag in _VOID:
            return
        if self._tables:
            self._end_in_table(tag)
            return
        self._flush()
        if tag in _HEADINGS:
            self._heading = 0
        elif tag in ("li", "dd"):
            self._items = max(0, self._items - 1)
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)

    def _end_in_table(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell()
        elif tag == "tr":
            self._row()
        elif tag == "table":
            self._row()
            self._tables -= 1
            if not self._tables:
                self._table()
        else:
            self._parts.append(" ")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title.append(data)
        elif not self._skipping:
            self._parts.append(data)

    def _taken(self) -> str:
        text = "".join(self._parts)
        self._parts.clear()
        return text

    def _cell(self) -> None:
        text = clean_line(self._taken())
        if text and self._cells is not None:
            self._cells.append(text)

    def _row(self) -> None:
        self._cell()
        if self._cells:
            self._rows.append(self._cells)
        self._cells = None

    def _table(self) -> None:
        """A table of data; one that only arranges the page (mostly one cell a row) is text."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        if sum(len(row) for row in rows) <= 1.2 * len(rows):
            self._blocks += [Block(kind="text", text=" ".join(row)) for row in rows]
        else:
            self._blocks.append(Block(kind="table", text="\n".join(" | ".join(row) for row in rows)))

    def _flush(self) -> None:
        raw = self._taken()
        if self._preformatted and not self._heading:
            lines = [line.rstrip() for line in raw.strip("\n").split("\n")]
            if any(lines):
                self._blocks.append(Block(kind="code", text="\n".join(lines)))
            return
        text = clean_line(raw)
        if text:
            kind: BlockKind = "heading" if self._heading else "item" if self._items else "text"
            self._blocks.append(Block(kind=kind, text=f"• {text}" if kind == "item" else text, level=self._heading))

    def finish(self) -> tuple[Block, ...]:
        """The blocks; the page's title comes first where it has no <h1>."""
        if self._tables:
            self._row()
            self._table()
        self._flush()
        title = clean_line("".join(self._title))
        if title and not any(block.kind == "heading" and block.level == 1 for block in self._blocks):
            self._blocks.insert(0, Block(kind="heading", text=title, level=1))
        return tuple(self._blocks)


def _is_page(head: bytes) -> bool:
    return head.lstrip()[:64].lower().startswith((b"<!doctype html", b"<html"))


READER = Reader(kind="html", extensions=(".html", ".htm", ".xhtml"), read=read_html, sniff=_is_page)
