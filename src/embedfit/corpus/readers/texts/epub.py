"""E-books → blocks: the chapters in reading order, by the reader of HTML."""

from __future__ import annotations

import posixpath
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from embedfit.corpus.blocks import Block, ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.readers.decoding import declared_encoding, decode
from embedfit.corpus.readers.package import Package
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.texts import html
from embedfit.corpus.readers.walker import TextCollector

_WHAT = "EPUB book"
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_MIMETYPE = b"mimetypeapplication/epub+zip"
_PICTURE = "image/svg+xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/xml", "text/xml", "text/x-oeb1-document")
_ENDINGS = (".xhtml", ".html", ".htm")
_FONTS = (".ttf", ".otf", ".woff", ".woff2", ".ttc")


def read_epub(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a book. Its table of contents is not read but listed as removed."""
    with Package(path, _WHAT) as package:
        if _CONTAINER not in package.names:
            raise UnreadableDocument(f"not a readable {_WHAT}: the archive holds something else")
        roots = [one.get("full-path", "") for one in package.elements(_CONTAINER, "container:rootfile", "rootfile")]
        root = next(filter(None, roots), "")
        if root not in package.names:
            raise UnreadableDocument(f"not a readable {_WHAT}: it has no list of chapters")
        title = _title(package, root)
        items = _items(package, root)
        spine = [one.get("idref", "") for one in package.elements(root, "opf:itemref", "itemref")]
        shown = set(spine)
        locked = _locked(package)
        blocks = [Block(kind="heading", text=title, level=1)] if title else []
        removed: list[Removed] = []
        lost = 0
        spelt = {name.lower(): name for name in package.names}
        # Files outside the list of chapters, such as notes to which links lead, follow at the end.
        keys = list(dict.fromkeys((*spine, *items)))
        for number, key in enumerate(keys, 1):
            item = items.get(key, _Item())
            name = item.name
            is_page = item.kind in _PAGES or name.lower().endswith(_ENDINGS) or (item.kind == _PICTURE and key in shown)
            if name not in package.names:
                name = spelt.get(name.lower(), "")
            if item.is_contents:
                removed.append(Removed(page=0, reason="table of contents", preview=name))
            elif (is_page or key not in items) and (not name or name in locked):
                lost += 1
            elif is_page:
                blocks += _chapter(_markup(package.read(name)), title)
            if progress is not None:
                progress(number, len(keys))
    if locked and not any(block.kind != "heading" for block in blocks):
        raise UnreadableDocument("its chapters are protected (DRM)")
    note = f"{lost} chapter{'s' * (lost != 1)} missing or protected" if lost else ""
    return ParsedDocument(blocks=tuple(blocks), note=note, removed=tuple(removed))


def _markup(data: bytes) -> str:
    return decode(data, declared=declared_encoding(data))[0]


def _chapter(markup: str, title: str) -> list[Block]:
    """The blocks of a chapter; the book's title, which many chapters repeat, is given once."""
    return [block for block in html.blocks_of(markup) if not (block.kind == "heading" and block.text == title)]


def _locked(package: Package) -> set[str]:
    """Names of the encrypted parts, fonts aside."""
    if _ENCRYPTION not in package.names:
        return set()
    names = (urllib.parse.unquote(one.get("URI", "")) for one in package.elements(_ENCRYPTION, "enc:CipherReference"))
    return {name for name in names if not name.lower().endswith(_FONTS)}


@dataclass(frozen=True, slots=True)
class _Item:
    """A file of the book. kind: its media type. is_contents: whether it is the table of contents."""

    name: str = ""
    kind: str = ""
    is_contents: bool = False


def _items(package: Package, root: str) -> dict[str, _Item]:
    """The files of a book by their ids."""
    items = {}
    for one in package.elements(root, "opf:item", "item"):  # some books declare no namespace
        target = urllib.parse.unquote(one.get("href", "").partition("#")[0])
        name = posixpath.normpath(posixpath.join("/", posixpath.dirname(root), target)).lstrip("/")
        is_contents = "nav" in one.get("properties", "").split()
        items[one.get("id", "")] = _Item(name, one.get("media-type", ""), is_contents)
    return items


def _title(package: Package, root: str) -> str:
    titles = TextCollector(frozenset(("dc:title",)), ("dc:title",))
    package.walk(root, titles)
    return titles.found[0] if titles.found else ""


READER = Reader(
    kind="epub",
    extensions=(".epub",),
    read=read_epub,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and head[30:].startswith(_MIMETYPE),
    in_memory=False,
)
