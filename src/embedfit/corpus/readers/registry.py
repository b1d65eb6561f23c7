"""The table of document formats and their readers. Our readers enter it as plug-ins do, by entry points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedfit import plugins
from embedfit.corpus.blocks import ParsedDocument
from embedfit.plugins import Registered

#: Entry points of this group name a Reader as "module:NAME".
GROUP = "embedfit.readers"


#: A reader calls it with (amount done, whole amount), in pages, sheets or messages.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The reader of one format.

    The module that holds a Reader is imported for every run: it imports heavy packages inside `read` only. `read` runs
    in a process of its own (see `isolation`), under limits of time and memory. If it raises any error, the document is
    listed as skipped and the run continues.

    kind: the format's name, which is also the name of its entry point.
    extensions: in lower case, with the dot.
    read: (path, progress or None) → the document. Raises UnreadableDocument with a reason for people.
    extra: the extra of embedfit that brings the packages that `read` imports, "" if the core has them.
    sniff: whether a file's first bytes (up to 64 KiB) are surely of this format; None if bytes don't tell.
    in_memory: `read` takes the whole file into memory, so `ingest.max_file_mb` bounds its size.
    """

    kind: str
    extensions: tuple[str, ...]
    read: Callable[[Path, Progress | None], ParsedDocument]
    extra: str = ""
    sniff: Callable[[bytes], bool] | None = None
    in_memory: bool = True


def readers() -> dict[str, Registered[Reader]]:
    """Every reader by its kind, plug-ins first: a plug-in replaces ours of the same kind and takes its extensions."""
    return plugins.table(GROUP, Reader)


def load(place: str) -> Reader:
    """The reader at "module:NAME"."""
    return plugins.load(place, GROUP, Reader)


def by_extension() -> dict[str, str]:
    """The kind of each known extension."""
    kinds: dict[str, str] = {}
    for kind, registered in readers().items():
        for extension in registered.record.extensions:
            kinds.setdefault(extension, kind)
    return kinds


def sniffed(head: bytes) -> list[str]:
    """The kinds whose readers are sure of a file's first bytes. A plug-in that fails on them counts as not sure."""
    return [kind for kind, registered in readers().items() if _knows(registered.record, head)]


def _knows(reader: Reader, head: bytes) -> bool:
    try:
        return reader.sniff is not None and reader.sniff(head)
    except Exception:  # a plug-in may raise anything
        return False
