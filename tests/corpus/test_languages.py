"""Passages of texts in any script: where sentences end, what may be cut, what is too short, what is a copy."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from embedfit.corpus.chunking import Window, cut, sentences
from embedfit.corpus.cleaning import clean_line, line_gap
from embedfit.corpus.duplicates import clusters
from embedfit.corpus.quality import reason_to_drop, weight
from embedfit.corpus.readers.texts.plain import read_text
from embedfit.models.windows import in_windows
from tests.retrieval import passages


def letters_tokenizer(*, words: bool) -> Tokenizer:
    """A token for each character. words: every run between spaces is one word, as SentencePiece has it."""
    vocabulary = {chr(code): code for code in (*range(1, 0x2000), *range(0x3000, 0xA000), *range(0xAC00, 0xD7B0))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {"?": 0}, merges=[], unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if words else pre_tokenizers.BertPreTokenizer()
    return tokenizer


def sentences_of(text: str) -> list[str]:
    return [text[start:end].strip() for start, end, _ in sentences(text)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("水泵要清洗。先关闭阀门！怎么做？", 3),
        ("他说：「先关阀门。」然后清洗。", 2),
        ("フィルターを掃除します。バルブを閉めますか？", 2),
        ("पंप साफ़ करें। वाल्व बंद करें॥", 2),
        ("هل نظفت المضخة؟ أغلق الصمام. ثم ابدأ", 3),
        ("پمپ صاف کریں۔ والو بند کریں۔", 2),
        ("សម្អាតម៉ាស៊ីន។ បិទវ៉ាន៕", 2),
        ("သန့်ရှင်းရေးလုပ်ပါ။ ပိတ်ပါ။", 2),
        ("Промойте фильтр. Затем закройте. см. схему", 2),
        ("Çıkarın. İçini temizleyin. Öyle bırakın.", 3),
        ("Version 3．5を使う．終わり．", 2),
        ("필터를 청소합니다. 밸브를 잠급니다.", 2),
    ],
)
def test_where_sentences_end(text: str, count: int) -> None:
    assert len(sentences_of(text)) == count


ALL = [row[0] for rows in passages.CORPORA.values() for row in rows]


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("name", ["CHINESE", "JAPANESE", "KOREAN", "THAI", "KHMER", "BURMESE", "HINDI", "ARABIC"])
def test_long_texts_are_cut_within_the_budget_and_lose_nothing(name: str, words: bool) -> None:
    text = "".join(row[0] for row in getattr(passages, name)).replace(".", "")
    window = Window(letters_tokenizer(words=words), 40)
    spans = cut(text, window, 24)
    assert len(spans) > 2
    assert all(window.tokens(text[start:end]) <= 24 for start, end in spans)
    assert "".join(text[start:end] for start, end in spans).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("name", ["THAI", "KHMER", "BURMESE", "LAO"])
def test_no_cut_parts_a_letter_from_its_marks(name: str) -> None:
    text = "".join(row[0] for row in getattr(passages, name)).replace(" ", "")
    spans = cut(text, Window(letters_tokenizer(words=True), 40), 24)
    assert len(spans) > 2
    assert not any(unicodedata.category(text[start]).startswith("M") for start, _ in spans)


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("name", ["CHINESE", "JAPANESE", "KOREAN", "THAI", "ARABIC"])
def test_windows_overlap_and_hold_everything(name: str, words: bool) -> None:
    text = "".join(row[0] for row in getattr(passages, name))
    found = in_windows([text], letters_tokenizer(words=words), 32)
    assert len(found.texts) > 3
    place = covered = 0
    for part in found.texts:
        place = text.index(part, place)
        assert text[covered:place].strip() == ""
        covered = place + len(part)
    assert covered == len(text)
    assert sum(map(len, found.texts)) > 1.1 * len(text) or name in ("KOREAN", "ARABIC")
    assert not any(unicodedata.category(part[0]).startswith("M") for part in found.texts if name == "THAI")


@given(st.text(max_size=200))
def test_sentences_hold_every_character(text: str) -> None:
    found = list(sentences(text))
    assert "".join("".join(text[start:end] for start, end, _ in found).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ALL)
def test_good_passages_are_kept_in_every_script(text: str) -> None:
    assert reason_to_drop(text, min_characters=30) == ""


def test_characters_are_weighed_by_what_they_say() -> None:
    assert weight("水" * 20) == 60 and weight("한" * 30) == 60 and weight("ก" * 60) == 60 and weight("a" * 60) == 60
    assert reason_to_drop("水泵的过滤网每三个月必须清洗一次并且要晾干", min_characters=60) == ""
    assert reason_to_drop("水泵的过滤网", min_characters=60) == "shorter than 60 characters"


@pytest.mark.parametrize("unit", ["水泵要清洗，", "ล้างตัวกรองน้ำ ", "फ़िल्टर साफ़ करें ", "pump cleaning now "])
def test_what_repeats_itself_is_dropped_in_every_script(unit: str) -> None:
    assert reason_to_drop(unit * 60, min_characters=60) == "repeats itself"


def test_near_duplicates_are_found_in_every_script() -> None:
    for rows in passages.CORPORA.values():
        texts = [text * 2 for text, _ in rows]
        near = [text + text[:-2] for text, _ in rows]
        assert clusters(texts) == list(range(len(texts)))
        assert clusters(texts + near) == [*range(len(texts)), *range(len(texts))]


def test_wrapped_lines_of_chinese_are_joined_without_a_space(tmp_path: Path) -> None:
    assert line_gap("水泵的", "过滤网") == line_gap("阀门，", "然后") == ""
    assert line_gap("a", "水") == line_gap("필터", "청소") == line_gap("", "水") == " "
    assert clean_line("水泵的\n过滤网 水 泵\nb\nc") == "水泵的过滤网 水 泵 b c"
    path = tmp_path / "wrapped.txt"
    path.write_text("水泵的过滤网每三个月必须清\n洗一次，用温水冲洗。\nPlease wash it\nwith water.\n", "utf-8")
    text = " ".join(block.text for block in read_text(path).blocks)
    assert "必须清洗一次，用温水冲洗。 Please wash it with water." in text
