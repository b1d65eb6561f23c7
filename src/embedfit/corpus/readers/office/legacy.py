"""Detection of encodings before Unicode, even for a text with only a few characters beyond ASCII.

charset-normalizer judges long texts well and short ones badly ("crème" becomes "crčme"). A few characters are enough to
test whether all of them belong to the alphabet of one language, so each encoding is tried with the languages that were
written in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from charset_normalizer import from_bytes

_ENOUGH = 2000
_SURE = 0.7
#: (encoding, letters beyond ASCII of one language); the first of equally good ones is taken.
_ALPHABETS: tuple[tuple[str, str], ...] = (
    ("cp1252", ""),  # English: quotes, dashes, currencies
    ("cp1252", "äöüß"),  # German
    ("cp1252", "àâæçèéêëîïôœùûüÿ"),  # French
    ("cp1252", "áéíñóúüç·"),  # Spanish, Catalan
    ("cp1252", "áàâãçéêíóôõúü"),  # Portuguese
    ("cp1252", "àèéìíîòóùú"),  # Italian
    ("cp1252", "äöåæøéüà"),  # Swedish, Danish, Norwegian, Finnish
    ("cp1252", "éëïóöüáíúèê"),  # Dutch, Irish
    ("cp1254", "çğıöşüâîûİ"),  # Turkish
    ("cp1252", "áéíóúýþæöð"),  # Icelandic
    ("cp1250", "ąćęłńóśźż"),  # Polish
    ("cp1250", "áčďéěíňóřšťúůýžäľĺŕô"),  # Czech, Slovak
    ("cp1250", "áéíóöőúüű"),  # Hungarian
    ("cp1250", "ăâîşţ"),  # Romanian
    ("cp1250", "čćđšž"),  # Croatian, Slovene
    ("iso8859_2", "ąćęłńóśźż"),
    ("iso8859_2", "áčďéěíňóřšťúůýžäľĺŕô"),
    ("cp1257", "ąčęėįšųūž"),  # Lithuanian
    ("cp1257", "āčēģīķļņšūž"),  # Latvian
    ("cp1257", "äöõüšž"),  # Estonian
    ("cp1251", "абвгдежзийклмнопрстуфхцчшщъыьэюяё"),  # Russian, Bulgarian
    ("cp1251", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя"),  # Ukrainian
    ("cp1251", "абвгдеёжзійклмнопрстуўфхцчшыьэюя"),  # Belarusian
    ("cp1251", "абвгдђежзијклљмнњопрстћуфхцчџш"),  # Serbian
    ("koi8_r", "абвгдежзийклмнопрстуфхцчшщъыьэюяё"),
    ("koi8_u", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя"),
    ("cp866", "абвгдежзийклмнопрстуфхцчшщъыьэюяё"),
    ("iso8859_5", "абвгдежзийклмнопрстуфхцчшщъыьэюяё"),
    ("cp1253", "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ"),
    ("cp1255", "אבגדהוזחטיךכלםמןנסעףפץצקרשת"),
    ("cp874", "กขคฆงจฉชซญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮะัาำิีึืุูเแโใไ็่้๊์ๆฯ"),
    ("cp1256", "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيپچژگًٌٍَُِّْ"),
    ("cp850", "äöüßàâæçèéêëîïôùûñóáíúåø"),  # DOS
    ("mac_roman", "äöüßàâæçèéêëîïôœùûñóáíúåø"),
)
#: Encodings of several bytes, and the bytes of the characters that people mostly use: kana, the first level of
#: ideographs, Hangul.
_SEVERAL_BYTES: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("cp932", re.compile(rb"[\x82\x83][\x40-\xfc]|[\x88-\x97][\x40-\xfc]")),
    ("euc_jp", re.compile(rb"[\xa4\xa5][\xa1-\xfe]|[\xb0-\xcf][\xa1-\xfe]")),
    ("cp949", re.compile(rb"[\xb0-\xc8][\xa1-\xfe]")),
    ("gb18030", re.compile(rb"[\xb0-\xd7][\xa1-\xfe]")),
    ("big5", re.compile(rb"[\xa4-\xc6][\x40-\x7e\xa1-\xfe]")),
)
_KANA = re.compile("[\u3040-\u30ff]")
_SIGNS = frozenset(
    "’‘“”„‚«»‹›–—…•·€£¥¢§°©®™±×÷¿¡ª º¹²³´½¼¾†‡ \u00a0\u00ad№、。，：；！？（）「」『』《》〈〉・ー　～％"
)
_IN_WORDS = frozenset("’·\u00ad–—-ー・")
#: The most frequent letters of alphabets other than the Latin one: they tell encodings apart in which the same bytes
#: are letters of another alphabet, or other letters of the same.
_FREQUENT = frozenset("оеаинтсрвлОЕАИНТСРВЛαοιετσνηυρςΑΟΙΕΤΣΝΗΥΡיוהלאתרשמםבנالمينوتربعةهานรกอเงมยวลที่้ิัดสตค")
_LATIN = re.compile("[A-Za-zªºÀ-ʯ]")


def encoding_of(sample: bytes) -> str:
    """The encoding of text that is not Unicode, "" if none fits. sample: its first bytes, up to 256 KiB."""
    best, score = "", 0.0
    for encoding, of_encoding in _scores(sample):
        if of_encoding > score + 1e-9:
            best, score = encoding, of_encoding
    if score >= _SURE:
        return best
    found = from_bytes(sample).best()
    return found.encoding if found is not None else best


def _scores(sample: bytes) -> Iterator[tuple[str, float]]:
    texts: dict[str, str | None] = {}
    for encoding, letters in _ALPHABETS:
        if encoding not in texts:
            texts[encoding] = _decoded(sample, encoding)
        text = texts[encoding]
        if text is not None:
            yield encoding, _alphabet_score(text, letters)
    for encoding, common in _SEVERAL_BYTES:
        text = _decoded(sample, encoding)
        if text is not None:
            yield encoding, _ideograph_score(text, encoding, common)


def _decoded(sample: bytes, encoding: str) -> str | None:
    """The text, None if the bytes are invalid in that encoding; the last character may be cut."""
    for end in (len(sample), len(sample) - 1, len(sample) - 2, len(sample) - 3):
        try:
            return sample[:end].decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(sample) - 4:
                return None
    return None


def _alphabet_score(text: str, letters: str) -> float:
    """Share of the characters beyond ASCII that fit the language's alphabet at their places."""
    known = set(letters) | set(letters.upper())
    good = count = 0.0
    for position, char in _beyond_ascii(text):
        count += 1
        before, after = text[position - 1 : position], text[position + 1 : position + 2]
        if char in known:
            broken = (char.isupper() and before.islower()) or (char.islower() and after.isupper())
            rare = not _LATIN.match(char) and char not in _FREQUENT
            shouted = char.isupper() and after.isupper()
            good += 0.0 if broken else (0.8 if rare else 1.0) * (0.9 if shouted else 1.0)
        elif char in _SIGNS:
            inside = before.isalpha() and after.isalpha()
            good += float(not inside or char in _IN_WORDS)
    return good / count if count else 0.0


def _beyond_ascii(text: str) -> Iterator[tuple[int, str]]:
    found = 0
    for position, char in enumerate(text):
        if char > "\x7f":
            yield position, char
            found += 1
            if found >= _ENOUGH:
                return


def _ideograph_score(text: str, encoding: str, common: re.Pattern[bytes]) -> float:
    """Share of the characters beyond ASCII that are common in the encoding's language."""
    chars = [char for _, char in _beyond_ascii(text)]
    if not chars:
        return 0.0
    kana = sum(_KANA.match(char) is not None for char in chars)
    if encoding == "euc_jp" and not kana:
        return 0.0  # Chinese otherwise
    good = 0.0
    for char in chars:
        if char in _SIGNS:
            good += 1.0
        elif encoding in ("gb18030", "big5", "cp949") and _KANA.match(char):
            good += 0.5
        elif common.fullmatch(char.encode(encoding, "ignore")):
            good += 1.0
    # A short text that could be both is Chinese rather than Korean.
    few = encoding == "cp949" and len(chars) < 6
    return good / len(chars) - (0.01 if few else 0.0)
