"""The languages of a text and of a corpus, and each language's stop words and stems."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import Stemmer
from py3langid.langid import MODEL_FILE, LanguageIdentifier

_Identifier: Any = LanguageIdentifier  # which has no types

#: A text's language is certain if the detector gives it at least this probability.
CERTAIN = 0.9
#: With fewer letters, a text is too short for certainty.
MIN_LETTERS = 40
#: The size of the evenly spaced sample of a corpus, and the characters of each passage that are read.
_SAMPLE, _HEAD = 1000, 600
#: Characters of a passage that tell the languages of a corpus apart.
_FEW = 160
#: A language belongs to a corpus if at least this share of the certain passages is in it, and two of them.
_MIN_SHARE, _MIN_PASSAGES = 0.02, 2

#: Languages with a Snowball stemmer.
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish",
    "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish",
}  # fmt: skip
#: Languages whose stop words bm25s has, and its names of them. Chinese and Korean are left out: their lists hold words,
#: and terms are n-grams.
_STOP_WORDS = {
    "en": "EN", "de": "GERMAN", "nl": "DUTCH", "fr": "FRENCH", "es": "SPANISH", "pt": "PORTUGUESE", "it": "ITALIAN",
    "ru": "RUSSIAN", "sv": "SWEDISH", "no": "NORWEGIAN", "tr": "TURKISH", "da": "DANISH",
}  # fmt: skip
#: The detector's names of varieties, and the language as which each is read.
_VARIETIES = {"wuu": "zh", "yue": "zh", "nn": "no", "ary": "ar", "arz": "ar", "bs": "hr", "pcm": "en", "uzs": "uz"}
_NO_LANGUAGE = "zxx"
#: Scripts of languages that are not written in Latin letters.
_SCRIPTS = {
    "Cyrillic": "ru uk be bg mk sr kk ky mn tg tt ba", "Arabic": "ar fa ur ps ug sdh", "Devanagari": "hi mr ne sa gom",
    "Greek": "el grc", "Hebrew": "he hbo", "Armenian": "hy", "Georgian": "ka", "Tamil": "ta", "Telugu": "te",
    "Bengali": "bn as", "Gujarati": "gu", "Gurmukhi": "pa", "Kannada": "kn", "Malayalam": "ml", "Sinhala": "si",
    "Oriya": "or", "Ethiopic": "am", "Tibetan": "dz", "Chinese": "zh", "Japanese": "ja", "Korean": "ko",
    "Thai": "th", "Lao": "lo", "Khmer": "km", "Burmese": "my",
}  # fmt: skip
_SCRIPT_OF = {code: script for script, codes in _SCRIPTS.items() for code in codes.split()}
#: Names in English and in the language itself, as people put them into generate.language.
_NAMES = {
    "ar": "arabic العربية", "bg": "bulgarian", "cs": "czech čeština", "da": "danish dansk", "de": "german deutsch",
    "el": "greek ελληνικά", "en": "english", "es": "spanish español castellano", "et": "estonian",
    "fa": "persian farsi فارسی", "fi": "finnish suomi", "fr": "french français", "he": "hebrew עברית",
    "hi": "hindi हिन्दी", "hu": "hungarian magyar", "id": "indonesian", "it": "italian italiano",
    "ja": "japanese 日本語", "km": "khmer", "ko": "korean 한국어", "lo": "lao", "my": "burmese",
    "nl": "dutch nederlands", "no": "norwegian norsk", "pl": "polish polski", "pt": "portuguese português",
    "ro": "romanian română", "ru": "russian русский", "sv": "swedish svenska", "th": "thai ไทย",
    "tr": "turkish türkçe", "uk": "ukrainian українська", "vi": "vietnamese",
    "zh": "chinese mandarin 中文 简体中文 繁體中文",
}  # fmt: skip
_CODE_OF = {name: code for code, names in _NAMES.items() for name in (code, *names.split())}


@functools.cache
def _identifier() -> Any:  # noqa: ANN401
    logging.getLogger("py3langid").setLevel(logging.WARNING)
    return _Identifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _ranker(among: tuple[str, ...] = ()) -> Callable[[str], list[tuple[str, float]]]:
    """Ranks all languages, or only some, which is several times as quick and leaves their odds the same."""
    identifier = copy.copy(_identifier())
    if among:
        labels = [label for label in identifier.labels if _VARIETIES.get(label, label) in among]
        identifier.set_languages(labels or None)
    rank: Callable[[str], list[tuple[str, float]]] = identifier.rank
    return rank


def probabilities(text: str) -> dict[str, float]:
    """The probability of each language (ISO 639 code) for the beginning of a text; empty for a text without letters."""
    return _probabilities(text[:_HEAD], ())


def _probabilities(text: str, among: tuple[str, ...]) -> dict[str, float]:
    sums: dict[str, float] = {}
    if any(char.isalpha() for char in text):
        for code, probability in _ranker(among)(text.encode("utf-8", "replace").decode("utf-8")):
            name = _VARIETIES.get(code, code)
            sums[name] = sums.get(name, 0.0) + probability
    return sums


def detect(text: str) -> str:
    """The language of a text if it is certain, else ""."""
    if letters(text) < MIN_LETTERS:
        return ""
    code, probability = max(probabilities(text).items(), key=lambda item: item[1])
    return code if probability >= CERTAIN and code != _NO_LANGUAGE else ""


def letters(text: str) -> int:
    """The number of letters in a text's beginning. A Chinese, Japanese or Korean one counts for three."""
    return sum(char.isalpha() * (3 if char >= "\u2e80" else 1) for char in text[:_HEAD])


def likeliest(text: str, candidates: Sequence[str]) -> tuple[str, bool]:
    """(the likeliest of some languages for a text, whether it is certain). A text without letters gets the first one.

    A few lines decide. If they leave doubt, some more are read.
    """
    for characters in (_FEW, _HEAD):
        found = _probabilities(text[:characters], tuple(candidates))
        scores = [found.get(code, 0.0) for code in candidates]
        best = max(range(len(candidates)), key=lambda number: scores[number])
        certain = scores[best] >= CERTAIN * (sum(scores) or 1.0)
        if certain or len(text) <= characters:
            break
    return candidates[best], certain


def languages_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The languages of a corpus, the commonest first; empty if none is certain. A sample of the texts decides."""
    step = max(1, -(-len(texts) // _SAMPLE))
    sample = [text[:_HEAD] for text in itertools.islice(texts, 0, None, step)]
    counts = Counter(code for text in sample if (code := detect(text)))
    total = sum(counts.values())
    common = tuple(
        code
        for code, count in counts.most_common()
        if count >= max(_MIN_PASSAGES, _MIN_SHARE * total) or count == total
    )
    if common:
        return common
    whole = detect(" ".join(sample)[:_HEAD])  # records of a few words each
    return (whole,) if whole else ()


def script_of(language: str) -> str:
    """The script of a language, "Latin" unless the table names another."""
    return _SCRIPT_OF.get(language, "Latin")


def code_of(name: str) -> str:
    """The code of a language by any of its names ("German", "Deutsch", "de", "zh-CN"); "" if the name is unknown."""
    lowered = name.strip().casefold()
    return _CODE_OF.get(lowered) or _CODE_OF.get(lowered.replace("_", "-").split("-")[0].strip(), "")


def is_named(language: str) -> bool:
    """Whether a language is one of the widespread ones whose names we know."""
    return language in _NAMES


def name_of(language: str) -> str:
    """A language's English name, or its code."""
    return _NAMES.get(language, language).split()[0].capitalize()


def stop_words(language: str) -> tuple[str, ...]:
    """A language's stop words, in lower case; empty if there is no list."""
    if language not in _STOP_WORDS:
        return ()
    from bm25s import stopwords  # loads scipy, which most commands do without

    return tuple(getattr(stopwords, f"STOPWORDS_{_STOP_WORDS[language]}"))


def stemmer(language: str) -> Stemmer.Stemmer | None:
    """A language's Snowball stemmer, None if it has none. Threads must not share a stemmer."""
    return Stemmer.Stemmer(_STEMMERS[language]) if language in _STEMMERS else None
