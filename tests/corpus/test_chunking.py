"""Passages: whole words, whole text, within the window."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from embedfit.corpus.blocks import Block
from embedfit.corpus.chunking import Window, chunk, cut, document_text, fit_title, pack, sentences

Words = Callable[[int], Window]

_TOKENIZER = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
_TOKENIZER.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

_WORD = st.text("abcdefgXYZ.,!?'’-é0189", min_size=1, max_size=12)
_SPACE = st.sampled_from([" ", " ", " ", "  ", "\n", "\n\n", " \n "])
_TEXT = st.lists(st.tuples(_WORD, _SPACE), max_size=120).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)


def text_block(text: str, **more: int) -> Block:
    return Block(kind="text", text=text, **more)


def heading(text: str, level: int) -> Block:
    return Block(kind="heading", text=text, level=level)


@given(text=_TEXT, budget=st.integers(1, 20))
def test_pieces_hold_whole_words_cover_the_text_and_fit(text: str, budget: int) -> None:
    window = Window(_TOKENIZER, budget)
    pieces = cut(text, window, budget)
    assert [word for start, end in pieces for word in text[start:end].split()] == text.split()
    assert all(window.tokens(text[start:end]) <= budget for start, end in pieces)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(pieces))
    for start, end in pieces:
        assert text[start:end] == text[start:end].strip()


@given(text=st.text("的了。！ab 電視\n", max_size=200), budget=st.integers(2, 12))
def test_text_without_spaces_is_cut_between_characters(text: str, budget: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # a character a token
    window = Window(tokenizer, budget)
    pieces = cut(text, window, budget)
    assert "".join("".join(text[start:end].split()) for start, end in pieces) == "".join(text.split())
    assert all(len(text[start:end]) <= budget for start, end in pieces)


@settings(max_examples=50)
@given(
    blocks=st.lists(
        st.one_of(
            st.builds(heading, st.text("abc XY", min_size=3, max_size=30).filter(str.strip), st.integers(1, 3)),
            _TEXT.filter(str.strip).map(lambda text: text_block(text.strip())),
        ),
        max_size=12,
    ),
    size=st.integers(8, 60),
)
def test_every_paragraph_lands_in_one_passage_after_another(blocks: list[Block], size: int) -> None:
    window = Window(_TOKENIZER, size)
    chunks = chunk(blocks, window)
    whole, _ = document_text(blocks)
    for one in chunks:
        assert whole[one.start : one.end] == one.text
        assert window.tokens(f"{one.title} {one.text}") <= size
    assert all(first.end <= second.start for first, second in itertools.pairwise(chunks))
    # Joined by what stands between them, nothing but headings is missing.
    found = " ".join(one.text for one in chunks).split()
    text_words = [word for block in blocks if block.kind == "text" for word in block.text.split()]
    remaining = iter(found)
    assert all(word in remaining for word in text_words), "the words of all paragraphs, in order"


def test_ends_are_even_and_at_sentences(words: Words) -> None:
    text = " ".join(f"Sentence number {number} has seven words here." for number in range(10))
    pieces = cut(text, words(30), 30)
    assert [len(text[start:end].split()) for start, end in pieces] == [21, 28, 21] or all(
        text[start:end].endswith("here.") and 14 <= len(text[start:end].split()) <= 28 for start, end in pieces
    )
    assert len(pieces) == 3


def test_abbreviations_and_numbers_do_not_end_sentences() -> None:
    text = "Mr. Smith of Lyft, Inc. Said so. See No. 5 at 1:00 p.m. Local time. It cost 3.5 million. Really!"
    assert [text[start:end].strip() for start, end, _ in sentences(text)] == [
        "Mr. Smith of Lyft, Inc. Said so.",
        "See No. 5 at 1:00 p.m. Local time.",
        "It cost 3.5 million.",
        "Really!",
    ]


def test_chinese_sentences_end_without_a_space() -> None:
    assert [end for _, end, _ in sentences("一句。两句！三")] == [3, 6, 7]


def test_title_is_the_heading_path(words: Words) -> None:
    blocks = [
        heading("Item 7", 1),
        heading("Liquidity", 2),
        text_block("Cash " * 30),
        heading("Item 8", 1),
        text_block("Notes " * 30),
    ]
    assert [one.title for one in chunk(blocks, words(40))] == ["Item 7 > Liquidity", "Item 8"]


def test_small_sections_are_put_together_and_keep_their_headings(words: Words) -> None:
    blocks = [
        heading("Guide", 1),
        heading("Mute", 2),
        text_block("Press the mute button."),
        heading("Loud", 2),
        text_block("Press the volume button."),
    ]
    (one,) = chunk(blocks, words(60))
    assert one.title == "Guide"
    assert one.text.split("\n\n") == ["Mute", "Press the mute button.", "Loud", "Press the volume button."]


def test_a_long_heading_is_cut_in_the_title_and_whole_in_the_text(words: Words) -> None:
    long = " ".join(f"word{number}" for number in range(30))
    (one,) = chunk([heading(long, 1), text_block("Short text. " * 20)], words(100))
    assert one.title == " ".join(f"word{number}" for number in range(25))
    assert one.text.startswith(long)


def test_outer_headings_go_first(words: Words) -> None:
    assert fit_title(["one two three", "four five", "six"], words(20)) == "four five > six"


def test_a_document_of_headings_only_is_text(words: Words) -> None:
    (one,) = chunk([heading("Big words on a poster", 1), heading("and more of them", 1)], words(60))
    assert one.text == "Big words on a poster\n\nand more of them"


def test_page_of_a_passage_is_that_of_its_first_character(words: Words) -> None:
    first = "One two three four. "
    block = text_block(first + "Five six seven eight.", page=3)
    block = Block(kind="text", text=block.text, page=3, breaks=((len(first), 4),))
    assert [(one.page, one.text) for one in chunk([block], words(4))] == [
        (3, "One two three four."),
        (4, "Five six seven eight."),
    ]


def test_table_rows_are_not_cut(words: Words) -> None:
    rows = "\n".join(f"Row {number} costs {number} dollars" for number in range(20))
    for one in chunk([Block(kind="table", text=rows)], words(12)):
        assert all(line.startswith("Row") and line.endswith("dollars") for line in one.text.split("\n"))


def test_truncation_in_the_tokenizer_file_does_not_hide_tokens() -> None:
    tokenizer = Tokenizer.from_str(_TOKENIZER.to_str())
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=128)
    assert Window(tokenizer, 10).tokens("a b c d e f g h") == 8
    assert tokenizer.truncation is not None, "the caller's tokenizer is left as it was"


def test_pack_takes_the_better_boundary_over_an_exact_size() -> None:
    # word, word, sentence, word, word, paragraph: cutting at the sentence costs less than being even
    assert pack([4, 4, 4, 4, 4], [0, 0, 3, 0, 3], 12) == [(0, 2), (3, 4)]


def test_pack_leaves_an_oversized_unit_alone() -> None:
    assert pack([2, 50, 2], [1, 1, 1], 10) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("text", ["", "  \n ", "\n\n"])
def test_nothing_gives_nothing(text: str, words: Words) -> None:
    assert cut(text, words(8), 8) == []
    assert chunk([], words(8)) == []
