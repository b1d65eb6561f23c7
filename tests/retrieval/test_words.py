"""Words and terms in any script; which languages a corpus is in; BM25 in languages other than English."""

from __future__ import annotations

import unicodedata

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from embedfit.retrieval import languages
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.metrics import judge, ndcg
from embedfit.retrieval.words import Analysis, count, first_words, folded, normalised, size, word_set, words
from tests.retrieval.passages import CHINESE, CORPORA, ENGLISH, GERMAN, JAPANESE, KOREAN, THAI

ENGLISH_TEXTS = [
    "The cat's re-used naïve café – it isn't the cats', it is e-mail's £5.50 per 3.5 m² (№ 7)",
    "Windows™ and “curly quotes”, don’t you? state-of-the-art x86_64 C++ 2½ inches",
    "It was running with the runners who ran; Zoë's résumé was resubmitted.",
    "",
]


def english_terms(texts: list[str]) -> list[list[str]]:
    """What bm25s itself makes of English texts."""
    stemmer = Stemmer.Stemmer("english")
    found = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)
    return [[term for term in terms if term] for terms in found]


def ndcg_of(passages: list[str], queries: list[str]) -> float:
    """Mean nDCG@10, the passage of each query having the query's number."""
    ids, scores = Bm25(passages).search(queries, 10)
    ranking = [
        [int(one) for one, score in zip(*row, strict=True) if score > 0] for row in zip(ids, scores, strict=True)
    ]
    return float(np.mean(ndcg(judge(ranking, [frozenset({number}) for number in range(len(queries))]), 10)))


@pytest.mark.parametrize("text", ENGLISH_TEXTS)
def test_english_terms_are_those_of_bm25s(text: str) -> None:
    english = Analysis(("en",))
    assert english.passage(text) == english_terms([text])[0] == english.query(text)


@given(
    st.text(st.characters(max_codepoint=0x24F, exclude_characters="\u00b5\u00df\u0130\u0149\u017f\u01f0"), max_size=80)
)
def test_latin_text_gives_the_terms_of_bm25s(text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    assert Analysis(("en",)).passage(text) == english_terms([text])[0]


@pytest.mark.parametrize("name", CORPORA)
def test_bm25_finds_passages_in_every_language(name: str) -> None:
    rows = CORPORA[name]
    assert ndcg_of([passage for passage, _ in rows], [query for _, query in rows]) >= 0.9


@pytest.mark.parametrize("name", ["German and English", "Chinese and English", "Chinese", "Japanese", "Korean"])
def test_rules_for_english_would_not_find_them(name: str) -> None:
    rows = CORPORA[name]
    passages, queries = english_terms([passage for passage, _ in rows]), english_terms([query for _, query in rows])
    index = bm25s.BM25()
    index.index(passages, show_progress=False)
    first = [
        bool(terms) and index.get_scores(terms).argmax() == number and index.get_scores(terms)[number] > 0
        for number, terms in enumerate(queries)
    ]
    assert np.mean(first) <= 0.8


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (ENGLISH, ("en",)),
        (GERMAN, ("de",)),
        (CHINESE, ("zh",)),
        (JAPANESE, ("ja",)),
        (KOREAN, ("ko",)),
        (THAI, ("th",)),
        ([("12 34", ""), ("---", ""), ("", "")], ()),
        ([("x y", ""), ("ok", "")], ()),
        ([], ()),
    ],
)
def test_a_corpus_languages(rows: list[tuple[str, str]], found: tuple[str, ...]) -> None:
    assert languages.languages_of([passage for passage, _ in rows]) == found


def test_both_languages_of_a_corpus_are_found_but_no_stray_one() -> None:
    english, german = [text for text, _ in ENGLISH], [text for text, _ in GERMAN]
    assert set(languages.languages_of(english + german)) == {"en", "de"}
    assert languages.languages_of(english * 20 + german[:2]) == ("en",)  # 2 of 202


@pytest.mark.parametrize("candidates", [("de", "en"), ("en", "no", "de"), ("ja", "zh"), ("xx", "yy")])
def test_the_odds_among_some_languages_are_those_among_all(candidates: tuple[str, ...]) -> None:
    for text, _ in [*ENGLISH, *GERMAN, *CHINESE, *JAPANESE]:
        every = languages.probabilities(text)
        among = languages._probabilities(text, candidates)
        total, part = sum(every.get(code, 0.0) for code in candidates), sum(among.get(code, 0.0) for code in candidates)
        if total > 1e-20:
            assert [every.get(code, 0.0) / total for code in candidates] == pytest.approx(
                [among.get(code, 0.0) / part for code in candidates], abs=1e-4
            )


def test_the_language_of_a_passage_is_told_by_its_first_lines_and_else_by_more() -> None:
    german, english = (" ".join(text for text, _ in rows) for rows in (GERMAN, ENGLISH))
    assert languages.likeliest(german, ("en", "de")) == ("de", True)
    assert languages.likeliest("12.5 | 13.7 | " * 11 + german, ("en", "de")) == ("de", True)
    assert languages.likeliest("12.5 | 13.7 | " * 11 + english, ("de", "en")) == ("en", True)


def test_a_word_meets_its_inflection_in_a_passage_of_its_language() -> None:
    analysis = Analysis(("en", "de"))
    german = analysis.passage(GERMAN[1][0])
    assert "kundig" in german and "kundig" in analysis.query("Kündigung") and "den" not in german
    english = analysis.passage(ENGLISH[1][0])
    assert "tenant" in english and "tenant" in analysis.query("tenants") and "the" not in english


def test_an_unknown_language_has_neither_stems_nor_stop_words() -> None:
    assert Analysis(()).passage("The running dogs and the cats") == ["the", "running", "dogs", "and", "the", "cats"]
    assert Analysis(("sw",)).passage("Nyumba zinazokodishwa") == ["nyumba", "zinazokodishwa"]


def test_latin_words_in_a_chinese_corpus_are_english_ones() -> None:
    analysis = Analysis(("zh",))
    assert analysis.passage("打开 Settings 页面") == ["打开", "set", "页面"]
    assert analysis.query("setting 页面") == ["set", "页面"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＷＩＮＤＯＷＳ １１", "windows 11"),
        ("ﾌﾞﾚｰｷ", "ブレーキ"),
        ("ﬁnance", "finance"),
        ("Straße", "STRASSE"),
        ("ΦΩΤΟΣ", "φωτος"),
        ("İstanbul", "istanbul"),
        ("Việt", unicodedata.normalize("NFD", "VIỆT")),
        ("بَيْت", "بيت"),
        ("שָׁלוֹם", "שלום"),
        ("ﺑﻴﺖ", "بيت"),
        ("한국어", unicodedata.normalize("NFD", "한국어")),
        ("ｋｇ ㎏", "kg kg"),
    ],
)
def test_forms_of_a_word_that_are_the_same(one: str, other: str) -> None:
    assert words(one) == words(other)
    assert Analysis(()).passage(one) == Analysis(()).passage(other)


def test_turkish_capitals_keep_their_dots() -> None:
    assert folded("ISI", "tr") == "ısı" and folded("İZİN", "tr") == "izin" and folded("ISI") == "isi"
    analysis = Analysis(("tr",))
    assert analysis.query("ISITICI") == analysis.passage("ısıtıcı")


def test_combining_marks_stay_in_their_word() -> None:
    assert words("हिन्दी में किताबें") == ["हिन्दी", "में", "किताबें"]
    assert words("क्\u200dष ක්\u200dෂ") == ["क्ष", "ක්ෂ"]
    assert words("தமிழ் நூல்") == ["தமிழ்", "நூல்"]
    assert all(not unicodedata.combining(word[0]) for word in words(THAI[0][0]))


def test_dense_scripts_give_pairs_of_letters_and_others_words() -> None:
    analysis = Analysis(("zh",))
    assert analysis.passage("用EarPods清洗水泵。好") == ["用", "earpod", "清洗", "洗水", "水泵", "好"]
    assert word_set("水泵 pump") == {"水泵", "pump"}
    assert words("水泵 Pump 3") == ["水", "泵", "pump", "3"]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("how to clean the pump", 5, 5),
        ("怎样清洗水泵", 3, 3),
        ("水泵", 1, 1),
        ("フィルターを掃除する方法", 3, 6),
        ("세탁기 필터 청소 방법", 4, 4),
        ("세탁기필터청소방법", 2, 4),
        ("วิธีทำความสะอาดตัวกรอง", 4, 8),
        ("हिन्दी में किताबें", 3, 3),
        ("用 EarPods Pro 配对", 3.5, 4),
        ("", 0, 0),
        ("—…!", 0, 0),
    ],
)
def test_words_are_counted_by_script(text: str, low: float, high: float) -> None:
    assert low <= count(text) <= high


def test_the_first_words_of_a_text() -> None:
    assert first_words("one  two\nthree four", 3) == "one two three"
    assert first_words("水泵的过滤网每三个月清洗一次", 3) == "水泵的过滤网"
    assert first_words("水泵 pump 过滤网", 2) == "水泵 pump"
    assert first_words("short", 5) == "short"


@given(st.text(max_size=60), st.integers(0, 12))
def test_the_first_words_are_a_beginning_of_the_text_and_not_too_many(text: str, most: int) -> None:
    beginning = first_words(text, most)
    assert " ".join(text.split()).startswith(beginning)
    assert count(beginning) <= most + 1 or len(beginning.split()) <= most


@given(st.text(max_size=80))
def test_any_text_has_words_terms_and_a_language(text: str) -> None:
    found = words(text)
    assert all(found) and size(found) <= len(found)
    assert word_set(text) == word_set(normalised(text))
    for analysis in (Analysis(()), Analysis(("en",)), Analysis(("de", "en", "zh")), Analysis(("tr", "ru", "uk"))):
        assert all(analysis.passage(text)) and all(analysis.query(text))
    assert languages.detect(text) in {"", *languages.probabilities(text)}


@given(st.text(st.characters(categories=["L", "M", "Nd", "Zs"]), max_size=60))
def test_words_do_not_depend_on_the_normal_form(text: str) -> None:
    decomposed = unicodedata.normalize("NFD", text)
    assert words(decomposed) == words(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("name", "code"),
    [("German", "de"), ("Deutsch", "de"), ("zh-CN", "zh"), ("中文", "zh"), ("pt_BR", "pt"), ("Klingon", ""), ("", "")],
)
def test_names_of_languages(name: str, code: str) -> None:
    assert languages.code_of(name) == code


def test_short_or_wordless_texts_are_in_no_certain_language() -> None:
    assert languages.detect("motor filter") == languages.detect("12 34 56") == languages.detect("") == ""
    assert languages.detect("\ud800 lone") == ""
    assert languages.detect(GERMAN[0][0]) == "de"


@pytest.mark.parametrize(("query", "number"), [("泵", 0), ("肝", 1), ("물", 2), ("ไฟ", 3), ("「泵」？", 0)])
def test_a_single_letter_finds_the_passages_that_hold_it(query: str, number: int) -> None:
    index = Bm25(
        [
            "请清洗水泵的过滤网。",
            "他得了急性肝炎，需要休息。",
            "차가운물을 마십니다.",
            "ปิดไฟก่อนนอน",
            "The pump is clean.",
        ]
    )
    assert index.scores(query).argmax() == number and (index.scores(query) > 0).sum() == 1
    assert 0.3 < index.coverage(query)[number] <= 1
    assert not index.scores("鹅").any() and not index.coverage("鹅").any()


def test_a_single_letter_beside_other_terms_does_not_count_for_more() -> None:
    index = Bm25(["请清洗水泵的过滤网。", "请打开 Windows 设置。"])
    assert index.scores("请 windows")[0] == 0 < index.scores("请 windows")[1]
