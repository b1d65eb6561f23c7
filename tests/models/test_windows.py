"""Windows of long passages: nothing is lost, nothing is too long, and the best window decides."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.models.tokenizer import load_tokenizer
from embedfit.models.windows import blended, in_windows, max_pool, spans


@st.composite
def passages_of_words(draw: st.DrawFn) -> tuple[list[int], int, int]:
    room = draw(st.integers(1, 40))
    sizes = draw(st.lists(st.integers(1, room), max_size=120))
    return sizes, room, draw(st.integers(0, room // 2))


@given(passages_of_words())
def test_every_word_is_in_a_window_and_none_is_too_long(case: tuple[list[int], int, int]) -> None:
    sizes, room, overlap = case
    found = spans(sizes, room, overlap)
    assert {word for start, stop in found for word in range(start, stop)} == set(range(len(sizes)))
    assert all(sum(sizes[start:stop]) <= room for start, stop in found)
    assert all(stop > start for start, stop in found) or not sizes
    assert (len(found) == 1) == (sum(sizes) <= room)


@given(passages_of_words())
def test_windows_share_no_more_than_the_overlap_and_are_as_few_as_that_allows(
    case: tuple[list[int], int, int],
) -> None:
    sizes, room, overlap = case
    found = spans(sizes, room, overlap)
    for (start, stop), (following, _) in pairwise(found[:-1]):
        assert sum(sizes[following:stop]) <= overlap
        assert sum(sizes[start : stop + 1]) > room, "a word more would have fitted"
    start, stop = found[-1]
    assert start == 0 or sum(sizes[start - 1 : stop]) > room, "the last window is as long as fits"


def test_windows_of_single_tokens_overlap_as_asked() -> None:
    assert spans([1] * 10, 4, 1) == [(0, 4), (3, 7), (6, 10)]
    assert spans([1] * 11, 4, 1) == [(0, 4), (3, 7), (6, 10), (7, 11)]
    assert spans([], 4, 1) == [(0, 0)]


@given(counts=st.lists(st.integers(1, 5), max_size=20), queries=st.integers(0, 4), seed=st.integers(0, 99))
def test_max_pool_is_the_maximum_of_each_passages_windows(counts: list[int], queries: int, seed: int) -> None:
    scores = np.random.default_rng(seed).standard_normal((queries, sum(counts))).astype(np.float32)
    starts = np.cumsum([0, *counts])[:-1].astype(np.int64)
    pooled = max_pool(scores, starts)
    expected = [
        [max(row[start : start + count]) for start, count in zip(starts, counts, strict=True)]
        for row in scores.tolist()
    ]
    assert pooled.shape == (queries, len(counts))
    assert pooled.tolist() == expected


WORDS = ["mute", "the", "tv", "sound", "query", "what", "is", "how", "unheardof", "x", "?", "é", "🙂", "a" * 150]


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    max_tokens=st.integers(18, 40),  # the longest word fits, so that windows end between words
    seed=st.integers(0, 99),
)
def test_every_token_of_a_passage_is_in_a_window(
    tiny_bert: Path, lengths: list[int], max_tokens: int, seed: int
) -> None:
    tokenizer = load_tokenizer(tiny_bert)
    generator = np.random.default_rng(seed)
    contents = [" ".join(generator.choice(WORDS, length)) for length in lengths]
    windows = in_windows(contents, tokenizer, max_tokens)

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    assert windows.starts[0] == 0
    assert len(windows.owners) == len(windows.texts)
    for number, content in enumerate(contents):
        mine = [text for text, owner in zip(windows.texts, windows.owners, strict=True) if owner == number]
        whole = ids(content)
        if len(whole) <= max_tokens - 2:
            assert mine == [content]
            continue
        assert all(len(ids(text)) <= max_tokens - 2 for text in mine)
        position = 0  # the first token that no window has held yet
        for text in mine:
            held = ids(text)
            starts = [start for start in range(position + 1) if whole[start : start + len(held)] == held]
            assert starts, "a window is a stretch of the passage, and leaves no gap"
            position = max(position, starts[-1] + len(held))
        assert position == len(whole)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_passage_is_one_window(tiny_bert: Path, text: str) -> None:
    windows = in_windows([text, "mute"], load_tokenizer(tiny_bert), 10)
    assert windows.texts == (text, "mute")
    assert windows.starts.tolist() == [0, 1]


def test_blended_scores_are_two_parts_of_the_window_and_one_of_its_passage() -> None:
    generator = np.random.default_rng(3)
    windows, passages, query = (generator.normal(size=(n, 8)).astype(np.float32) for n in (5, 3, 1))
    for rows in (windows, passages, query):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    windows[2] = passages[1]  # the second passage is one window
    found = blended(windows, passages, np.array([0, 2, 3]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[2], passages[1], atol=1e-6)
    for row, owner in enumerate([0, 0, 1, 2, 2]):
        by_hand = 2 * windows[row] + passages[owner]
        expected = float(query[0] @ by_hand) / float(np.linalg.norm(by_hand))
        assert float(query[0] @ found[row]) == pytest.approx(expected, abs=1e-6)
