"""Zip archives of XML (Office, OpenDocument, EPUB), read under limits of bytes, elements and characters."""

from __future__ import annotations

import posixpath
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.readers.walker import Attributes, Walker

#: Limits of one unpacked document. A book of 1,000 pages has about 30 MB of XML, a million elements, 3 M characters.
MAX_BYTES = 256 << 20
MAX_ELEMENTS = 3_000_000
MAX_CHARACTERS = 32_000_000
#: Names of elements and attributes; the largest formats define about 2,000.
_MAX_NAMES = 20_000
_MAX_MEMBERS = 100_000
_PIECE = 1 << 16
_OLE_MAGIC = b"\xd0\xcf\x11\xe0"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1

_OFFICE = "http://schemas.openxmlformats.org"
_STRICT = "http://purl.oclc.org/ooxml"
_OPENDOCUMENT = "urn:oasis:names:tc:opendocument:xmlns"
#: The readers' prefix of each namespace, whatever prefix the file gives it. Other namespaces have the prefix "?".
_PREFIXES = {
    **{
        f"{base}/{name}": prefix
        for name, prefix in (
            ("officeDocument/{}relationships", "r"),
            ("officeDocument/{}math", "m"),
            ("wordprocessingml/{}main", "w"),
            ("presentationml/{}main", "p"),
            ("drawingml/{}main", "a"),
            ("drawingml/{}chart", "c"),
            ("drawingml/{}diagram", "dgm"),
        )
        for base, name in ((_OFFICE, name.format("2006/")), (_STRICT, name.format("")))
    },
    f"{_OFFICE}/package/2006/relationships": "rel",
    f"{_OFFICE}/markup-compatibility/2006": "mc",
    "urn:schemas-microsoft-com:vml": "v",
    **{f"{_OPENDOCUMENT}:{name}:1.0": name for name in ("office", "text", "table", "drawing")},
    "http://www.idpf.org/2007/opf": "opf",
    "http://openebook.org/namespaces/oeb-package/1.0/": "opf",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/elements/1.0/": "dc",
    f"{_OPENDOCUMENT}:container": "container",
    "http://www.w3.org/2001/04/xmlenc#": "enc",
}  # fmt: skip


class Package:
    """An archive whose parts are read one after the other; together they may not exceed the limits."""

    def __init__(self, path: Path, what: str) -> None:
        """Open the archive. what: the format's name, for messages. Raises UnreadableDocument."""
        self.what = what
        self._bytes = self._elements = self._characters = 0
        with path.open("rb") as file:
            if file.read(4) == _OLE_MAGIC:
                raise UnreadableDocument("protected by a password, or in the format of Office before 2007")
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UnreadableDocument(f"damaged or cut short: not a whole {what}") from error
        self.names = dict.fromkeys(self._archive.namelist())
        if len(self.names) > _MAX_MEMBERS:
            raise UnreadableDocument(f"it has {len(self.names):,} parts; {_MAX_MEMBERS:,} are read at most")

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def read(self, name: str) -> bytes:
        """The bytes of a part. Raises UnreadableDocument if it is missing, damaged or too large."""
        return b"".join(self.pieces(name))

    def walk(self, name: str, walker: Walker) -> None:
        """Take a walker through the XML of a part. Raises as `read` does."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        short: dict[str, str] = {}

        def named(name: str) -> str:
            found = short.get(name)
            if found is None:
                if len(short) >= _MAX_NAMES:
                    raise UnreadableDocument(f"its XML has more than {_MAX_NAMES:,} names")
                space, _, local = name.rpartition(" ")
                found = short[name] = f"{_PREFIXES.get(space, '?')}:{local}" if space else local
            return found

        def start(name: str, attributes: dict[str, str]) -> None:
            self._elements += 1
            if self._elements > MAX_ELEMENTS:
                raise UnreadableDocument(f"it has more than {MAX_ELEMENTS:,} elements")
            walker.start(named(name), {named(key): value for key, value in attributes.items()})

        def characters(data: str) -> None:
            self._characters += len(data)
            if self._characters > MAX_CHARACTERS:
                raise UnreadableDocument(f"it has more than {MAX_CHARACTERS:,} characters")
            walker.characters(data)

        parser.StartElementHandler = start
        parser.EndElementHandler = lambda name: walker.end(named(name))
        parser.CharacterDataHandler = characters
        parser.EntityDeclHandler = _refuse_entities
        try:
            for piece in self.pieces(name):
                parser.Parse(piece)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise UnreadableDocument(f"not a readable {self.what}: {name} is damaged: {error}") from error

    def elements(self, name: str, *tags: str) -> list[Attributes]:
        """The attributes of all elements of some names in a part, in order. Raises as `read` does."""
        found: list[Attributes] = []
        walker = Walker()
        walker.opens |= dict.fromkeys(tags, found.append)
        self.walk(name, walker)
        return found

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Id → (last word of the type, name of the part) for the parts of the archive to which a part points.

        part: "" for the archive itself.
        """
        folder, base = posixpath.split(part)
        name = posixpath.join(folder, "_rels", f"{base}.rels")
        if name not in self.names:
            return {}
        found = {}
        for one in self.elements(name, "rel:Relationship"):
            if one.get("TargetMode") != "External":
                target = posixpath.join("/", folder, urllib.parse.unquote(one.get("Target", "")))
                kind = one.get("Type", "").rpartition("/")[2]
                found[one.get("Id", "")] = kind, posixpath.normpath(target).lstrip("/")
        return found

    def main_part(self) -> str:
        """The name of an Office file's main part. Raises UnreadableDocument if the archive holds another format."""
        for kind, name in self.relations("").values():
            if kind == "officeDocument" and name in self.names:
                return name
        raise UnreadableDocument(f"not a readable {self.what}: the archive holds something else")

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a part, unpacked piece by piece. Raises as `read` does."""
        try:
            entry = self._archive.getinfo(name)
            if entry.flag_bits & _ENCRYPTED:
                raise UnreadableDocument("protected by a password")
            if entry.compress_type not in _COMPRESSIONS:  # other methods unpack without a limit
                raise UnreadableDocument(f"{name} is packed by a method that is not supported")
            with self._archive.open(entry) as file:
                while piece := file.read(_PIECE):
                    self._bytes += len(piece)
                    if self._bytes > MAX_BYTES:
                        raise UnreadableDocument(f"it unpacks to more than {MAX_BYTES >> 20} MiB")
                    yield piece
        except (UnreadableDocument, MemoryError):
            raise
        except Exception as error:  # zipfile and zlib raise a dozen kinds for damaged archives
            raise UnreadableDocument(f"damaged or cut short: {name} of the {self.what} can't be unpacked") from error


def _refuse_entities(*_: object) -> None:
    raise UnreadableDocument("its XML declares entities, which no document needs and attacks use")
