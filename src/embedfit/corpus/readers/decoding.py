"""Bytes of a text file → characters, whatever the encoding."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from charset_normalizer import from_bytes

from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.quality import unreadable_share

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 1 << 18
_MAX_UNREADABLE = 0.1
_BREAKS = re.compile(r"[\x00\t\n\r\f]")


def read_text_file(path: Path) -> tuple[str, str]:
    """(text, note) of a file. note says what was lost, "" for nothing. Raises UnreadableDocument for binary data."""
    return decode(path.read_bytes())


def decode(data: bytes) -> tuple[str, str]:
    """(text, note) of a file's bytes.

    Tried in order: a byte-order mark, UTF-8, UTF-16 without a mark, UTF-8 with a few errors, and what
    charset-normalizer thinks.
    """
    text, broken = _decoded(data)
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


def _decoded(data: bytes) -> tuple[str, int]:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            text = data.decode(encoding, "replace")
            return text, text.count("\ufffd")
    try:
        return data.decode("utf-8"), 0
    except UnicodeDecodeError:
        pass
    sample = data[:_SAMPLE]
    wide = _utf16_without_mark(sample)
    if wide:
        text = data.decode(wide, "replace")
        return text, text.count("\ufffd")
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    several_bytes = sum(ord(char) > 127 for char in text) - broken
    # Valid sequences of several bytes hardly occur by chance: where they prevail, it is UTF-8 with faults.
    if several_bytes > broken or broken <= max(3, len(text) // 10_000):
        return text, broken
    best = from_bytes(sample).best()
    if best is None:
        return text, broken
    text = data.decode(best.encoding, "replace")
    return text, text.count("\ufffd")


def _utf16_without_mark(sample: bytes) -> str:
    half = max(len(sample) // 2, 1)
    if sample[1::2].count(0) > 0.4 * half and sample[::2].count(0) < 0.05 * half:
        return "utf-16-le"
    if sample[::2].count(0) > 0.4 * half and sample[1::2].count(0) < 0.05 * half:
        return "utf-16-be"
    return ""
