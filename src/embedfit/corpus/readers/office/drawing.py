"""The words of charts and diagrams, which Office files keep in parts of their own."""

from __future__ import annotations

from embedfit.corpus.blocks import Block
from embedfit.corpus.readers.package import Package
from embedfit.corpus.readers.walker import TextCollector

#: Elements of numbers, which mean nothing without their names.
_NUMBERS = frozenset(("c:val", "c:numRef", "c:xVal", "c:yVal", "c:externalData"))


def drawing_blocks(package: Package, part: str, page: int = 0) -> list[Block]:
    """Titles, names of series and categories of a chart, or the texts of a diagram, each once and in order.

    part: its name; a name that the package lacks gives no blocks.
    """
    if part not in package.names:
        return []
    words = TextCollector(frozenset(("a:t", "c:v")), ("a:p", "c:pt"), skipped=_NUMBERS, signs={"a:br": " "})
    package.walk(part, words)
    return [Block(kind="text", text=text, page=page) for text in dict.fromkeys(words.found)]
