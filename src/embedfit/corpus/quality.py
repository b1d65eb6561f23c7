"""Which passages are not worth training on. Pure rules, each with its reason."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

#: Characters of scripts that are written without spaces and say more in one character.
DENSE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_DENSE_WEIGHT = 3
_WORD = re.compile(r"[^\W\d_]{2,}")
_LETTER = re.compile(r"[^\W\d_]")
_CONTENTS_LINE = re.compile(r"(?:\.[ .]{3,}|…+|\s)\s*\d{1,4}$")
_LEADERS = re.compile(r"\.[ .]{4,}\s*\d{1,4}\s*$", re.MULTILINE)

MAX_UNREADABLE = 0.02
MIN_LETTERS = 0.25
MIN_TABLE_WORDS = 5
MIN_DISTINCT = 0.15
LONGEST_WORD = 200


def weight(text: str) -> int:
    """Length in characters, where one of Chinese, Japanese, Korean or Thai counts for three."""
    return len(text) + (_DENSE_WEIGHT - 1) * len(DENSE.findall(text))


def reason_to_drop(text: str, *, min_characters: int) -> str:
    """Why a passage is left out, or "" where it is good.

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
    if not DENSE.search(text):
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
