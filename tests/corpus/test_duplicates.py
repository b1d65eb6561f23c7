"""Near-duplicates."""

from __future__ import annotations

from embedfit.corpus.duplicates import clusters, shingles
from embedfit.numerics.near_duplicates import jaccard

from .conftest import story


def test_jaccard_by_hand() -> None:
    first, second = shingles("a b c d"), shingles("b c d e")  # {abc, bcd} and {bcd, cde}
    assert jaccard(first, second) == 1 / 3
    assert jaccard(first, shingles("A, b; C: d!")) == 1.0, "case and punctuation do not matter"


def test_near_duplicates_are_found_among_others() -> None:
    texts = [story(number) for number in range(60)]
    texts += [texts[7].replace("winter", "summer"), texts[20].upper(), "short", "short"]
    found = clusters(texts)
    assert found[60] == 7 and found[61] == 20 and found[62] == found[63] == 62
    assert found[:60] == list(range(60))


def test_links_are_followed() -> None:
    words = [f"w{number}" for number in range(100)]
    variants = [" ".join(words[: 100 - step] + [f"x{k}" for k in range(step)]) for step in (0, 4, 8, 12)]
    assert jaccard(shingles(variants[0]), shingles(variants[3])) < 0.8
    assert clusters(variants) == [0, 0, 0, 0]


def test_nothing() -> None:
    assert clusters([]) == []
    assert clusters(["", ""]) == [0, 0]
