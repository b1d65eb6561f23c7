"""PowerPoint files → blocks: each slide's title, texts, tables, charts, diagrams and notes. A slide is a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from embedfit.corpus.blocks import Block, ParsedDocument, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.office.drawing import drawing_blocks
from embedfit.corpus.readers.package import Package
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.walker import MATH_SIGNS, BlockWalker, TextCollector

_TITLES = ("title", "ctrTitle")
#: Placeholders of text that is on every slide. Footers are listed as removed, numbers and dates are not.
_RUNNING = ("sldNum", "dt", "ftr", "hdr")
_NUMBERS = ("sldNum", "dt")
_COMMENT_TEXTS = frozenset(("p:text", "a:t"))
#: A longer title is text.
_MAX_TITLE = 350


def read_pptx(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a PowerPoint file (.pptx, .pptm, .potx, .ppsx), hidden slides included.

    Footers and comments are not read but listed as removed.
    """
    blocks: list[Block] = []
    removed: dict[tuple[str, str], Removed] = {}
    with Package(path, "PowerPoint file") as package:
        main = package.main_part()
        relations = package.relations(main)
        listed = [relations.get(one.get("r:id", ""), ("", ""))[1] for one in package.elements(main, "p:sldId")]
        slides = [name for name in listed if name in package.names]
        lost = len(listed) - len(slides)
        for number, name in enumerate(slides, 1):
            slide = _Slide(package, name, number)
            package.walk(name, slide)
            blocks += slide.ordered()
            for kind, part in package.relations(name).values():
                if part not in package.names:
                    continue
                if kind == "notesSlide":
                    notes = _Slide(package, part, number)
                    package.walk(part, notes)
                    blocks += [_as_note(block) for block in notes.ordered()]
                elif kind == "comments":
                    comments = TextCollector(_COMMENT_TEXTS, tuple(_COMMENT_TEXTS))
                    package.walk(part, comments)
                    preview = " ".join(comments.found)
                    removed[(str(number), part)] = Removed(page=number, reason="comment", preview=preview)
            for text in slide.footers:
                removed.setdefault(("", text), Removed(page=number, reason="running footer", preview=text))
            if progress is not None:
                progress(number, len(slides))
    note = f"{lost} slide{'s' * (lost != 1)} missing in the file" if lost else ""
    return ParsedDocument(blocks=tuple(blocks), pages=len(slides), note=note, removed=tuple(removed.values()))


def _as_note(block: Block) -> Block:
    return block if block.kind == "table" else replace(block, kind="text", text=block.text.removeprefix("• "), level=0)


class _Slide(BlockWalker):
    """Reads a slide or its notes."""

    texts = frozenset(("a:t", "m:t"))
    signs: Mapping[str, str] = {"a:br": " ", **MATH_SIGNS}
    table, row, cells = "a:tbl", "a:tr", ("a:tc",)

    def __init__(self, package: Package, part: str, number: int) -> None:
        super().__init__(number)
        self._package = package
        self._relations = package.relations(part)
        self._titles: list[Block] = []
        self.footers: list[str] = []
        self._role = ""
        self._parts: list[str] = []
        self.opens |= {
            "p:sp": lambda _: self._set_role(""),
            "p:ph": lambda attributes: self._set_role(attributes.get("type", "obj")),
            "c:chart": lambda attributes: self._drawing(attributes.get("r:id", "")),
            "dgm:relIds": lambda attributes: self._drawing(attributes.get("r:dm", "")),
        }
        self.closes |= {
            "p:sp": lambda: self._set_role(""),
            "a:p": self._paragraph,
            "m:d": lambda: self.add(")"),
        }

    def ordered(self) -> list[Block]:
        """The slide's blocks, its title first."""
        return [*self._titles, *self.blocks]

    def add(self, data: str) -> None:
        """A piece of the present paragraph's text."""
        self._parts.append(data)

    def _set_role(self, role: str) -> None:
        self._role = role

    def _paragraph(self) -> None:
        text = clean_line("".join(self._parts))
        self._parts.clear()
        if not text:
            return
        if self.tables:
            self.emit("text", text)
        elif self._role in _RUNNING:
            if self._role not in _NUMBERS:
                self.footers.append(text)
        elif self._role in _TITLES and (not self._titles or len(self._titles[0].text) < _MAX_TITLE):
            if self._titles:  # a title of several paragraphs is one heading
                text = f"{self._titles.pop().text} {text}"
            self._titles.append(Block(kind="heading", text=text, level=1, page=self.page))
        else:
            self.emit("item", f"• {text}")

    def _drawing(self, identifier: str) -> None:
        blocks = drawing_blocks(self._package, self._relations.get(identifier, ("", ""))[1], self.page)
        self.given += bool(blocks)
        self.blocks.extend(blocks)


READER = Reader(
    kind="pptx",
    extensions=(".pptx", ".pptm", ".potx", ".potm", ".ppsx", ".ppsm"),
    read=read_pptx,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and b"ppt/" in head,
    in_memory=False,
)
