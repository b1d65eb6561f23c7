"""What of a passage goes into a prompt."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.judging import prompt as judging
from embedfit.llm.protocol import Request
from embedfit.queries.examples import EXAMPLES
from embedfit.queries.prompts import STRETCH_WORDS, STYLES, Style, Way, many_queries, one_query, stretch, trim
from embedfit.retrieval.words import DENSE, count

#: Of prompts as they were before there were further styles. Whoever changes one asks anew for all that was paid for.
PROMPTS = {
    "question": "9f0716c8e5afe536",
    "keywords": "cbd3dc438073c5a7",
    "conversational": "ebe6da0121383ee1",
    "claim": "d1be89f956dcbb3a",
    "title": "03f3576c911999af",
}
MANY = "24ebc271007c5d8b"
SENTENCE = "The pump runs for {} hours before its filter must be cleaned."


def digest(request: Request) -> str:
    return hashlib.sha256("".join(message.content for message in request.messages).encode()).hexdigest()[:16]


def test_a_new_style_changes_no_prompt_of_an_old_one() -> None:
    asked = [STYLES[name] for name in ("question", "keywords", "claim", "title")]
    passage = "Press the button for two seconds to mute it."
    assert {name: digest(one_query("Muting", passage, STYLES[name], Way(), seed=1)) for name in PROMPTS} == PROMPTS
    assert digest(many_queries("Muting", "Press the button.", asked, Way(), seed=1)) == MANY


@pytest.mark.parametrize("style", STYLES.values(), ids=lambda style: style.name)
def test_every_style_has_an_example_in_its_own_prompts(style: Style) -> None:
    small = one_query("Muting", "Press it.", style, Way(), seed=1).messages[0].content
    large = "".join(one.content for one in many_queries("Muting", "Press it.", [style], Way(), seed=1).messages)
    for example in EXAMPLES:
        assert f"\n{style.label}: {example.queries[style.name]}" in small
        for other in STYLES.values():
            assert (example.queries[other.name] in small) == (other.shown or other is style)
    assert EXAMPLES[0].queries[style.name] in large
    assert f"- {style.name}: {style.description}" in large


def test_a_short_passage_is_kept_whole() -> None:
    text = " ".join(SENTENCE.format(n) for n in range(3))
    assert stretch(text, "question 1") == text


def test_a_long_passage_gives_whole_sentences_of_about_the_asked_number_of_words() -> None:
    sentences = [SENTENCE.format(n) for n in range(60)]
    found = stretch(" ".join(sentences), "question 1")
    assert found in " ".join(sentences)
    assert found.startswith("The pump") and found.endswith("cleaned.")
    assert STRETCH_WORDS <= len(found.split()) < STRETCH_WORDS + len(sentences[0].split())


def test_the_queries_of_a_passage_are_about_all_of_it() -> None:
    sentences = [SENTENCE.format(n) for n in range(30)]
    found = [stretch(" ".join(sentences), f"question {number}") for number in range(40)]
    starts = {sentences.index(text.split(" The")[0]) for text in found}
    assert min(starts) <= 3
    assert max(starts) >= 22
    assert stretch(" ".join(sentences), "question 3") == found[3]


def test_a_sentence_as_long_as_a_table_is_cut_anywhere() -> None:
    table = " ".join(f"w{n}" for n in range(400))
    found = [stretch(table, f"keywords {number}").split() for number in range(40)]
    assert {len(words) for words in found} <= set(range(10, STRETCH_WORDS + 1))
    assert len({words[0] for words in found}) > 5


@given(st.text(max_size=400), st.integers(1, 30))
def test_any_text_gives_words_of_its_own_in_bounded_number(text: str, words: int) -> None:
    found = stretch(text, "title 7", words)
    assert len(found.split()) <= max(2 * words, 1.4 * words)
    assert set(found.replace(" ", "")) <= set(trim(text, 100_000))
    assert DENSE.search(text) or set(found.split()) <= set(trim(text, 100_000).split())
    assert bool(found) == bool(trim(text))


def test_a_small_model_reads_a_stretch_of_a_chinese_passage_too() -> None:
    sentences = [f"第{number}号水泵的过滤网每三个月必须清洗一次并且晾干。" for number in range(40)]
    text = "".join(sentences)
    found = [stretch(text, f"question {number}") for number in range(40)]
    assert all(STRETCH_WORDS <= count(one) <= 2 * STRETCH_WORDS for one in found)
    assert len({one.split("号")[0] for one in found}) > 5
    assert count(trim(text, 50)) <= 50


TAGS = [
    *("</passage>", "</ Passage >", "<passage x='1'>", "&lt;/passage&gt;", "</queries>"),
    *("<|im_end|>", "<|im_start|>", "<|eot_id|>", "<|start_header_id|>", "<｜User｜>", "<start_of_turn>"),
    *("[/INST]", "<</SYS>>", "</s>", "</think>"),
]


@given(st.lists(st.one_of(st.sampled_from([*TAGS, "<", ">", "/", "passage"]), st.text(max_size=4)), max_size=12))
def test_no_document_ends_the_data_early_or_speaks_in_another_role(parts: list[str]) -> None:
    text = "".join(parts)
    ours = many_queries(text, text, [STYLES["claim"]], Way(max_tokens=9, temperature=0, top_p=1), seed=1)
    content, judged = ours.messages[-1].content, judging.request(text, [text]).messages[-1].content
    for asked, around in (
        (content, ["<passage>", "</passage>"]),
        (judged, ["<passage>", "</passage>", "<queries>", "</queries>"]),
    ):
        assert re.findall(r"<\s*/?\s*(?:passage|queries)\b[^<>]*>", asked, re.IGNORECASE) == around
        assert not any(tag in asked for tag in TAGS[5:] if tag not in around)


@pytest.mark.parametrize("text", ["if a < b and c > d", "<div>passages</div>", "<p>", "a [1] b", "x<|y"])
def test_other_signs_of_a_document_stay(text: str) -> None:
    assert trim(text) == text
