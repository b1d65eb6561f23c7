"""Splits a text in any script into words: stemmed and without stop words for BM25, unchanged for the filters.

Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese set no spaces between words, or make words so long that a
search for a part must match. We call their scripts dense, and read their letters in overlapping pairs as Lucene's
CJKAnalyzer does. That needs no dictionary, and a query meets its passage wherever words begin.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import regex

from embedfit.retrieval.languages import languages_of, likeliest, script_of, stemmer, stop_words

_regex: Any = regex  # which has no types

_HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_KANA = r"\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3100-\u312f\u31f0-\u31ff"
_HANGUL = r"\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff"
_SOUTH_EAST = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
_DENSE = f"[[{_HAN}{_KANA}{_HANGUL}{_SOUTH_EAST}]&&[\\p{{L}}\\p{{M}}\\p{{N}}]]"
_UNSPACED = f"[[{_HAN}{_KANA}{_SOUTH_EAST}]&&[\\p{{L}}\\p{{M}}\\p{{N}}]]"
_FIRST_DENSE = "\u0e00"

#: A letter of a dense script.
DENSE = _regex.compile(_DENSE, _regex.V1)
#: The same without Korean, which has spaces. A text may be cut between any two such letters.
UNSPACED = _regex.compile(_UNSPACED, _regex.V1)
#: A run of dense letters, or of other letters, digits and their marks. A joiner is inside an Indian word.
_RUN = _regex.compile(
    rf"{_DENSE}+|(?:[\w\p{{N}}\p{{M}}--{_DENSE}]|(?<=[\u0900-\u0dff])[\u200c\u200d](?=[\u0900-\u0dff]))+", _regex.V1
)
#: A sign that needs the full patterns. Without one, a text is ASCII, Latin letters and punctuation, and the quicker
#: patterns below read it. (İ and ǰ count as special, because folding makes them longer.)
_SPECIAL = re.compile("[^\x00-\u012f\u0131-\u01ef\u01f1-\u02ff\u2010-\u205f\u20a0-\u20cf\u2190-\u2bff]")
_PLAIN_WORD = re.compile(r"\w+")
_PLAIN_TERM = re.compile(r"\w\w+")
#: A letter with its marks; a Burmese vowel sign is no part of what Unicode calls a grapheme.
CLUSTER = _regex.compile(r"\X\p{M}*")
#: Characters that differ from others only in looks: full width, half width, ligatures, Arabic positional forms, ㎏.
_FORMS = re.compile(
    "[\u2e80-\u2fdf\u3131-\u318e\u3300-\u33ff\ufb00-\ufdff\ufe70-\ufefc\uff01-\uffef\U0001d400-\U0001d7ff]+"
)
#: Vowel points and lengthening, which Hebrew and Arabic may leave out; joiners.
_OPTIONAL = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u200c\u200d]"
)
_SCRIPT = _regex.compile(
    r"(\p{Latin})|(\p{Cyrillic})|(\p{Arabic})|(\p{Devanagari})|(\p{Greek})|(\p{Hebrew})|(\p{Armenian})|(\p{Tamil})"
)
_SCRIPTS = ("", "Latin", "Cyrillic", "Arabic", "Devanagari", "Greek", "Hebrew", "Armenian", "Tamil")
#: The share of a word that a letter is, by script: Chinese words have two letters, Japanese or Thai ones about three.
_HAN_SHARE, _DENSE_SHARE = 1 / 2, 1 / 3
_HAN_LETTER = _regex.compile(f"[{_HAN}]")
_HANGUL_LETTER = _regex.compile(f"[{_HANGUL}]")


def _is_plain(text: str) -> bool:
    return text.isascii() or _SPECIAL.search(text) is None


def normalised(text: str) -> str:
    """A text whose letters have their usual form and width: NFC, and NFKC for letters of another form only."""
    if _is_plain(text):
        return text
    return _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), unicodedata.normalize("NFC", text))


def folded(word: str, language: str = "") -> str:
    """A word without case and optional marks: ß becomes ss, a final ς σ. In Turkish, I becomes ı and İ i."""
    if language == "tr":
        word = word.replace("I", "ı").replace("İ", "i")
    word = word.casefold()
    return word if word.isascii() else _OPTIONAL.sub("", word.replace("i\u0307", "i"))


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    """Runs of letters of a normalised text, and whether each is dense."""
    for run in _RUN.findall(text):
        yield run, run[0] >= _FIRST_DENSE and DENSE.match(run) is not None


def words(text: str) -> list[str]:
    """All words of a text, folded. In a dense script each letter with its marks counts as a word."""
    if _is_plain(text):
        return _PLAIN_WORD.findall(text.casefold())
    found: list[str] = []
    for run, dense in _runs(normalised(text)):
        if dense:
            found += CLUSTER.findall(run)
        else:
            found.append(folded(run))
    return found


def words_or_pairs(text: str) -> list[str]:
    """The words of a text, folded. A dense script gives overlapping pairs of letters: one letter says too little."""
    if _is_plain(text):
        return words(text)
    return [term for run, dense in _runs(normalised(text)) for term in (_pairs(run) if dense else (folded(run),))]


def word_set(text: str) -> frozenset[str]:
    """The same as words_or_pairs(), as a set: for comparing two texts."""
    return frozenset(words_or_pairs(text))


def size(parts: Iterable[str]) -> float:
    """The number of words that parts from words() are worth in a language with spaces."""
    return sum(map(_share, parts))


def _share(word: str) -> float:
    if word < _FIRST_DENSE or not DENSE.match(word):
        return 1.0
    return _HAN_SHARE if _HAN_LETTER.match(word) else _DENSE_SHARE


def count(text: str) -> float:
    """The number of words of a text, by its spaces or, in dense scripts, by its letters."""
    if _is_plain(text):
        return float(len(_PLAIN_WORD.findall(text)))
    total = 0.0
    for run, dense in _runs(normalised(text)):
        worth = size(CLUSTER.findall(run)) if dense else 1.0
        total += max(worth, 1.0) if _HANGUL_LETTER.match(run) else worth  # Korean has spaces, if few
    return total


def length(text: str) -> float:
    """The length of a text as people see it: the words between white space or, with dense letters in it, count()."""
    return count(text) if DENSE.search(text) else float(len(text.split()))


def first_words(text: str, most: int) -> str:
    """The beginning of a text with at most so many words, its white space as single spaces."""
    return next(pieces(text, most), "") if most > 0 else ""


def pieces(text: str, most: int) -> Iterator[str]:
    """A text in pieces of at most so many words, its white space as single spaces."""
    text = " ".join(text.split())
    if not DENSE.search(text):
        spaced = text.split()
        for first in range(0, len(spaced), most):
            yield " ".join(spaced[first : first + most])
        return
    begin, taken = 0, 0.0
    for match in _RUN.finditer(text):
        letters = CLUSTER.finditer(match[0]) if DENSE.match(match[0]) else ()
        places = [(match.start() + letter.start(), _share(letter[0])) for letter in letters] or [(match.start(), 1.0)]
        for place, worth in places:
            if taken and taken + worth > most:
                yield text[begin:place].rstrip()
                begin, taken = place, 0.0
            taken += worth
    yield text[begin:]


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of letters with their marks; a single letter is kept."""
    letters = CLUSTER.findall(run)
    return [left + right for left, right in pairwise(letters)] or letters


def is_letter(term: str) -> bool:
    """Whether a term is one letter of a dense script, with its marks."""
    return DENSE.match(term) is not None and CLUSTER.fullmatch(term) is not None


def has_letter(term: str, letter: str) -> bool:
    """Whether a term is this letter of a dense script, or a pair of letters of which it is one."""
    return letter in term and letter in CLUSTER.findall(term)


#: Words whose terms are remembered.
_MOST_KNOWN = 500_000


class _Terms(dict[str, tuple[str, ...]]):
    """Word → its terms by the rules of one or more languages a script. They are kept, as most words come again."""

    def __init__(self, languages: dict[str, tuple[str, ...]], stopped: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._languages = languages
        self._stopped = stopped
        codes = {code for several in languages.values() for code in several}
        self._stemmers = {code: stemmer(code) for code in codes}
        self._stop_words = {code: frozenset(folded(word, code) for word in stop_words(code)) for code in codes}

    def __missing__(self, word: str) -> tuple[str, ...]:
        if len(self) >= _MOST_KNOWN:
            self.clear()  # otherwise a server that gets new words would grow without end
        found = self[word] = self._terms(word)
        return found

    def _terms(self, word: str) -> tuple[str, ...]:
        match = _SCRIPT.search(word)
        languages = self._languages.get(_SCRIPTS[match.lastindex or 0] if match else "Latin", ("",))
        terms: dict[str, None] = {}
        for language in languages:
            plain = folded(word, language)
            if len(plain) < 2 or plain in self._stopped:
                return ()
            if plain in self._stop_words.get(language, ()):
                continue
            stem = self._stemmers.get(language)
            terms[stem.stemWord(plain) if stem else plain] = None
        return tuple(terms)


class Analysis:
    """The rules by which words of a corpus, and of queries to it, become the terms that BM25 counts.

    Words lose their case, stop words are left out, and the other words are stemmed by their language. If a corpus has
    several languages in one script, each passage is read by the rules of its own. A query is too short to tell its
    language, so each of its words gives the stems of all languages of its script. A passage holds only stems of its
    own language, so the others match nothing.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = tuple(languages)
        by_script: dict[str, tuple[str, ...]] = {}
        for code in self.languages:
            by_script[script_of(code)] = (*by_script.get(script_of(code), ()), code)
        if self.languages:
            by_script.setdefault("Latin", ("en",))  # names and terms among words of another script
        self._by_script = by_script
        self._mixed = {script: codes for script, codes in by_script.items() if len(codes) > 1}
        self._known: dict[tuple[tuple[str, ...], str], _Terms] = {}

    @classmethod
    def of(cls, passages: Sequence[str]) -> Analysis:
        """The analysis for a corpus, by the languages that it is in."""
        return cls(languages_of(passages))

    @property
    def is_mixed(self) -> bool:
        """Whether the corpus has several languages in one script."""
        return bool(self._mixed)

    def passage(self, text: str) -> list[str]:
        """The terms of a passage, in order."""
        chosen = tuple(likeliest(text, codes)[0] for codes in self._mixed.values())
        return _terms_of(text, self._rules(chosen, ""))

    def query(self, text: str) -> list[str]:
        """The terms of a query, in order."""
        certain = ""
        for codes in self._mixed.values():
            code, is_certain = likeliest(text, codes)
            certain = code if is_certain else certain
        return _terms_of(text, self._rules((), certain))

    def _rules(self, chosen: tuple[str, ...], certain: str) -> _Terms:
        """The rules with the chosen languages, and with the stop words of a language that is certain."""
        key = (chosen, certain)
        if key not in self._known:
            one = {script: (code,) for script, code in zip(self._mixed, chosen, strict=False)}
            stopped = frozenset(folded(word, certain) for word in stop_words(certain))
            self._known[key] = _Terms(self._by_script | one, stopped)
        return self._known[key]


def _terms_of(text: str, known: _Terms) -> list[str]:
    terms: list[str] = []
    if _is_plain(text):
        for word in _PLAIN_TERM.findall(text):
            terms += known[word]
        return terms
    for run, dense in _runs(normalised(text)):
        terms += _pairs(run) if dense else known[run]
    return terms
