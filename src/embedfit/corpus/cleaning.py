"""Cleaning of text: characters that models can't use are removed, and words that typesetting broke are mended."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

#: PDFium's sign for a hyphen at the end of a line, and the soft hyphen.
LINE_HYPHENS = "\ufffe\u00ad"
_LIGATURES = {
    "\ufb00": "ff",
    "\ufb01": "fi",
    "\ufb02": "fl",
    "\ufb03": "ffi",
    "\ufb04": "ffl",
    "\ufb05": "st",
    "\ufb06": "st",
}
# A ligature that a font sets as a glyph of its own width is often followed by a false space. Words do
# not end in these four (they do end in ff), so a space before a lower-case letter is false.
_LIGATURE_SPACE = re.compile("([\ufb01\ufb02\ufb03\ufb04]) (?=[a-z])")
_LIGATURE = re.compile(f"[{''.join(_LIGATURES)}]")
# Zero-width joiner and non-joiner stay: they carry meaning in Persian and in Indian scripts.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SPACES = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
#: Letters and punctuation of Chinese and Japanese, between which a line break is no space.
_NO_SPACE = re.compile("[\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff9f]")
_WRAPPED = re.compile(rf"(?<={_NO_SPACE.pattern})[ \t]*[\r\n]+[ \t]*(?={_NO_SPACE.pattern})")
_PRIVATE_BULLET = re.compile("[\uf0a7\uf0b7\uf06e\uf0d8\uf0fc\uf02d]")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_LOST = re.compile("[\ufffd\x00-\x08\x0e-\x1f]")
_LOST_GLYPH = re.compile("([^\\W\\d_]*)[\ufffd\x00-\x08\x0e-\x1f]([^\\W\\d_]+)|([^\\W\\d_]+)[\ufffd\x00-\x08\x0e-\x1f]")
_LOST_LIGATURES = ("fi", "fl", "ff", "ffi", "ffl", "ti", "tt", "ft")

_LONGEST_WORD = 100

Vocabulary = Mapping[str, int]


def expand_ligatures(text: str) -> str:
    """Ligatures as letters: efficient, not with U+FB03; also where a false space follows one."""
    if not _LIGATURE.search(text):
        return text
    text = _LIGATURE_SPACE.sub(r"\1", text)
    return _LIGATURE.sub(lambda match: _LIGATURES[match[0]], text)


def vocabulary(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, in lower case. Words with hyphens count whole and by their parts."""
    counts: Counter[str] = Counter()
    for text in texts:
        for word in _WORD.findall(text.lower()):
            counts[word] += 1
            if "-" in word:
                counts.update(word.split("-"))
    return counts


def hyphen_between(left: str, right: str, words: Vocabulary) -> str:
    """The sign between the two halves of a word that a line end cut: "-" or "".

    The document's own words decide: the form that it uses elsewhere, else a hyphen if both halves are words of it, else
    none. Only the last 100 characters of left count: no word is longer.
    """
    last = (re.findall(r"[^\W_]+(?:-[^\W_]+)*$", left[-_LONGEST_WORD:]) or [""])[0].lower()
    found = re.match(r"[^\W_]+", right)
    first = found[0].lower() if found else ""
    if not last or not first or not right[0].islower():
        return "-"
    joined, hyphenated = words.get(last + first, 0), words.get(f"{last}-{first}", 0)
    if joined or hyphenated:
        return "" if joined >= hyphenated else "-"
    tail = last.rsplit("-", 1)[-1]
    both_words = min(words.get(tail, 0), words.get(first, 0)) >= 2 and len(first) > 2
    return "-" if both_words else ""


def mend_lost_ligatures(text: str, words: Vocabulary) -> str:
    """The text with ligatures for U+FFFD and control characters, if just one word of the document fits."""
    if not _LOST.search(text):
        return text

    def mend(match: re.Match[str]) -> str:
        before, after = (match[1] or "", match[2]) if match[2] else (match[3], "")
        known = {form for ligature in _LOST_LIGATURES if words.get((form := before + ligature + after).lower(), 0)}
        return known.pop() if len(known) == 1 else match[0]

    return _LOST_GLYPH.sub(mend, text)


def line_gap(left: str, right: str) -> str:
    """The gap between two lines of a paragraph: a space, but nothing between Chinese or Japanese signs."""
    return "" if _NO_SPACE.match(left[-1:]) and _NO_SPACE.match(right[:1]) else " "


def joined(lines: Sequence[str], words: Vocabulary, *, separator: str = "") -> tuple[str, list[int]]:
    """(the lines of a paragraph as one text, where each begins in it); a word that a line end cut is one again.

    separator: put between the lines instead.
    """
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    end = ""  # the end of the text so far, with its last word
    for line in lines:
        cut = end[-1:] in tuple(LINE_HYPHENS) or (end.endswith("-") and end[-2:-1].isalpha() and line[:1].islower())
        gap = separator if end else ""
        if cut and not separator:
            parts[-1], end, length = parts[-1][:-1], end[:-1], length - 1
            gap = hyphen_between(end, line, words)
        elif end and not separator:
            gap = line_gap(end, line)
        parts += gap, line
        starts.append(length + len(gap))
        length = starts[-1] + len(line)
        end = f"{end}{gap}{line}"[-_LONGEST_WORD - 1 :]
    return "".join(parts), starts


def clean_line(text: str) -> str:
    """One line: NFC, single spaces, no control, invisible or private characters."""
    text = expand_ligatures(text)
    if not text.isascii():
        text = _WRAPPED.sub("", text)
        text = _PRIVATE_BULLET.sub("•", text)
        text = _PRIVATE.sub("", _INVISIBLE.sub("", text))
        text = unicodedata.normalize("NFC", text)
    text = _CONTROL.sub("", text)
    return _SPACES.sub(" ", text.replace("\n", " ").replace("\f", " ").replace("\r", " ")).strip()


def clean_record(text: str) -> str:
    """A text unchanged except for characters that break training: NULs, controls, lone surrogates."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")).strip()
