"""Bytes of a text file → characters, whatever the encoding."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.quality import unreadable_share
from embedfit.corpus.readers.office.legacy import encoding_of

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_SAMPLE = 1 << 18
_MAX_UNREADABLE = 0.1
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f\x1b")
#: From this share of control characters on, bytes that are valid UTF-8 may be UTF-16 all the same.
_MANY_CONTROLS = 0.2
_BREAKS = re.compile(r"[\x00\t\n\r\f]")
#: Codes by which programs colour their lines on a terminal.
_COLOURS = re.compile(r"\x1b(?:\[[0-9;?]{0,40}[@-~]|\][0-9]{1,4};[^\x07\x1b\n]{0,300}(?:\x07|\x1b\\)|\([A-Z0-9])")
_DECLARED = re.compile(
    rb"<\?xml[^<>]{1,200}?\sencoding\s*=\s*[\"']([\w.:\-]{1,40})|<meta\s[^<>]{0,500}?\bcharset\s*=\s*[\"']?\s*([\w.:\-]{1,40})",
    re.I,
)
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.S)
#: The encoding that browsers use for a declared name: the larger one, which pages of that name are written in.
_MEANT = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs",
    "iso8859-8": "cp1255", "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8", "utf-32": "utf-8",
}  # fmt: skip
_NAMES = {"x-sjis": "cp932", "windows-31j": "cp932", "x-gbk": "gb18030", "x-euc-jp": "euc_jp", "windows-874": "cp874",
          "windows-949": "cp949", "ks_c_5601-1987": "cp949", "x-user-defined": "cp1252", "x-mac-roman": "mac_roman",
          "dos-874": "cp874", "iso-8859-8-i": "cp1255", "x-x-big5": "big5hkscs"}  # fmt: skip
_SEVERAL_BYTES = frozenset(("gb18030", "cp932", "cp949", "big5hkscs", "euc_jp", "iso2022_jp", "big5", "hz"))
_IDEOGRAPHS = re.compile("[\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef\r\n]*")
_IDEOGRAPHIC_STOP = re.compile("[。、，！？]")


def read_text_file(path: Path) -> tuple[str, str]:
    """(text, note) of a file. note: the loss in words, "" for none. Raises UnreadableDocument for binary data."""
    return decode(path.read_bytes())


def read_markup_file(path: Path) -> tuple[str, str]:
    """read_text_file for HTML and XML, which may declare their encoding."""
    data = path.read_bytes()
    return decode(data, declared=declared_encoding(data))


def declared_encoding(data: bytes) -> str:
    """The encoding that a page declares in an XML declaration or a <meta>, "" for none."""
    match = _DECLARED.search(_COMMENT.sub(b"", data[: 1 << 16]))
    return (match[1] or match[2]).decode("ascii") if match else ""


def decode(data: bytes, *, declared: str = "") -> tuple[str, str]:
    """(text, note) of a file's bytes.

    Tried in order: a byte-order mark, UTF-8, UTF-16 and UTF-32 without a mark, the declared encoding, UTF-8 with a few
    errors, and the most likely encoding of the text. Every end of a line becomes a line feed.
    """
    text, broken = _decoded(data, declared)
    if "\x1b" in text:
        text = _COLOURS.sub("", text)
    notes = []
    nuls = text.count("\x00")
    if unreadable_share(_BREAKS.sub("", text[:_SAMPLE])) > _MAX_UNREADABLE or nuls > 0.3 * max(len(text), 1):
        raise UnreadableDocument("binary data, not text")
    if nuls:
        text = text.replace("\x00", "")
        notes.append(f"{nuls} NUL character{'s' * (nuls != 1)} removed")
    if broken:
        notes.append(f"{broken} character{'s' * (broken != 1)} could not be decoded")
    return text.replace("\r\n", "\n").replace("\r", "\n"), "; ".join(notes)


def _decoded(data: bytes, declared: str) -> tuple[str, int]:
    """(text, characters that could not be decoded)."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _with_errors(data, encoding)
    sample = data[:_SAMPLE]
    named = _encoding_named(declared)
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    if controls > _MANY_CONTROLS * len(sample) and (wide := _wide(sample)):
        return _with_errors(data, wide)
    if named in _SEVERAL_BYTES or b"\x1b$" in sample:
        # A few ideographs may be valid UTF-8 by chance, and the bytes of ISO-2022-JP are valid ASCII.
        try:
            return data.decode(named or "iso2022_jp"), 0
        except UnicodeDecodeError:
            pass
    try:
        return data.decode("utf-8"), 0
    except UnicodeDecodeError:
        pass
    if wide := _wide(sample):
        return _with_errors(data, wide)
    if named and named != "utf-8":
        text, broken = _with_errors(data, named)
        if broken <= max(3, len(text) // 1000):
            return text, broken
    return _undeclared(data, sample)


def _undeclared(data: bytes, sample: bytes) -> tuple[str, int]:
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    several_bytes = sum(ord(char) > 127 for char in text[:_SAMPLE]) - text[:_SAMPLE].count("\ufffd")
    # Valid sequences of several bytes hardly occur by chance: if they prevail, the file is UTF-8 with faults.
    if several_bytes > broken:
        return text, broken
    encoding = encoding_of(sample)
    return _with_errors(data, encoding) if encoding else (text, broken)


def _with_errors(data: bytes, encoding: str) -> tuple[str, int]:
    text = data.decode(encoding, "replace")
    return text, text.count("\ufffd")


def _encoding_named(name: str) -> str:
    """Python's name of a declared encoding, "" for one that nobody knows."""
    name = name.strip().lower()
    if name in _NAMES:
        return _NAMES[name]
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        return ""
    if not codec._is_text_encoding:
        return ""
    return _MEANT.get(codec.name, codec.name)


def _wide(sample: bytes) -> str:
    """The encoding of bytes in UTF-16 or UTF-32 without a mark, "" for other bytes."""
    best, signs = "", 0
    for encoding in _WIDE:
        width = 4 if "32" in encoding else 2
        try:
            text = sample[: len(sample) // width * width].decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(sample) - 4:
                continue
            text = sample[: error.start].decode(encoding)
        found = _signs_of_text(text, has_nuls=b"\x00" in sample)
        if found > signs:
            best, signs = encoding, found
    return best


def _signs_of_text(text: str, *, has_nuls: bool) -> int:
    """How many characters show that decoding as UTF-16 or UTF-32 gives a text; 0 for bytes of another encoding."""
    stops = len(_IDEOGRAPHIC_STOP.findall(text))
    if not has_nuls:
        return stops if _IDEOGRAPHS.fullmatch(text) else 0
    plain = sum(char.isalnum() or char.isspace() or char < "\x7f" or "\u2010" <= char <= "\u2030" for char in text)
    if "\x00" in text or plain + stops < 0.9 * len(text):
        return 0
    return stops + sum(char < "\x7f" for char in text)
