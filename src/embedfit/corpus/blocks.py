"""The result of every reader: headings, paragraphs, list items and tables in reading order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from embedfit.path.artefacts import Value

BlockKind = Literal["heading", "text", "item", "table", "code"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A heading, paragraph, list item, table (a row a line) or piece of code.

    level: a heading's, 1 the highest. page: 1-based page of its first character, 0 for a
    document without pages. breaks: (offset into text, page) of every page that begins inside the block.
    """

    kind: BlockKind
    text: str
    level: int = 0
    page: int = 0
    breaks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """Text that a reader left out on purpose: a running header, a table of contents."""

    page: int
    reason: str
    preview: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDocument:
    """A file that was read.

    note: the parts that could not be read, in words, empty if nothing was lost. metadata: the file's own, as its format
    has it. fields: the metadata within bounds; `isolation` makes them. cut: the metadata that they lack, in words.
    """

    blocks: tuple[Block, ...]
    pages: int = 0
    note: str = ""
    removed: tuple[Removed, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    fields: Mapping[str, Value] = field(default_factory=dict)
    cut: tuple[str, ...] = ()


class UnreadableDocument(Exception):
    """A file that gives no text. Its message is the reason, for people; the run goes on."""
