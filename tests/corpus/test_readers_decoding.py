"""Any encoding: declared, undeclared, declared wrongly; texts of a few characters, too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.corpus.readers.decoding import declared_encoding, decode
from embedfit.corpus.readers.office.legacy import encoding_of

SHORT = {
    "cp1252": (
        "The tenant’s deposit is paid back within sixty days, and the owner may keep €40 for each key.", "Price: €40",
        "“Quotes” and — dashes", "Die Tür des Ofens darf erst nach dem Abkühlen geöffnet werden.",
        "The chef recommends the crème brûlée.", "El niño comió mañana.", "Ação não é possível.",
        "Smörgåsbord på svenska.", "L’été dernier, où étiez-vous ?", "Temperature: 25 °C ± 1", "½ cup of sugar",
    ),
    "cp1250": ("Zażółć gęślą jaźń. Proszę zamknąć drzwi.", "Příliš žluťoučký kůň úpěl ďábelské ódy.",
               "Árvíztűrő tükörfúrógép."),
    "iso8859_2": ("Zażółć gęślą jaźń. Proszę zamknąć drzwi.",),
    "cp1251": ("Нажмите кнопку, чтобы выключить звук телевизора.", "Нажмите кнопку.", "Цена: 40",
               "Натисніть кнопку, щоб вимкнути звук."),
    "koi8_r": ("Нажмите кнопку, чтобы выключить звук телевизора.",),
    "cp866": ("Нажмите кнопку, чтобы выключить звук телевизора.",),
    "cp1253": ("Πατήστε το κουμπί για να κλείσετε την τηλεόραση.",),
    "cp1254": ("Lütfen kapıyı kapatınız, şimdi dışarı çıkıyoruz.",),
    "cp1255": ("לחץ על הכפתור כדי לכבות את הטלוויזיה.",),
    "cp1256": ("اضغط على الزر لإيقاف تشغيل التلفزيون.",),
    "cp1257": ("Prašome uždaryti duris, ačiū už supratimą.",),
    "cp874": ("กดปุ่มเพื่อปิดโทรทัศน์",),
    "gb18030": ("请关闭电视机。", "按下按钮关闭电视机的声音，然后等待五秒钟。"),
    "big5": ("請按下按鈕關閉電視機的聲音，然後等待五秒鐘。", "請關閉電視機。"),
    "cp932": ("ボタンを押してテレビの音を消してください。", "テレビを消す。"),
    "euc_jp": ("ボタンを押してテレビの音を消してください。",),
    "iso2022_jp": ("ボタンを押してテレビの音を消してください。",),
    "cp949": ("버튼을 눌러 텔레비전 소리를 끄십시오.", "전원을 끄십시오."),
    "utf-16-le": ("The plain text of it.", "请关闭电视机。", "Нажмите кнопку, чтобы выключить звук."),
    "utf-16-be": ("The plain text of it.", "请关闭电视机。", "Нажмите кнопку, чтобы выключить звук."),
    "utf-16": ("Die Tür.",), "utf-32": ("Die Tür.",), "utf-32-le": ("Die Tür.",), "utf-32-be": ("The plain text.",),
    "utf-8": ("Die Tür.", "请", "€", "Noël — “x” 😀"), "utf-8-sig": ("Die Tür.",),
}  # fmt: skip
CASES = [(encoding, text) for encoding, texts in SHORT.items() for text in texts]


@pytest.mark.parametrize(("encoding", "text"), CASES)
def test_readers_know_the_encoding_of_a_short_text(encoding: str, text: str) -> None:
    for repeated in (text, "\n".join([text] * 20)):
        assert decode(repeated.encode(encoding)) == (repeated, "")


@pytest.mark.parametrize("template", [
    '<meta charset="{}"><p>', "<html><head><meta http-equiv=content-type content='text/html; charset={}'></head>",
    '<?xml version="1.0" encoding="{}"?><html>', "<!-- <meta charset=utf-16> --><META CHARSET={}>",
])  # fmt: skip
@pytest.mark.parametrize(("declared", "encoding", "text"), [
    ("gb2312", "gbk", "请关闭电视机"), ("Shift_JIS", "cp932", "テレビを消す"), ("big5", "big5", "請關閉電視機"),
    ("euc-kr", "cp949", "전원을 끄십시오"), ("windows-1251", "cp1251", "Цена"), ("koi8-r", "koi8_r", "Цена"),
    ("iso-8859-1", "cp1252", "crème “x” €40"), ("iso-8859-7", "iso8859_7", "Τιμή: 40"), ("euc-jp", "euc_jp", "音"),
    ("iso-2022-jp", "iso2022_jp", "テレビを消す"), ("tis-620", "cp874", "กดปุ่ม"), ("utf-8", "utf-8", "Tür"),
    ("gb18030", "gb18030", "按 😀 钮"),
    # declared wrongly
    ("iso-8859-1", "utf-8", "crème — “x”"), ("gbk", "utf-8", "Die Tür — “x”"), ("utf-8", "cp1252", "crème “x” €40"),
    ("nonsense", "cp1252", "crème “x” €40"), ("hex", "utf-8", "Tür"), ("utf-16", "utf-8", "crème"),
])  # fmt: skip
def test_readers_use_the_declared_encoding_unless_the_bytes_contradict_it(
    template: str, declared: str, encoding: str, text: str
) -> None:
    data = template.format(declared).encode("ascii") + text.encode(encoding)
    decoded, note = decode(data, declared=declared_encoding(data))
    assert decoded.endswith(text) and note == ""


def test_readers_find_no_declaration_where_there_is_none() -> None:
    assert declared_encoding(b"<p>charset=utf-8 is a thing to say</p>") == ""
    assert declared_encoding(b"<meta name=x>" * 5000) == ""


@given(st.binary(max_size=600))
def test_readers_name_an_encoding_that_exists_or_none(data: bytes) -> None:
    encoding = encoding_of(data)
    assert encoding == "" or isinstance(data.decode(encoding, "replace"), str)
