"""A walk through the XML of Office, OpenDocument and EPUB files, with an action at each element."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import ClassVar

from embedfit.corpus.blocks import Block, BlockKind, Removed
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.tables import Table

Attributes = Mapping[str, str]

#: Signs for the elements of an equation, so that its characters read as a line: "(a+b)/c^2".
MATH_SIGNS = {"m:den": "/", "m:sup": "^", "m:sub": "_", "m:d": "(", "m:rad": "√"}


class Walker:
    """The actions of a format at each element. An element without an action is passed through, so its content counts.

    Names of elements have the prefixes of `package`.

    opens, closes: the actions at an element's start and end.
    skipped: elements that are left out with their content.
    listed: elements that are left out too, but whose text `left_out` gets, with the reason given here.
    texts: elements whose characters are text; None if all characters are.
    signs: characters that stand for an element's start.
    counted: elements whose open ones `inside` counts.
    """

    skipped: frozenset[str] = frozenset()
    listed: ClassVar[Mapping[str, str]] = {}
    texts: frozenset[str] | None = None
    signs: Mapping[str, str] = {}
    counted: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self.opens: dict[str, Callable[[Attributes], None]] = {
            "mc:AlternateContent": lambda _: self._alternatives.append(self.given),
            "mc:Choice": self._alternative,
            "mc:Fallback": self._alternative,
        }
        self.closes: dict[str, Callable[[], None]] = {"mc:AlternateContent": self._end_alternatives}
        self.inside: Counter[str] = Counter()
        #: The number of pieces of text so far.
        self.given = 0
        #: How deep inside a left-out element the walk is; 0 outside.
        self.skipping = 0
        self._reason = ""
        self._unread: list[str] = []
        self._alternatives: list[int] = []
        self._in_text = 0

    def start(self, tag: str, attributes: Attributes) -> None:
        """An element begins."""
        if self.skipping:
            self.skipping += 1
            return
        if tag in self.skipped or tag in self.listed:
            self.skipping = 1
            self._reason = self.listed.get(tag, "")
            return
        if self.texts is not None and tag in self.texts:
            self._in_text += 1
        if tag in self.counted:
            self.inside[tag] += 1
        if tag in self.signs:
            self.add(self.signs[tag])
        if (action := self.opens.get(tag)) is not None:
            action(attributes)

    def end(self, tag: str) -> None:
        """An element ends."""
        if self.skipping:
            self.skipping -= 1
            if not self.skipping and self._unread:
                self.left_out(self._reason, "".join(self._unread))
                self._unread.clear()
            return
        if self.texts is not None and tag in self.texts:
            self._in_text -= 1
        if tag in self.counted:
            self.inside[tag] -= 1
        if (action := self.closes.get(tag)) is not None:
            action()

    def characters(self, data: str) -> None:
        """Characters between tags."""
        if self.skipping:
            if self._reason:
                self._unread.append(data)
        elif self.texts is None or self._in_text:
            self.given += 1
            self.add(data)

    def add(self, data: str) -> None:
        """A piece of the document's text."""

    def left_out(self, reason: str, text: str) -> None:
        """Take the text of an element of `listed`."""

    def _alternative(self, _: Attributes) -> None:
        # The element holds one content in several forms: the first form that has text is read, the others are left out.
        if self._alternatives and self.given > self._alternatives[-1]:
            self.skipping = 1
            self._reason = ""

    def _end_alternatives(self) -> None:
        if self._alternatives:
            self._alternatives.pop()


class TextCollector(Walker):
    """Collects texts. found: the texts of some elements, clean, cut at the ends of others."""

    def __init__(
        self,
        texts: frozenset[str],
        ends: tuple[str, ...],
        *,
        skipped: frozenset[str] = frozenset(),
        signs: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.texts, self.skipped, self.signs = texts, skipped, signs or {}
        self.found: list[str] = []
        self._parts: list[str] = []
        self.closes |= dict.fromkeys(ends, self._end)

    def add(self, data: str) -> None:
        """A piece of a text."""
        self._parts.append(data)

    def _end(self) -> None:
        if text := clean_line("".join(self._parts)):
            self.found.append(text)
        self._parts.clear()


class BlockWalker(Walker):
    """Makes blocks. A paragraph goes to the innermost sink: the document, a table's cell, or a text box.

    table, row, cells: the format's names of a table, its rows and its cells.
    """

    table: ClassVar[str]
    row: ClassVar[str]
    cells: ClassVar[tuple[str, ...]]

    def __init__(self, page: int = 0) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self.removed: list[Removed] = []
        #: The number of the page or slide that is being read; 0 for documents without pages.
        self.page = page
        self.sinks = [self.blocks]
        self.tables: list[Table] = []
        self.opens |= {self.table: self.open_table, self.row: self.open_row}
        self.opens |= dict.fromkeys(self.cells, self.open_cell)
        self.closes |= {self.table: self.close_table} | dict.fromkeys(self.cells, self.close_sink)

    def emit(self, kind: BlockKind, text: str, level: int = 0) -> None:
        """Add a block where the walk is."""
        self.sinks[-1].append(Block(kind=kind, text=text, level=level, page=self.page))

    def left_out(self, reason: str, text: str) -> None:
        """List text that is not read."""
        if text.strip():
            self.removed.append(Removed(page=self.page, reason=reason, preview=clean_line(text)))

    def open_table(self, _: Attributes) -> None:
        """A table begins."""
        self.tables.append(Table(page=self.page))

    def open_row(self, _: Attributes) -> None:
        """A row begins."""
        if self.tables:
            self.tables[-1].row()

    def open_cell(self, _: Attributes) -> None:
        """A cell begins, and takes the blocks in it."""
        self.sinks.append(self.tables[-1].cell() if self.tables else [])

    def close_sink(self) -> None:
        """A cell ends, or a text box."""
        if len(self.sinks) > 1:
            self.sinks.pop()

    def close_table(self) -> None:
        """A table ends."""
        if self.tables:
            table = self.tables.pop()
            self.sinks[-1].extend(table.blocks())
            for text in table.deleted:
                self.left_out("deleted row (tracked change)", text)
