"""The format of a file: its first bytes decide if they are sure, then its extension."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.readers.decoding import decode
from embedfit.corpus.readers.registry import by_extension, sniffed
from embedfit.errors import InputError
from embedfit.files.textfiles import lines_of, parsed_json

#: A BEIR corpus is no document: it is read record by record.
BEIR = "beir"
UNSUPPORTED = "unsupported"

_SNIFFED = 1 << 16
_EXTENSION = re.compile(r"\.(?=.*[a-z])[a-z0-9_+\-]{1,12}", re.I)
#: Beginnings of formats without a reader, with their names.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"), (b"MM\x00*", "a TIFF image"), (b"\x00\x00\x01\x00", "an icon"),
    (b"RIFF", "a RIFF file (WebP, WAV, AVI)"), (b"ID3", "a sound file"), (b"OggS", "an Ogg file"),
    (b"fLaC", "a sound file"), (b"\x1aE\xdf\xa3", "a video"), (b"\x7fELF", "a program"), (b"MZ", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"), (b"\xcf\xfa\xed\xfe", "a program"), (b"\x00asm", "a program"),
    (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "a gzip archive"), (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"), (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"), (b"SQLite format 3\x00", "a SQLite database"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of Office before 2007"),
    (b"wOFF", "a font"), (b"wOF2", "a font"), (b"OTTO", "a font"), (b"\x00\x01\x00\x00\x00", "a font"),
)  # fmt: skip
#: Formats without a reader, and the formats that their programs can save instead.
_SAVE_AS = {
    ".doc": ".docx", ".dot": ".docx", ".wps": ".docx", ".wpd": ".docx", ".pages": ".docx", ".xls": ".xlsx",
    ".xlt": ".xlsx", ".xlsb": ".xlsx", ".numbers": ".xlsx", ".ppt": ".pptx", ".pps": ".pptx", ".key": ".pptx",
    ".msg": ".eml", ".mobi": ".epub", ".azw": ".epub", ".azw3": ".epub", ".fb2": ".epub",
}  # fmt: skip
#: Beginnings of text files without an extension that are no plain text.
_MARKUP = (
    (re.compile(rb"<\?xml|<[a-z][\w:.-]*[\s>/]", re.I), "XML"),
    (re.compile(rb"[\[{]\s*(?:[\[{\"\]}]|-?\d|true|false|null)"), "JSON"),
    (re.compile(rb"#!"), "a script"),
    (re.compile(rb"%!PS"), "PostScript"),
    (re.compile(rb"-----BEGIN "), "a key or certificate"),
    (re.compile(rb"\\(?:document(?:class|style)|input|usepackage)\b"), "TeX"),
    (re.compile(rb"(?:diff --git |--- \S+.*\n\+\+\+ )"), "a patch"),
)


def kind_of(path: Path) -> tuple[str, str]:
    """(kind, problem) of a file. problem: the reason why it is not read, or ""."""
    extension = extension_of(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return UNSUPPORTED, "not a regular file"
        if status.st_size == 0:
            return by_extension().get(extension, UNSUPPORTED), "the file is empty (zero bytes)"
        if extension == ".jsonl":
            return _kind_of_jsonl(path)
        with path.open("rb") as file:
            head = file.read(_SNIFFED)
    except OSError as error:
        return UNSUPPORTED, f"can't be read: {error.strerror or error}"
    if path.parent.name == "qrels" and extension == ".tsv":
        return UNSUPPORTED, "BEIR judgements are for evaluation only (--eval-beir)"
    return kind_of_bytes(head, extension)


def kind_of_bytes(head: bytes, extension: str) -> tuple[str, str]:
    """(kind, problem) of a file that begins with head.

    A reader that is sure of the bytes takes precedence over the extension: a page saved as .aspx, a .doc that is RTF.
    Without such a reader and without a known extension only plain text without any extension (README, LICENSE) is read:
    the words in a file of unknown format are mostly not its author's.
    """
    known = by_extension().get(extension)
    sure = sniffed(head)
    if sure and known not in sure:
        return sure[0], ""
    name = _magic(head)
    if known:
        return known, ""
    if extension in _SAVE_AS:
        return UNSUPPORTED, f"the format {extension} is not supported: save it as {_SAVE_AS[extension]}"
    if name:
        return UNSUPPORTED, f"unknown format: {name}"
    if extension:
        return UNSUPPORTED, f"the format {extension} is not supported"
    return _plain_text(head)


def extension_of(path: Path) -> str:
    """A file's extension in lower case, "" for names such as "README", "Vol. 2" and "notes.1"."""
    suffix = path.suffix
    return suffix.lower() if _EXTENSION.fullmatch(suffix) else ""


def _magic(head: bytes) -> str:
    for start, name in _MAGIC:
        # A text may begin with the same letters, but has no NUL among its first bytes.
        if head.startswith(start) and (len(start) > 6 or not start.isascii() or b"\x00" in head[:1024]):
            return name
    return ""


def _plain_text(head: bytes) -> tuple[str, str]:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1024]
    for pattern, name in _MARKUP:
        if pattern.match(start):
            return UNSUPPORTED, f"{name}, which is not supported"
    try:
        decode(head)
    except UnreadableDocument:
        return UNSUPPORTED, "unknown format: neither text nor a supported document"
    return "text", ""


def _kind_of_jsonl(path: Path) -> tuple[str, str]:
    """The kind of a BEIR corpus; other JSONL is not read, and least of all people's queries for evaluation."""
    if path.name.startswith("queries"):
        return UNSUPPORTED, "BEIR queries are for evaluation only (--eval-beir)"
    if path.name == "corpus.jsonl":
        return BEIR, ""
    try:
        first = next((line for _, line in lines_of(path) if line.strip()), "")
    except InputError as error:
        return UNSUPPORTED, error.message.removeprefix(f"{path}, ")
    try:
        record = parsed_json(first, str(path))
    except InputError:
        return UNSUPPORTED, "JSONL whose first line is not JSON"
    if isinstance(record, dict) and "_id" in record and "text" in record:
        return BEIR, ""
    return UNSUPPORTED, "JSONL without the fields _id and text of a BEIR corpus"
