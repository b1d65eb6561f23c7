"""What of a passage goes into a prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embedfit.queries.prompts import STRETCH_WORDS, stretch, trim

SENTENCE = "The pump runs for {} hours before its filter must be cleaned."


def test_a_short_passage_is_kept_whole() -> None:
    text = " ".join(SENTENCE.format(n) for n in range(5))
    assert stretch(text) == text


def test_a_long_passage_gives_whole_sentences_of_about_the_asked_number_of_words() -> None:
    sentences = [SENTENCE.format(n) for n in range(60)]
    found = stretch(" ".join(sentences))
    assert found in " ".join(sentences)
    assert found.startswith("The pump") and found.endswith("cleaned.")
    assert STRETCH_WORDS <= len(found.split()) < STRETCH_WORDS + len(sentences[0].split())


def test_stretches_of_many_passages_come_from_everywhere() -> None:
    starts = set()
    for passage in range(40):
        sentences = [f"Passage {passage} says in sentence {n} what nobody else says at all." for n in range(30)]
        first = stretch(" ".join(sentences)).split(" what")[0]
        starts.add(int(first.split()[-1]))
    assert min(starts) <= 4
    assert max(starts) >= 15


@given(st.text(max_size=400), st.integers(1, 30))
def test_any_text_gives_words_of_its_own_in_bounded_number(text: str, words: int) -> None:
    found = stretch(text, words)
    assert len(found.split()) <= max(2 * words, 1.4 * words)
    assert set(found.split()) <= set(trim(text, 100_000).split())
    assert bool(found) == bool(trim(text))
