"""HTML → blocks: the text that a page shows or has folded away, without navigation, scripts and cookie banners."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from embedfit.corpus.blocks import Block, BlockKind, ParsedDocument, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.quality import weight
from embedfit.corpus.readers.decoding import read_markup_file
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.texts.elements import ELEMENTS, JUDGED, is_inline, role_of

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_ABOUT_COOKIES = re.compile(r"cookie|consent|tracking|privacy", re.I)
_ABOUT_THE_BROWSER = re.compile(r"javascript|java script|your browser|this browser|doesn.t support|not support", re.I)
_ABOUT_THE_SITE = re.compile(r"©|\(c\)|copyright|all rights reserved|cookie|privacy policy|imprint|impressum", re.I)
#: The text of a sign: no letters, the number or letter of a footnote, or the purpose of a link. An icon's text is
#: one word of its maker. An element of such a class with more text is a container.
_MARK = re.compile(r"[\W\d_]{0,20}|[\W_]{0,3}\w{1,2}[\W_]{0,3}|\s*(?:permalink|link to)\b.{0,80}\s*", re.I)
_ICON = re.compile(r"[\W\d_]{0,20}|\s*[a-z0-9]+(?:_[a-z0-9]+)*\s*")
_SHOWN_INPUTS = frozenset("text search email url tel number button submit reset date time".split()) | {""}
#: So many words outside links make a sentence worth keeping, even in a page's footer.
_PROSE = 8
_MAX_COOKIE_TEXT = 5000
#: From this length on, in characters, an image's alternative text is a sentence and no caption of an icon.
_LONG_ALT = 30
_LONGEST_SIGN = 200
#: Names of the same field in descriptions of pages.
_METADATA = {
    "author": "author", "dc.creator": "author", "dcterms.creator": "author", "article:author": "author",
    "date": "date", "dc.date": "date", "dcterms.date": "date", "article:published_time": "date",
    "keywords": "keywords",
}  # fmt: skip
_MAX_METADATA = 10_000
#: Attributes that label elements which the page's makers invented.
_TITLES = ("title", "label", "heading", "header", "question", "summary", "caption")
_PREVIEW = 120
#: Browsers nest 512 deep, and libxml2 searches all open elements at each end tag; no page for people nests that deep.
_MAX_DEPTH = 300
_TAG = re.compile(rb"</?([a-z][a-z0-9:-]*)[^<>]*>", re.I)
_SECTION = "<![CDATA["
_OWN_RULES = frozenset("script style title textarea iframe noframes noembed xmp".split())
#: Characters of a piece; an error ends the parse only at the end of a piece.
_PIECE = 1 << 14


def read_html(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The document of an HTML file."""
    text, note = read_markup_file(path)
    return parse(text, note)


def blocks_of(markup: str) -> tuple[Block, ...]:
    """The blocks of a page or a piece of one. Broken markup is read as far as a browser reads it."""
    return parse(markup).blocks


def parse(markup: str, note: str = "") -> ParsedDocument:
    """The document of a page; `removed` lists navigation, banners and other removed text. Takes linear time."""
    page = _page_of(markup)
    blocks, removed = page.finish()
    return ParsedDocument(blocks=blocks, removed=removed, note=note, metadata=page.metadata)


def _page_of(markup: str, *, framed: bool = False) -> _Page:
    data = _open_sections(markup).replace("\x00", "").encode("utf-8", "ignore")
    try:
        return _parsed(data, framed)
    except _TooDeep:
        return _parsed(_TAG.sub(_flat, data), framed)


def _open_sections(markup: str) -> str:
    """The page with the text of its CDATA sections, in which XHTML holds text, as text."""
    pieces: list[str] = []
    at = 0
    while (end := markup.find("]]>", at)) >= 0:
        start = markup.rfind(_SECTION, at, end)
        content = markup[start + len(_SECTION) : end]
        if start >= 0 and "</script" not in content.lower():
            pieces += markup[at:start], escape(content, quote=False)
        else:
            pieces.append(markup[at : end + 3])
        at = end + 3
    return "".join((*pieces, markup[at:]))


def _parsed(data: bytes, framed: bool) -> _Page:
    from lxml.etree import HTMLParser  # C code, which only the reading process needs

    page = _Page(framed=framed)
    parser = HTMLParser(target=page, encoding="utf-8", huge_tree=True)
    for start in range(0, len(data), _PIECE):
        parser.feed(data[start : start + _PIECE])
    if data:
        parser.close()
    return page


def _flat(tag: re.Match[bytes]) -> bytes:
    """A tag of a page that nests too deeply, made flat: text keeps its lines and paragraphs, but nothing nests."""
    name = tag[1].decode("ascii").lower()
    if name in _OWN_RULES:
        return tag[0]
    return b"" if is_inline(name) else b"<br><br>"


class _TooDeep(Exception):
    """More open elements than _MAX_DEPTH."""


@dataclass(slots=True)
class _Part:
    """Blocks of an element that is judged as a whole when it ends. words: the words of each block outside links."""

    why: str
    blocks: list[Block] = field(default_factory=list)
    words: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Table:
    """A table that is being read. rows: rows of cells. plain: no cell holds headings, code or a further table."""

    rows: list[list[_Part]] = field(default_factory=list)
    plain: bool = True


class _Page:
    """The target of lxml's parser, which closes what the page leaves open: starts and ends come in pairs."""

    def __init__(self, *, framed: bool = False) -> None:
        self._framed = framed
        self._open: list[tuple[str, str]] = []
        self._parts: list[str] = []
        self._linked = 0
        self._alts: list[str] = []
        self._title: list[str] = []
        #: The characters of an element that is handled when it ends.
        self._markup: list[str] = []
        self._breaks = 0
        self._counts = dict.fromkeys(("silent", "link", "item", "pre", "svg", "section"), 0)
        self._signs: list[tuple[int, re.Pattern[str]]] = []
        self._heading = 0
        self._collected = [_Part("")]
        self._tables: list[_Table] = []
        self._removed: list[Removed] = []
        self.metadata: dict[str, str | list[str]] = {}

    # --- called by lxml

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        if len(self._open) > _MAX_DEPTH:
            raise _TooDeep
        tag = tag.lower()
        attributes = dict(attributes) if attributes else {}
        what = role_of(tag, attributes, in_section=self._counts["section"] > 0)
        if self._counts["silent"]:
            what = "silent" if what == "silent" else ""
        elif not is_inline(tag) or what in JUDGED:
            self._flush()
        self._open.append((tag, what))
        if tag in ("html", "meta"):
            self._about(tag, attributes)
        if what in self._counts:
            self._counts[what] += 1
        if tag == "iframe" and self._counts["silent"] == 1:
            self._frame(attributes.get("srcdoc") or "")
        if self._counts["silent"]:
            return
        if what in JUDGED:
            self._collected.append(_Part(what))
        self._begin(tag, what, attributes)

    def end(self, tag: str) -> None:
        """An element ends."""
        tag = tag.lower()
        while self._open:
            name, what = self._open.pop()
            self._end(name, what)
            if name == tag:
                break

    def data(self, text: str) -> None:
        """Text, in pieces of any length."""
        if self._counts["silent"]:
            return
        innermost = self._open[-1][0] if self._open else ""
        if innermost in ("title", "desc") and self._counts["svg"]:
            self._markup.append(text)
        elif innermost == "title":
            self._title.append(text)
        elif innermost == "noframes":
            self._markup.append(text)
        else:
            if not text.isspace():
                self._breaks = 0
            self._parts.append(text)
            if self._counts["link"]:
                self._linked += len(text.split())

    def comment(self, text: str) -> None:
        """Skip a comment."""

    def close(self) -> None:
        """The page ends."""

    # --- elements

    def _begin(self, tag: str, what: str, attributes: Mapping[str, str]) -> None:
        if what == "sign":
            is_icon = "material-" in (attributes.get("class") or "")
            self._signs.append((len(self._parts), _ICON if is_icon else _MARK))
        if tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag == "br":
            self._break()
        elif tag in ("img", "area"):
            self._alts.append(attributes.get("alt") or "")
        elif tag == "input":
            self._input(attributes)
        elif tag in ("optgroup", "option"):
            self._parts.append(f"{attributes.get('label') or ''} ")
        elif not is_inline(tag) and tag not in ELEMENTS:
            self._component(attributes)
        elif tag == "table":
            if self._tables:
                self._tables[-1].plain = False
            self._tables.append(_Table())
        elif tag == "tr" and self._tables:
            self._tables[-1].rows.append([])
        elif tag in ("td", "th") and self._tables:
            self._collected.append(_Part("cell"))

    def _end(self, tag: str, what: str) -> None:
        if not self._counts["silent"] and (not is_inline(tag) or what in JUDGED):
            self._flush()
        if what in self._counts:
            self._counts[what] -= 1
        if self._counts["silent"] or what == "silent":
            return
        if tag in _HEADINGS:
            self._heading = 0
        elif tag == "table" and self._tables:
            self._table(self._tables.pop())
        elif tag in ("td", "th") and self._tables:
            self._cell()
        elif self._markup and tag in ("noframes", "title", "desc"):
            content = "".join(self._markup)
            self._markup.clear()
            if tag == "noframes":
                self._frame(content)
            else:
                self._alts.append(content)
        if what in JUDGED:
            self._judge()
        elif what == "sign":
            self._end_sign()

    def _about(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Keep the first value of each field that describes the page."""
        if tag == "html":
            name, content = "lang", attributes.get("lang") or attributes.get("xml:lang") or ""
        else:
            name = _METADATA.get((attributes.get("name") or attributes.get("property") or "").lower(), "")
            content = attributes.get("content") or ""
        content = content[:_MAX_METADATA].strip()
        if name and content:
            words = [word.strip() for word in content.split(",")] if name == "keywords" else content
            self.metadata.setdefault(name, words)

    def _break(self) -> None:
        """A line break; two of them with nothing between separate paragraphs."""
        if self._counts["pre"]:
            self._parts.append("\n")
            return
        self._breaks += 1
        self._parts.append(" ")
        if self._breaks > 1:
            self._flush()

    def _input(self, attributes: Mapping[str, str]) -> None:
        kind = (attributes.get("type") or "").lower()
        if kind == "image":
            self._alts.append(attributes.get("alt") or "")
        elif kind in _SHOWN_INPUTS:
            self._parts.append(f" {attributes.get('value') or attributes.get('placeholder') or ''} ")

    def _component(self, attributes: Mapping[str, str]) -> None:
        """Add the attributes that an element of the page's makers, such as an accordion, shows as text."""
        for name in _TITLES:
            if value := attributes.get(name):
                self._parts.append(value)
                self._flush()

    def _end_sign(self) -> None:
        start, sign = self._signs.pop()
        if sign.fullmatch("".join(self._parts[start:])[:_LONGEST_SIGN]):
            del self._parts[start:]

    def _frame(self, markup: str) -> None:
        """The page that an <iframe srcdoc> or <noframes> holds; frames inside it are not looked into."""
        if markup and not self._framed:
            self._flush()
            blocks, removed = _page_of(markup, framed=True).finish()
            for block in blocks:
                self._add(block.kind, block.text, level=block.level)
            self._removed += removed

    # --- blocks

    def _add(self, kind: BlockKind, text: str, *, level: int = 0, words: int | None = None) -> None:
        part = self._collected[-1]
        if kind in ("heading", "code") and self._tables:
            self._tables[-1].plain = False
        part.blocks.append(Block(kind=kind, text=text, level=level))
        part.words.append(len(text.split()) if words is None else words)

    def _flush(self) -> None:
        """End the paragraph. Its images' descriptions count if it has no words of its own, or if they are long."""
        if self._counts["pre"] and not self._heading:
            self._code()
            return
        if not self._parts and not self._alts:
            return
        text = clean_line("".join(self._parts))
        alts = [alt for alt in map(clean_line, self._alts) if not text or weight(alt) >= _LONG_ALT]
        alt = " ".join(alts)
        linked = self._linked
        self._parts.clear()
        self._alts.clear()
        self._linked = 0
        self._breaks = 0
        if not text:
            text, linked, alt = alt, 0, ""
        if not text:
            return
        # Scripts without spaces have no words to count: three characters stand for one.
        words = max(len(text.split()) - linked, 0 if linked else (weight(text) - len(text)) // 6)
        if self._heading:
            self._add("heading", text, level=self._heading, words=words)
        elif self._counts["item"]:
            self._add("item", f"• {text}", words=words)
        else:
            self._add("text", text, words=words)
        if alt:
            self._add("text", alt)

    def _code(self) -> None:
        raw = "".join(self._parts)
        self._parts.clear()
        lines = [line.rstrip() for line in raw.strip("\n").split("\n")]
        if any(lines):
            self._add("code", "\n".join(lines))

    def _cell(self) -> None:
        if len(self._collected) > 1 and self._collected[-1].why == "cell":
            cell = self._collected.pop()
            rows = self._tables[-1].rows
            if not rows:
                rows.append([])
            rows[-1].append(cell)

    def _table(self, table: _Table) -> None:
        """A table of data is a block; one that only arranges the page is the text in its cells."""
        rows = [[cell for cell in row if cell.blocks] for row in table.rows]
        rows = [row for row in rows if row]
        if not table.plain or sum(map(len, rows)) <= 1.2 * len(rows):
            for cell in (cell for row in rows for cell in row):
                self._keep(cell)
        else:
            lines = [" | ".join(" ".join(block.text for block in cell.blocks) for cell in row) for row in rows]
            self._add("table", "\n".join(lines), words=sum(sum(cell.words) for row in rows for cell in row))

    def _keep(self, part: _Part) -> None:
        self._collected[-1].blocks += part.blocks
        self._collected[-1].words += part.words

    def _judge(self) -> None:
        """Take the last part out if it is no text of the page; list it as removed if it is large enough."""
        if len(self._collected) < 2 or self._collected[-1].why not in JUDGED:
            return
        part = self._collected.pop()
        text = " ".join(block.text for block in part.blocks)
        if part.why in ("navigation", "list"):
            self._keep_prose(part)
            return
        if part.why == "cookies":
            remove = len(text) < _MAX_COOKIE_TEXT and _ABOUT_COOKIES.search(text) is not None
        else:
            remove = len(text) < _MAX_COOKIE_TEXT and _ABOUT_THE_BROWSER.search(text) is not None
        if remove:
            self._list(text, "a cookie banner" if part.why == "cookies" else "for browsers that can't show the page")
        else:
            self._keep(part)

    def _keep_prose(self, part: _Part) -> None:
        """Keep the sentences of navigation and footers, because people write warnings there, and the page's own title.

        A <menu> may be any list, so all its text outside links stays.
        """
        fewest = _PROSE if part.why == "navigation" else 1
        kept, gone = _Part(part.why), []
        for block, words in zip(part.blocks, part.words, strict=True):
            is_title = block.kind == "heading" and block.level == 1 and words > 0
            if is_title or (words >= fewest and not _ABOUT_THE_SITE.search(block.text)):
                kept.blocks.append(block)
                kept.words.append(words)
            else:
                gone.append(block.text)
        self._keep(kept)
        self._list(" ".join(gone), "navigation or a page's footer")

    def _list(self, text: str, reason: str) -> None:
        if text:
            self._removed.append(Removed(page=0, reason=reason, preview=text[:_PREVIEW]))

    def finish(self) -> tuple[tuple[Block, ...], tuple[Removed, ...]]:
        """(blocks, removed texts). The page's title comes first if it has no <h1>."""
        while self._open:
            self._end(*self._open.pop())
        self._flush()
        blocks = [block for part in self._collected for block in part.blocks]
        title = clean_line("".join(self._title))
        if title and not any(block.kind == "heading" and block.level == 1 for block in blocks):
            blocks.insert(0, Block(kind="heading", text=title, level=1))
        return tuple(blocks), tuple(self._removed)


def _is_page(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower().startswith((b"<!doctype html", b"<html"))


READER = Reader(kind="html", extensions=(".html", ".htm", ".xhtml", ".shtml"), read=read_html, sniff=_is_page)
