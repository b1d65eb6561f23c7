"""Word files → blocks, as a person reads them: insertions in, deletions out, boxes and notes in place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from embedfit.corpus.blocks import Block, ParsedDocument, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import decode
from embedfit.corpus.readers.office.docx_styles import Numbering, Style, Styles, symbol
from embedfit.corpus.readers.office.drawing import drawing_blocks
from embedfit.corpus.readers.package import MATH_SIGNS, Attributes, Package, Walker
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import Table
from embedfit.corpus.readers.texts import html

_WHAT = "Word file"
#: A longer "heading" is a paragraph in the wrong style.
_MAX_HEADING = 350
_PAGE_NUMBER = re.compile(r"(?:page\s*)?\d{0,5}(?:\s*(?:of|/|von|de|sur)\s*\d{1,5})?\s*", re.I)
_HEADERS = ("header", "footer")
_NOTES = ("footnotes", "endnotes")
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
        for blocks in _walked(context, parts.get("comments", "")).notes.values():
            context.removed.append(_removed("comment", " ".join(block.text for block in blocks)))
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
    """What the parts of one document share. notes: blocks of the foot- and endnotes that no text has shown yet."""

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


def _removed(reason: str, text: str) -> Removed:
    return Removed(page=0, reason=reason, preview=clean_line(text))


@dataclass(slots=True)
class _Paragraph:
    """A paragraph that is being read. after: what stands beside it, such as text boxes, and follows it."""

    parts: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    after: list[Block] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    style: str = ""
    outline: int | None = None
    list_id: str | None = None
    list_level: int | None = None
    joins_next: bool = False


@dataclass(slots=True)
class _FormField:
    """A check box or list of Word's old forms, whose value is no text of the document."""

    is_box: bool = False
    value: str = ""
    choices: list[str] = field(default_factory=list)

    def text(self) -> str:
        if self.is_box:
            return "☒" if self.value in ("1", "true", "on") else "☐"
        index = int(self.value) if self.value.isdecimal() and len(self.value) < 4 else 0
        return self.choices[index] if index < len(self.choices) else ""


class _Body(Walker):
    """Reads a part that has paragraphs: the body, a header, the notes or the comments."""

    texts: ClassVar[frozenset[str]] = frozenset(("w:t", "m:t", "a:t"))
    skipped: ClassVar[frozenset[str]] = frozenset(
        "w:moveFrom w:instrText w:delInstrText w:pPrChange w:rPrChange w:sectPrChange w:tblPrChange w:trPrChange "
        "w:tcPrChange w:numberingChange w:sectPr w:sdtPr".split()
    )
    listed: ClassVar[Mapping[str, str]] = {"w:del": "deleted text (tracked change)"}

    def __init__(self, context: _Context, part: str) -> None:
        super().__init__()
        self._context = context
        self._relations = context.package.relations(part) if part else {}
        self.blocks: list[Block] = []
        #: Blocks of each foot- or endnote, or comment, by its id.
        self.notes: dict[str, list[Block]] = {}
        self._sinks = [self.blocks]
        self._paragraphs: list[_Paragraph] = []
        self._tables: list[Table] = []
        self._carried: list[str] = []
        self._properties: list[str] = []
        self._in_ruby = self._in_reading = 0
        self._contents_listed = False
        self._field = _FormField()
        self._name_actions()

    def _name_actions(self) -> None:
        for name in ("w:pPr", "w:trPr"):
            self.opens[name] = lambda _, name=name: self._properties.append(name)  # type: ignore[misc]
            self.closes[name] = lambda: self._properties.clear()
        for name, text in {
            "w:tab": " ", "w:br": "\n", "w:cr": "\n", "w:ptab": " ", "w:noBreakHyphen": "-", **MATH_SIGNS,
        }.items():  # fmt: skip
            self.opens[name] = lambda _, text=text: self.add(text)  # type: ignore[misc]
        for name in ("footnote", "endnote"):
            self.opens[f"w:{name}Reference"] = lambda a, name=name: self._refer(name, a)  # type: ignore[misc]
            self.opens[f"w:{name}"] = self._open_note
            self.closes[f"w:{name}"] = self._close_sink
        self.opens |= {
            "w:p": lambda _: self._paragraphs.append(_Paragraph()),
            "w:pStyle": lambda a: self._set("style", a.get("w:val", "")),
            "w:outlineLvl": lambda a: self._set("outline", _integer(a)),
            "w:ilvl": lambda a: self._set("list_level", _integer(a)),
            "w:numId": lambda a: self._set("list_id", a.get("w:val", "")),
            "w:sym": lambda a: self.characters_of(symbol(a.get("w:font", ""), a.get("w:char", ""))),
            "m:chr": lambda a: self.characters_of(a.get("m:val", "")),
            "w:ruby": lambda _: self._count_ruby(1),
            "w:rt": lambda _: self._count_reading(1),
            "w:tbl": lambda _: self._tables.append(Table()),
            "w:tr": lambda _: self._tables[-1].row() if self._tables else None,
            "w:tc": lambda _: self._sinks.append(self._tables[-1].cell() if self._tables else []),
            "w:txbxContent": lambda _: self._sinks.append(self._paragraphs[-1].after if self._paragraphs else []),
            "w:comment": self._open_note,
            "w:altChunk": self._embedded_page,
            "w:ffData": lambda _: setattr(self, "_field", _FormField()),
            "w:checkBox": lambda _: setattr(self._field, "is_box", True),
            "w:checked": lambda a: setattr(self._field, "value", a.get("w:val", "1")),
            "w:default": lambda a: setattr(self._field, "value", self._field.value or a.get("w:val", "1")),
            "w:result": lambda a: setattr(self._field, "value", a.get("w:val", "0")),
            "w:listEntry": lambda a: self._field.choices.append(a.get("w:val", "")),
            "c:chart": lambda a: self._drawing(a.get("r:id", "")),
            "dgm:relIds": lambda a: self._drawing(a.get("r:dm", "")),
        }
        self.closes |= {
            "w:p": self._close_paragraph,
            "a:p": lambda: self.add(" "),
            "m:d": lambda: self.add(")"),
            "w:ruby": lambda: self._count_ruby(-1),
            "w:rt": lambda: self._count_reading(-1),
            "w:tc": self._close_sink,
            "w:tbl": self._close_table,
            "w:txbxContent": self._close_sink,
            "w:comment": self._close_sink,
            "w:ffData": lambda: self.characters_of(self._field.text()),
        }

    # --- text

    def add(self, data: str) -> None:
        """A piece of the present paragraph's text."""
        if not self._paragraphs:
            if data.strip():
                self._sinks[-1].append(Block(kind="text", text=clean_line(data)))
            return
        paragraph = self._paragraphs[-1]
        if self._in_reading:
            paragraph.readings.append(data)
        else:
            if not self._in_ruby:
                _end_readings(paragraph)
            paragraph.parts.append(data)

    def characters_of(self, text: str) -> None:
        """Characters that stand in an attribute."""
        self.given += bool(text)
        self.add(text)

    def start(self, tag: str, attributes: Attributes) -> None:
        """As in Walker. Among properties a deletion says that the row or the paragraph's end is deleted."""
        if tag == "w:del" and self._properties and not self.skipping:
            if self._properties[-1] == "w:trPr" and self._tables:
                self._tables[-1].delete_row()
            elif self._paragraphs:
                self._paragraphs[-1].joins_next = True
        super().start(tag, attributes)

    def left_out(self, reason: str, text: str) -> None:
        """Deleted text is listed."""
        if text.strip():
            self._context.removed.append(_removed(reason, text))

    def _count_ruby(self, step: int) -> None:
        self._in_ruby += step

    def _count_reading(self, step: int) -> None:
        self._in_reading += step

    # --- paragraphs

    def _set(self, name: str, value: object) -> None:
        if self._paragraphs and value is not None:
            setattr(self._paragraphs[-1], name, value)

    def _refer(self, kind: str, attributes: Attributes) -> None:
        if self._paragraphs:
            self._paragraphs[-1].notes.append((kind, attributes.get("w:id", "")))

    def _close_paragraph(self) -> None:
        if not self._paragraphs:
            return
        paragraph = self._paragraphs.pop()
        sink = self._sinks[-1]
        _end_readings(paragraph)
        parts = [*self._carried, *paragraph.parts]
        self._carried = []
        if paragraph.joins_next and any(part.strip() for part in parts):
            self._carried = parts
        elif text := clean_line("".join(parts)):
            sink += self._block(text, paragraph)
        sink += paragraph.after
        for reference in paragraph.notes:
            sink += self._context.notes.pop(reference, ())

    def _block(self, text: str, paragraph: _Paragraph) -> list[Block]:
        style = self._context.styles.get(paragraph.style)
        if style.is_contents:
            if not self._contents_listed:
                self._contents_listed = True
                self._context.removed.append(_removed("table of contents", text))
            return []
        label = self._context.numbering.label(
            style.list_id if paragraph.list_id is None else paragraph.list_id,
            style.list_level if paragraph.list_level is None else paragraph.list_level,
            paragraph.style,
        )
        level = _heading_level(style, paragraph.outline)
        if level and len(text) <= _MAX_HEADING:
            return [Block(kind="heading", text=f"{label} {text}".strip("• "), level=level)]
        if label or style.is_list:
            return [Block(kind="item", text=f"{label or '•'} {text}")]
        return [Block(kind="text", text=text)]

    # --- what stands inside or beside paragraphs

    def _close_sink(self) -> None:
        if len(self._sinks) > 1:
            self._sinks.pop()

    def _close_table(self) -> None:
        if self._tables:
            table = self._tables.pop()
            self._sinks[-1].extend(table.blocks())
            for text in table.deleted:
                self.left_out("deleted row (tracked change)", text)

    def _open_note(self, attributes: Attributes) -> None:
        is_line = "eparat" in attributes.get("w:type", "") or attributes.get("w:type") == "continuationNotice"
        blocks: list[Block] = []
        if not is_line:
            self.notes[attributes.get("w:id", "")] = blocks
        self._sinks.append(blocks)

    def _drawing(self, identifier: str) -> None:
        part = self._relations.get(identifier, ("", ""))[1]
        if part in self._context.package.names:
            blocks = drawing_blocks(self._context.package, part)
            self.given += bool(blocks)
            (self._paragraphs[-1].after if self._paragraphs else self._sinks[-1]).extend(blocks)

    def _embedded_page(self, attributes: Attributes) -> None:
        part = self._relations.get(attributes.get("r:id", ""), ("", ""))[1]
        if part.lower().endswith((".htm", ".html", ".xhtml")) and part in self._context.package.names:
            self._sinks[-1].extend(html.blocks_of(decode(self._context.package.read(part))[0]))
        else:
            self._context.lost.append(f"the inserted file {part.rpartition('/')[2] or 'without a name'} is not read")


def _end_readings(paragraph: _Paragraph) -> None:
    """Readings of characters (ruby) follow their word in brackets, so that neither is cut into syllables."""
    if paragraph.readings:
        paragraph.parts.append(f"({''.join(paragraph.readings)})")
        paragraph.readings.clear()


def _heading_level(style: Style, outline: int | None) -> int:
    """The level of a heading, 0 for other paragraphs. The paragraph's own outline level goes before its style's."""
    if style.is_title:
        return 1
    level = style.outline if outline is None else outline
    return level + 2 if level is not None and 0 <= level <= 8 else 0


def _integer(attributes: Attributes) -> int | None:
    value = attributes.get("w:val", "")
    return int(value) if re.fullmatch(r"\d{1,4}", value) else None


READER = Reader(
    kind="docx",
    extensions=(".docx", ".docm", ".dotx", ".dotm"),
    read=read_docx,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and b"word/" in head,
    in_memory=False,
)
