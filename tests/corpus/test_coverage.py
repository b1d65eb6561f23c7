"""Whether people hear that a model does not know their documents' language."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from embedfit.corpus.coverage import unknown_language
from tests.retrieval import passages


def trained_on(rows: list[tuple[str, str]]) -> Tokenizer:
    """A WordPiece tokenizer whose vocabulary holds these texts' words, and their letters alone."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator([text for text, _ in rows], trainer)
    return tokenizer


def bytes_of(rows: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text for text, _ in rows], trainer)
    return tokenizer


@pytest.mark.parametrize("name", ["CHINESE", "JAPANESE", "KOREAN", "THAI", "RUSSIAN", "ARABIC", "HINDI", "GREEK"])
def test_an_english_model_does_not_know_other_scripts(name: str) -> None:
    texts = [text for text, _ in getattr(passages, name)] * 5
    for tokenizer in (trained_on(passages.ENGLISH), bytes_of(passages.ENGLISH)):
        note = unknown_language(texts, tokenizer, "minilm")
        assert note.startswith("Note: minilm does not know") and name.capitalize() in note and "bge-m3" in note


@pytest.mark.parametrize("name", ["ENGLISH", "GERMAN", "RUSSIAN", "HINDI", "KOREAN"])
def test_a_model_of_the_language_knows_it(name: str) -> None:
    rows = getattr(passages, name)
    assert unknown_language([text for text, _ in rows] * 5, trained_on(rows), "own") == ""


def test_too_little_text_says_nothing() -> None:
    english = trained_on(passages.ENGLISH)
    assert unknown_language([], english, "m") == unknown_language(["水泵"], english, "m") == ""
    assert unknown_language(["12 34 56"] * 500, english, "m") == ""


def test_a_few_foreign_words_among_english_ones_are_no_reason() -> None:
    texts = [text for text, _ in passages.ENGLISH] * 20 + [passages.CHINESE[0][0]]
    assert unknown_language(texts, trained_on(passages.ENGLISH), "m") == ""


def test_signs_between_the_words_say_nothing_about_the_language() -> None:
    """English manuals of programming are half signs, each of them a token."""
    words = [text.replace(" ", ' ("[*=') + " **" for text, _ in passages.ENGLISH] * 5
    assert unknown_language(words, trained_on(passages.ENGLISH), "m") == ""
    foreign = [f"(({text[:40]}))" for text, _ in passages.CHINESE] * 5
    assert unknown_language(foreign, trained_on(passages.ENGLISH), "m") != ""
