"""PowerPoint files → blocks: of each slide its title, texts, tables, charts, diagrams and notes. A slide is a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from embedfit.corpus.blocks import Block, ParsedDocument, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.office.drawing import drawing_blocks
from embedfit.corpus.readers.package import MATH_SIGNS, Package, Walker
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import Table

_TITLES = ("title", "ctrTitle")
#: Placeholders for what stands on every slide. Footers are listed, numbers and dates are not.
_RUNNING = ("sldNum", "dt", "ftr", "hdr")
_NUMBERS = ("sldNum", "dt")
#: A title that goes on after so many characters is text.
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
        deck = _Deck()
        package.walk(main, deck)
        slides = [relations[key][1] for key in deck.slides if relations.get(key, ("", ""))[1] in package.names]
        lost = len(deck.slides) - len(slides)
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
                    comments = _Comments()
                    package.walk(part, comments)
                    removed[(str(number), part)] = Removed(
                        page=number, reason="comment", preview=clean_line(" ".join(comments.found))
                    )
            for text in slide.footers:
                removed.setdefault(("", text), Removed(page=number, reason="running footer", preview=text))
            if progress is not None:
                progress(number, len(slides))
    note = f"{lost} slide{'s' * (lost != 1)} missing in the file" if lost else ""
    return ParsedDocument(blocks=tuple(blocks), pages=len(slides), note=note, removed=tuple(removed.values()))


def _as_note(block: Block) -> Block:
    return block if block.kind == "table" else replace(block, kind="text", text=block.text.removeprefix("• "), level=0)


class _Deck(Walker):
    """slides: relations of the slides in the order in which they are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.slides: list[str] = []
        self.opens["p:sldId"] = lambda attributes: self.slides.append(attributes.get("r:id", ""))


class _Comments(Walker):
    texts: ClassVar[frozenset[str]] = frozenset(("p:text", "a:t"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def add(self, data: str) -> None:
        self.found.append(data)


class _Slide(Walker):
    """Reads a slide or its notes."""

    texts: ClassVar[frozenset[str]] = frozenset(("a:t", "m:t"))

    def __init__(self, package: Package, part: str, number: int) -> None:
        super().__init__()
        self._package = package
        self._relations = package.relations(part)
        self._number = number
        self._titles: list[Block] = []
        self._others: list[Block] = []
        self.footers: list[str] = []
        self._role = ""
        self._parts: list[str] = []
        self._tables: list[Table] = []
        self._cell: list[Block] | None = None
        for name, text in {"a:br": " ", **MATH_SIGNS}.items():
            self.opens[name] = lambda _, text=text: self.add(text)  # type: ignore[misc]
        self.opens |= {
            "p:sp": lambda _: setattr(self, "_role", ""),
            "p:ph": lambda attributes: setattr(self, "_role", attributes.get("type", "obj")),
            "a:tbl": lambda _: self._tables.append(Table(page=number)),
            "a:tr": lambda _: self._tables[-1].row() if self._tables else None,
            "a:tc": lambda _: setattr(self, "_cell", self._tables[-1].cell() if self._tables else None),
            "c:chart": lambda attributes: self._drawing(attributes.get("r:id", "")),
            "dgm:relIds": lambda attributes: self._drawing(attributes.get("r:dm", "")),
        }
        self.closes |= {
            "p:sp": lambda: setattr(self, "_role", ""),
            "a:p": self._paragraph,
            "a:tc": lambda: setattr(self, "_cell", None),
            "a:tbl": self._close_table,
            "m:d": lambda: self.add(")"),
        }

    def ordered(self) -> list[Block]:
        """The slide's blocks, its title first."""
        return [*self._titles, *self._others]

    def add(self, data: str) -> None:
        """A piece of the present paragraph's text."""
        self._parts.append(data)

    def _paragraph(self) -> None:
        text = clean_line("".join(self._parts))
        self._parts.clear()
        if not text:
            return
        if self._cell is not None:
            self._cell.append(Block(kind="text", text=text, page=self._number))
        elif self._role in _RUNNING:
            if self._role not in _NUMBERS:
                self.footers.append(text)
        elif self._role in _TITLES and (not self._titles or len(self._titles[0].text) < _MAX_TITLE):
            if self._titles:  # a title of several paragraphs is one heading
                text = f"{self._titles.pop().text} {text}"
            self._titles.append(Block(kind="heading", text=text, level=1, page=self._number))
        else:
            self._others.append(Block(kind="item", text=f"• {text}", page=self._number))

    def _close_table(self) -> None:
        if self._tables:
            self._others.extend(self._tables.pop().blocks())

    def _drawing(self, identifier: str) -> None:
        part = self._relations.get(identifier, ("", ""))[1]
        if part in self._package.names:
            blocks = drawing_blocks(self._package, part, self._number)
            self.given += bool(blocks)
            self._others.extend(blocks)


READER = Reader(
    kind="pptx",
    extensions=(".pptx", ".pptm", ".potx", ".potm", ".ppsx", ".ppsm"),
    read=read_pptx,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and b"ppt/" in head,
    in_memory=False,
)
