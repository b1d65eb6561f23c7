"""The rules that drop passages not worth training on. Each is pure and gives a reason."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import regex

from embedfit.retrieval.words import DENSE, words_or_pairs

#: Letters that carry more meaning than a Latin one. A Chinese sign is half a word, a syllable of Korean or Japanese a
#: third.
_HAN = regex.compile(r"[\p{Han}]")
_SYLLABLE = regex.compile(r"[\p{Hiragana}\p{Katakana}\p{Hangul}]")
_HAN_WEIGHT, _SYLLABLE_WEIGHT = 3, 2
#: From this share of dense letters on, a text has no words between spaces that could be counted.
_DENSE_SHARE = 0.1
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}]+")
_LETTER = regex.compile(r"[\p{L}\p{M}]")
_CONTENTS_LINE = re.compile(r"(?:\.[ .]{3,}|…+|\s)\s*\d{1,4}$")
_LEADERS = re.compile(r"\.[ .]{4,}\s*\d{1,4}\s*$", re.MULTILINE)

MAX_UNREADABLE = 0.02
MIN_LETTERS = 0.25
MIN_TABLE_WORDS = 5
MIN_DISTINCT = 0.15
LONGEST_WORD = 200


def weight(text: str) -> int:
    """Length in Latin letters of equal content: a Chinese sign counts for three, a Korean syllable for two."""
    han, syllables = len(_HAN.findall(text)), len(_SYLLABLE.findall(text))
    return len(text) + (_HAN_WEIGHT - 1) * han + (_SYLLABLE_WEIGHT - 1) * syllables


def reason_to_drop(text: str, *, min_characters: int) -> str:
    """The reason to leave out a passage, or "" for a good one.

    Tables are kept as long as their rows have labels.
    """
    solid = "".join(text.split())
    if weight(text.strip()) < min_characters:
        return f"shorter than {min_characters} characters"
    if unreadable_share(solid) > MAX_UNREADABLE:
        return "unreadable characters"
    if is_contents(text):
        return "table of contents"
    letters = len(_LETTER.findall(solid))
    words = _WORD.findall(text.lower())
    if not letters:
        return "no letters"
    if len(DENSE.findall(solid)) >= _DENSE_SHARE * len(solid):
        words = words_or_pairs(text)
    else:
        if letters / len(solid) < MIN_LETTERS or len(words) < MIN_TABLE_WORDS:
            return "numbers or symbols without words"
        if max(map(len, text.split())) > max(LONGEST_WORD, len(solid) // 2):
            return "not running text (one unbroken string)"
    if len(words) >= 40 and len(set(words)) / len(words) < MIN_DISTINCT:
        return "repeats itself"
    return ""


def unreadable_share(text: str) -> float:
    """Share of characters that no reader can read: replacement, control, private or unassigned ones."""
    if not text or ("\ufffd" not in text and text.isprintable()):
        return 0.0
    if text.isascii():
        bad = sum(not char.isprintable() for char in text)
    else:
        bad = sum(char == "\ufffd" or unicodedata.category(char) in ("Cc", "Co", "Cn", "Cs") for char in text)
    return bad / len(text)


def is_contents(text: str) -> bool:
    """Whether most lines end in a page number, with dot leaders or in rising order."""
    if len(_LEADERS.findall(text)) >= 3:
        return True
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) < 5 or re.search(r"[$€£%]", text):
        return False
    numbers = [int(match[0].strip(" .…\t")) for line in lines if (match := _CONTENTS_LINE.search(line))]
    rising = all(earlier <= later for earlier, later in pairwise(numbers))
    one_number = sum(len(re.findall(r"\d[\d,.]*%?", line)) <= 3 for line in lines) >= 0.8 * len(lines)
    return len(numbers) >= max(5, 0.7 * len(lines)) and rising and one_number and numbers[-1] > numbers[0]
