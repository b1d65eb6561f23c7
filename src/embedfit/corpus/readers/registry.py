"""The table of document formats: who reads which files. Ours stand in it by the same door as a stranger's plug-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

from embedfit.corpus.blocks import ParsedDocument
from embedfit.errors import InputError

#: Entry points of this group name a Reader as "module:NAME".
GROUP = "embedfit.readers"

#: embedfit's own readers, as pyproject.toml lists them too: a checkout runs without being installed.
BUILT_IN = {
    "csv": "embedfit.corpus.readers.delimited:READER",
    "docx": "embedfit.corpus.readers.docx:READER",
    "epub": "embedfit.corpus.readers.epub:READER",
    "html": "embedfit.corpus.readers.html:READER",
    "mail": "embedfit.corpus.readers.mail:READER",
    "mailbox": "embedfit.corpus.readers.mail:MAILBOX",
    "markdown": "embedfit.corpus.readers.markdown:READER",
    "notebook": "embedfit.corpus.readers.notebook:READER",
    "opendocument": "embedfit.corpus.readers.opendocument:READER",
    "pdf": "embedfit.corpus.readers.pdf:READER",
    "pptx": "embedfit.corpus.readers.pptx:READER",
    "rtf": "embedfit.corpus.readers.rtf:READER",
    "text": "embedfit.corpus.readers.text:READER",
    "xlsx": "embedfit.corpus.readers.xlsx:READER",
}

#: A reader calls it with (what is done, of how much): pages, sheets, messages.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How one format is read.

    The module that holds a Reader is imported for every run: it imports heavy packages inside `read` only. `read`
    runs in a process of its own (see `isolation`), under limits of time and memory. Whatever it raises, the document
    is listed as skipped and the run goes on.

    kind: the format's name, which is also the name of its entry point.
    extensions: in lower case, with the dot.
    read: (path, progress or None) → the document. Raises UnreadableDocument with a reason for people.
    extra: the extra of embedfit that brings the packages that `read` imports, "" where the core has them.
    sniff: whether a file's first bytes (up to 64 KiB) are surely of this format; None where bytes don't tell.
    in_memory: `read` takes the whole file into memory, so `ingest.max_file_mb` bounds its size.
    """

    kind: str
    extensions: tuple[str, ...]
    read: Callable[[Path, Progress | None], ParsedDocument]
    extra: str = ""
    sniff: Callable[[bytes], bool] | None = None
    in_memory: bool = True


@dataclass(frozen=True, slots=True)
class Registered:
    """A reader, and the "module:NAME" under which another process finds it."""

    reader: Reader
    place: str


@cache
def readers() -> dict[str, Registered]:
    """Every reader by its kind, plug-ins first: a plug-in replaces ours of the same kind and takes its extensions.

    Raises InputError for an entry point that can't be loaded.
    """
    found = [(entry.name, entry.value) for entry in metadata.entry_points(group=GROUP) if not _is_ours(entry)]
    strangers = dict(sorted(found))
    ordered = strangers | {kind: place for kind, place in BUILT_IN.items() if kind not in strangers}
    return {kind: Registered(load(place), place) for kind, place in ordered.items()}


def _is_ours(entry: metadata.EntryPoint) -> bool:
    """Whether embedfit itself brings it. BUILT_IN has these too, and is right where an older install is not."""
    return entry.dist is not None and entry.dist.name == "embedfit"


def load(place: str) -> Reader:
    """The reader at "module:NAME"."""
    module, _, name = place.partition(":")
    try:
        reader = getattr(import_module(module), name)
    except Exception as error:  # a plug-in's module may raise anything
        raise InputError(
            f"The reader {place} can't be loaded: {type(error).__name__}: {error}",
            remedy="Mend the package that brings it, or uninstall it.",
        ) from error
    if not isinstance(reader, Reader):
        raise InputError(
            f"{place}, an entry point of {GROUP}, is no Reader.",
            remedy="Make it an embedfit.corpus.readers.registry.Reader.",
        )
    return reader


@cache
def by_extension() -> dict[str, str]:
    """The kind of each known extension."""
    table: dict[str, str] = {}
    for kind, registered in readers().items():
        for extension in registered.reader.extensions:
            table.setdefault(extension, kind)
    return table


def sniffed(head: bytes) -> list[str]:
    """The kinds whose readers surely know a file's first bytes. A plug-in that fails on them does not know them."""
    return [kind for kind, registered in readers().items() if _knows(registered.reader, head)]


def _knows(reader: Reader, head: bytes) -> bool:
    try:
        return reader.sniff is not None and reader.sniff(head)
    except Exception:  # as in load
        return False
