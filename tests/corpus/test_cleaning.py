"""Characters and broken words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.corpus.cleaning import (
    LINE_HYPHENS,
    clean_line,
    clean_record,
    expand_ligatures,
    joined,
    mend_lost_ligatures,
    vocabulary,
)


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("e\ufb03cient o\ufb03ce", "efficient office"),
        ("\ufb01 nancial pro\ufb01 t", "financial profit"),
        ("in\ufb02 ation", "inflation"),
        ("sta\ufb00 of ten", "staff of ten"),
        ("sta\ufb00 and", "staff and"),
        ("the \ufb01 Nance", "the fi Nance"),
    ],
)
def test_ligatures(broken: str, mended: str) -> None:
    assert expand_ligatures(broken) == mended


def test_lost_ligature_is_mended_only_where_the_document_knows_one_word() -> None:
    words = vocabulary(["confidential report, profit and office", "flow fiow"])
    assert mend_lost_ligatures("con\ufffddential", words) == "confidential"
    assert mend_lost_ligatures("o\x02ce", words) == "office"
    assert mend_lost_ligatures("\ufffdow", words) == "\ufffdow", "two words would fit"
    assert mend_lost_ligatures("\ufffdzzz", words) == "\ufffdzzz"


@pytest.mark.parametrize(
    ("left", "right", "whole"),
    [
        ("informa", "tion about", "information about"),
        ("forward", "looking statements", "forward-looking statements"),
        ("e", "commerce", "e-commerce"),
        ("Jean", "Paul", "Jean-Paul"),
        ("2019", "2020", "2019-2020"),
        ("well", "known", "well-known"),
        ("multi", "lingual", "multilingual"),
    ],
)
def test_hyphen_at_line_end(left: str, right: str, whole: str) -> None:
    words = vocabulary(["information", "forward-looking", "e-commerce e-commerce", "well well known known"])
    for hyphen in ("-", *LINE_HYPHENS):
        text, starts = joined([f"{left}{hyphen}", right], words)
        if hyphen != "-" or right[0].islower():
            assert (text, starts) == (whole, [0, len(whole) - len(right)])


def test_clean_line_takes_off_what_models_cannot_use() -> None:
    assert clean_line("a\x00b\u200bc \u00a0 d\ufeff\ne\ud800") == "abc d e"
    assert clean_line("e\u0301") == "é"
    assert clean_line("\uf0b7 item") == "• item"


def test_joiners_of_persian_and_hindi_stay() -> None:
    assert clean_line("می\u200cخواهم क्\u200dष") == "می\u200cخواهم क्\u200dष"


@given(st.text())
def test_cleaning_is_idempotent_and_encodable(text: str) -> None:
    once = clean_line(text)
    assert clean_line(once) == once
    once.encode("utf-8")
    assert "\x00" not in once and "\n" not in once
    record = clean_record(text)
    assert clean_record(record) == record
    record.encode("utf-8")
