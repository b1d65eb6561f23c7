"""The words of charts and diagrams, which Office files keep in parts of their own."""

from __future__ import annotations

from typing import ClassVar

from embedfit.corpus.blocks import Block
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.package import Package, Walker


def drawing_blocks(package: Package, part: str, page: int = 0) -> list[Block]:
    """Titles, names of series and categories of a chart, or the texts of a diagram, each once and in order."""
    walker = _Drawing()
    package.walk(part, walker)
    return [Block(kind="text", text=text, page=page) for text in dict.fromkeys(walker.found)]


class _Drawing(Walker):
    texts: ClassVar[frozenset[str]] = frozenset(("a:t", "c:v"))
    #: Numbers without their names say nothing.
    skipped: ClassVar[frozenset[str]] = frozenset(("c:val", "c:numRef", "c:xVal", "c:yVal", "c:externalData"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._parts: list[str] = []
        self.closes |= {"a:p": self._end, "c:pt": self._end, "a:br": lambda: self.add(" ")}

    def add(self, data: str) -> None:
        """A piece of a text."""
        self._parts.append(data)

    def _end(self) -> None:
        text = clean_line("".join(self._parts))
        self._parts.clear()
        if text:
            self.found.append(text)
