"""Word files → blocks, as a person reads them: insertions in, deletions out, boxes and notes in place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from embedfit.corpus.blocks import Block, ParsedDocument, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import decode
from embedfit.corpus.readers.office.docx_styles import Numbering, Style, Styles, number, symbol
from embedfit.corpus.readers.office.drawing import drawing_blocks
from embedfit.corpus.readers.package import Package
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.texts import html
from embedfit.corpus.readers.walker import MATH_SIGNS, Attributes, BlockWalker

_WHAT = "Word file"
#: A longer "heading" is a paragraph in the wrong style.
_MAX_HEADING = 350
_PAGE_NUMBER = re.compile(r"(?:page\s*)?\d{0,5}(?:\s*(?:of|/|von|de|sur)\s*\d{1,5})?\s*", re.I)
_HEADERS = ("header", "footer")
_NOTES = ("footnotes", "endnotes")
_FIELD_PARTS = ("w:checkBox", "w:checked", "w:default", "w:result", "w:listEntry")
_EMBEDDED = ("package", "oleObject")


def read_docx(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a Word file (.docx, .docm, .dotx). Headers come first and footers last, each text once.

    Deleted text, comments and the table of contents are not read but listed as removed.
    """
    with Package(path, _WHAT) as package:
        main = package.main_part()
        relations = package.relations(main)
        parts = {kind: name for kind, name in relations.values() if name in package.names}
        context = _Context(package, Styles(), Numbering())
        for kind, walker in (("styles", context.styles), ("numbering", context.numbering)):
            if kind in parts:
                package.walk(parts[kind], walker)
        for kind in _NOTES:
            notes = _walked(context, parts.get(kind, "")).notes
            context.notes |= {(kind[:-1], number): blocks for number, blocks in notes.items()}
        edges = {kind: _edge_blocks(context, kind, relations) for kind in _HEADERS}
        body = _walked(context, main).blocks
        without_reference = [block for blocks in context.notes.values() for block in blocks]
        comments = _walked(context, parts.get("comments", "")).notes
        texts = (" ".join(block.text for block in blocks) for blocks in comments.values())
        context.removed.extend(Removed(page=0, reason="comment", preview=clean_line(text)) for text in texts)
        embedded = sum(kind in _EMBEDDED for kind, _ in relations.values())
    if embedded:
        context.lost.append(f"{embedded} embedded file{'s' * (embedded != 1)} not read")
    return ParsedDocument(
        blocks=(*edges["header"], *body, *without_reference, *edges["footer"]),
        note="; ".join(context.lost),
        removed=tuple(context.removed),
    )


@dataclass(slots=True)
class _Context:
    """The state that the parts of one document share. notes: blocks of the notes to which no text refers so far."""

    package: Package
    styles: Styles
    numbering: Numbering
    notes: dict[tuple[str, str], list[Block]] = field(default_factory=dict)
    removed: list[Removed] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def _walked(context: _Context, name: str) -> _Body:
    walker = _Body(context, name)
    if name:
        context.package.walk(name, walker)
    return walker


def _edge_blocks(context: _Context, kind: str, relations: Mapping[str, tuple[str, str]]) -> list[Block]:
    """The blocks of all headers or footers, each text once, page numbers left out."""
    found: dict[str, Block] = {}
    for name in dict.fromkeys(name for other, name in relations.values() if other == kind):
        if name in context.package.names:
            for block in _walked(context, name).blocks:
                if not _PAGE_NUMBER.fullmatch(block.text):
                    found.setdefault(block.text, replace(block, kind="text", level=0))
    return list(found.values())


@dataclass(slots=True)
class _Paragraph:
    """A paragraph that is being read. after: blocks that stand beside it, such as text boxes, and follow it."""

    parts: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    after: list[Block] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    style: str = ""
    outline: int | None = None
    list_id: str | None = None
    list_level: int | None = None
    joins_next: bool = False

    def end_readings(self) -> None:
        """Readings of characters (ruby) follow their word in brackets, so that neither is cut into syllables."""
        if self.readings:
            self.parts.append(f"({''.join(self.readings)})")
            self.readings.clear()


class _FormField:
    """A check box or list of Word's old forms, whose value is not stored as text."""

    def __init__(self) -> None:
        self.is_box = False
        self.value = ""
        self.choices: list[str] = []

    def text(self) -> str:
        if self.is_box:
            return "☒" if self.value in ("1", "true", "on") else "☐"
        index = int(self.value) if self.value.isdecimal() and len(self.value) < 4 else 0
        return self.choices[index] if index < len(self.choices) else ""

    def start(self, tag: str, attributes: Attributes) -> None:
        """An element inside the field."""
        if tag == "w:checkBox":
            self.is_box = True
        elif tag == "w:listEntry":
            self.choices.append(attributes.get("w:val", ""))
        elif tag in ("w:checked", "w:result") or not self.value:
            self.value = attributes.get("w:val", "0" if tag == "w:result" else "1")


class _Body(BlockWalker):
    """Reads a part that has paragraphs: the body, a header, the notes or the comments."""

    texts = frozenset(("w:t", "m:t", "a:t"))
    skipped = frozenset(
        "w:moveFrom w:instrText w:delInstrText w:pPrChange w:rPrChange w:sectPrChange w:tblPrChange w:trPrChange "
        "w:tcPrChange w:numberingChange w:sectPr w:sdtPr".split()
    )
    listed: ClassVar[Mapping[str, str]] = {"w:del": "deleted text (tracked change)"}
    signs: Mapping[str, str] = {
        "w:tab": " ", "w:br": "\n", "w:cr": "\n", "w:ptab": " ", "w:noBreakHyphen": "-", **MATH_SIGNS,
    }  # fmt: skip
    counted = frozenset(("w:pPr", "w:trPr", "w:ruby", "w:rt"))
    table, row, cells = "w:tbl", "w:tr", ("w:tc",)

    def __init__(self, context: _Context, part: str) -> None:
        super().__init__()
        self._context = context
        self.removed = context.removed
        self._relations = context.package.relations(part) if part else {}
        #: Blocks of each foot- or endnote, or comment, by its id.
        self.notes: dict[str, list[Block]] = {}
        self._paragraphs: list[_Paragraph] = []
        self._carried: list[str] = []
        self._contents_listed = False
        self._field = _FormField()
        self._name_actions()

    def _name_actions(self) -> None:
        self.opens |= dict.fromkeys(("w:footnote", "w:endnote", "w:comment"), self._open_note)
        self.closes |= dict.fromkeys(("w:footnote", "w:endnote", "w:comment", "w:txbxContent"), self.close_sink)
        self.opens |= {
            "w:p": lambda _: self._paragraphs.append(_Paragraph()),
            "w:pStyle": lambda a: self._set(style=a.get("w:val", "")),
            "w:outlineLvl": lambda a: self._set(outline=number(a)),
            "w:ilvl": lambda a: self._set(list_level=number(a)),
            "w:numId": lambda a: self._set(list_id=a.get("w:val", "")),
            "w:sym": lambda a: self.characters_of(symbol(a.get("w:font", ""), a.get("w:char", ""))),
            "m:chr": lambda a: self.characters_of(a.get("m:val", "")),
            "w:footnoteReference": lambda a: self._refer("footnote", a),
            "w:endnoteReference": lambda a: self._refer("endnote", a),
            "w:txbxContent": lambda _: self.sinks.append(self._beside()),
            "w:altChunk": self._embedded_page,
            "w:ffData": self._open_field,
            "c:chart": lambda a: self._drawing(a.get("r:id", "")),
            "dgm:relIds": lambda a: self._drawing(a.get("r:dm", "")),
        }
        for tag in _FIELD_PARTS:
            self.opens[tag] = partial(self._field_part, tag)
        self.closes |= {
            "w:p": self._close_paragraph,
            "a:p": lambda: self.add(" "),
            "m:d": lambda: self.add(")"),
            "w:ffData": lambda: self.characters_of(self._field.text()),
        }

    # --- text

    def add(self, data: str) -> None:
        """A piece of the present paragraph's text."""
        if not self._paragraphs:
            if data.strip():
                self.emit("text", clean_line(data))
            return
        paragraph = self._paragraphs[-1]
        if self.inside["w:rt"]:
            paragraph.readings.append(data)
        else:
            if not self.inside["w:ruby"]:
                paragraph.end_readings()
            paragraph.parts.append(data)

    def characters_of(self, text: str) -> None:
        """Characters that stand in an attribute."""
        self.given += bool(text)
        self.add(text)

    def start(self, tag: str, attributes: Attributes) -> None:
        """As in Walker. A deletion among properties means that the row or the paragraph's end is deleted."""
        if tag == "w:del" and not self.skipping:
            if self.inside["w:trPr"] and self.tables:
                self.tables[-1].delete_row()
            elif self.inside["w:pPr"] and self._paragraphs:
                self._paragraphs[-1].joins_next = True
        super().start(tag, attributes)

    # --- paragraphs

    def _set(self, **values: object) -> None:
        if self._paragraphs:
            for name, value in values.items():
                if value is not None:
                    setattr(self._paragraphs[-1], name, value)

    def _refer(self, kind: str, attributes: Attributes) -> None:
        if self._paragraphs:
            self._paragraphs[-1].notes.append((kind, attributes.get("w:id", "")))

    def _beside(self) -> list[Block]:
        """The list that takes the blocks beside the present paragraph."""
        return self._paragraphs[-1].after if self._paragraphs else self.sinks[-1]

    def _close_paragraph(self) -> None:
        if not self._paragraphs:
            return
        paragraph = self._paragraphs.pop()
        paragraph.end_readings()
        parts = [*self._carried, *paragraph.parts]
        self._carried = []
        if paragraph.joins_next and any(part.strip() for part in parts):
            self._carried = parts
        elif text := clean_line("".join(parts)):
            self._give(text, paragraph)
        self.sinks[-1] += paragraph.after
        for reference in paragraph.notes:
            self.sinks[-1] += self._context.notes.pop(reference, ())

    def _give(self, text: str, paragraph: _Paragraph) -> None:
        style = self._context.styles.get(paragraph.style)
        if style.is_contents:
            if not self._contents_listed:
                self._contents_listed = True
                self.left_out("table of contents", text)
            return
        label = self._context.numbering.label(
            style.list_id if paragraph.list_id is None else paragraph.list_id,
            style.list_level if paragraph.list_level is None else paragraph.list_level,
            paragraph.style,
        )
        level = _heading_level(style, paragraph.outline)
        if level and len(text) <= _MAX_HEADING:
            self.emit("heading", f"{label} {text}".strip("• "), level)
        elif label or style.is_list:
            self.emit("item", f"{label or '•'} {text}")
        else:
            self.emit("text", text)

    # --- elements inside or beside paragraphs

    def _open_note(self, attributes: Attributes) -> None:
        is_line = "eparat" in attributes.get("w:type", "") or attributes.get("w:type") == "continuationNotice"
        blocks: list[Block] = []
        if not is_line:
            self.notes[attributes.get("w:id", "")] = blocks
        self.sinks.append(blocks)

    def _open_field(self, _: Attributes) -> None:
        self._field = _FormField()

    def _field_part(self, tag: str, attributes: Attributes) -> None:
        self._field.start(tag, attributes)

    def _drawing(self, identifier: str) -> None:
        blocks = drawing_blocks(self._context.package, self._relations.get(identifier, ("", ""))[1])
        self.given += bool(blocks)
        self._beside().extend(blocks)

    def _embedded_page(self, attributes: Attributes) -> None:
        part = self._relations.get(attributes.get("r:id", ""), ("", ""))[1]
        if part.lower().endswith((".htm", ".html", ".xhtml")) and part in self._context.package.names:
            self.sinks[-1].extend(html.blocks_of(decode(self._context.package.read(part))[0]))
        else:
            self._context.lost.append(f"the inserted file {part.rpartition('/')[2] or 'without a name'} is not read")


def _heading_level(style: Style, outline: int | None) -> int:
    """The level of a heading, 0 for other paragraphs. The paragraph's own outline level goes before its style's."""
    if style.is_title:
        return 1
    level = style.outline if outline is None else outline
    return level + 2 if level is not None and 0 <= level <= 8 else 0


READER = Reader(
    kind="docx",
    extensions=(".docx", ".docm", ".dotx", ".dotm"),
    read=read_docx,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and b"word/" in head,
    in_memory=False,
)
