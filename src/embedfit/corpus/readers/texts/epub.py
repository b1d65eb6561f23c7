"""E-books → blocks: the chapters in reading order, by the reader of HTML."""

from __future__ import annotations

import posixpath
import urllib.parse
from pathlib import Path
from typing import ClassVar

from embedfit.corpus.blocks import Block, ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import declared_encoding, decode
from embedfit.corpus.readers.package import Attributes, Package, Walker
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.texts import html

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
        container = _Container()
        package.walk(_CONTAINER, container)
        if container.root not in package.names:
            raise UnreadableDocument(f"not a readable {_WHAT}: it has no list of chapters")
        book = _Book(posixpath.dirname(container.root))
        package.walk(container.root, book)
        locked = _locked(package)
        blocks = [Block(kind="heading", text=book.title, level=1)] if book.title else []
        removed: list[Removed] = []
        lost = 0
        spelt = {name.lower(): name for name in package.names}
        # What no list of chapters names, such as notes that links lead to, follows at the end.
        keys = list(dict.fromkeys((*book.spine, *book.items)))
        for number, key in enumerate(keys, 1):
            name, kind, is_contents = book.items.get(key, ("", "", False))
            is_page = kind in _PAGES or name.lower().endswith(_ENDINGS) or (kind == _PICTURE and key in book.spine)
            if name not in package.names:
                name = spelt.get(name.lower(), "")
            if is_contents:
                removed.append(Removed(page=0, reason="table of contents", preview=name))
            elif (is_page or key not in book.items) and (not name or name in locked):
                lost += 1
            elif is_page:
                blocks += _chapter(_markup(package.read(name)), book.title)
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
    walker = _Encryption()
    package.walk(_ENCRYPTION, walker)
    return {name for name in walker.names if not name.lower().endswith(_FONTS)}


class _Container(Walker):
    def __init__(self) -> None:
        super().__init__()
        self.root = ""
        self.opens |= dict.fromkeys(("container:rootfile", "rootfile"), self._rootfile)

    def _rootfile(self, attributes: Attributes) -> None:
        self.root = self.root or attributes.get("full-path", "")


class _Encryption(Walker):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.opens["enc:CipherReference"] = lambda attributes: self.names.append(
            urllib.parse.unquote(attributes.get("URI", ""))
        )


class _Book(Walker):
    """The package document. items: by id the name, type, and whether it is the contents. spine: the reading order."""

    texts: ClassVar[frozenset[str]] = frozenset(("dc:title",))

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder
        self._titles: list[str] = []
        self.items: dict[str, tuple[str, str, bool]] = {}
        self.spine: list[str] = []
        self.opens["dc:title"] = lambda _: self._titles.append("")
        for prefix in ("opf:", ""):  # some books declare no namespace
            self.opens[f"{prefix}item"] = self._item
            self.opens[f"{prefix}itemref"] = lambda attributes: self.spine.append(attributes.get("idref", ""))

    @property
    def title(self) -> str:
        """The book's title, "" where it has none."""
        return clean_line(self._titles[0]) if self._titles else ""

    def add(self, data: str) -> None:
        """A piece of the title."""
        self._titles[-1] += data

    def _item(self, attributes: Attributes) -> None:
        target = urllib.parse.unquote(attributes.get("href", "").partition("#")[0])
        name = posixpath.normpath(posixpath.join("/", self._folder, target)).lstrip("/")
        is_contents = "nav" in attributes.get("properties", "").split()
        self.items[attributes.get("id", "")] = (name, attributes.get("media-type", ""), is_contents)


READER = Reader(
    kind="epub",
    extensions=(".epub",),
    read=read_epub,
    sniff=lambda head: head.startswith(b"PK\x03\x04") and head[30:].startswith(_MIMETYPE),
    in_memory=False,
)
