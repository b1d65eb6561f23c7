"""Marks the words of a passage that a query asks for."""

from __future__ import annotations

import re
from functools import lru_cache

from embedfit.retrieval.words import DENSE, Analysis

Span = tuple[int, int]

_WORD = re.compile(r"\w+")


class Highlighter:
    """Finds the words of queries in passages. It remembers each word's terms, because most words come again."""

    def __init__(self, analysis: Analysis) -> None:
        self._query = lru_cache(64)(lambda query: frozenset(analysis.query(query)))
        self._word = lru_cache(100_000)(lambda word: None if DENSE.search(word) else frozenset(analysis.passage(word)))

    def spans(self, query: str, text: str) -> list[Span]:
        """Half-open ranges of the characters of `text` whose words are among the query's, in order, none overlapping.

        Two words are the same if their stems are. In scripts without spaces, pairs of letters are compared.
        """
        wanted = self._query(query)
        found: list[Span] = []
        for match in _WORD.finditer(text):
            terms = self._word(match[0])
            if terms is None:
                found += _pairs(match, wanted)
            elif not wanted.isdisjoint(terms):
                found.append(match.span())
        return found


def _pairs(match: re.Match[str], wanted: frozenset[str]) -> list[Span]:
    """Ranges of a run of letters that the wanted pairs cover."""
    run, start = match[0], match.start()
    covered = [False] * len(run)
    for term in wanted:
        at = run.find(term)
        while at >= 0:
            covered[at : at + len(term)] = [True] * len(term)
            at = run.find(term, at + 1)
    found: list[Span] = []
    for place, inside in enumerate(covered):
        if not inside:
            continue
        if found and found[-1][1] == start + place:
            found[-1] = found[-1][0], start + place + 1
        else:
            found.append((start + place, start + place + 1))
    return found


def snippet(text: str, marked: list[Span], most: int) -> tuple[str, list[Span]]:
    """At most `most` characters of a text around its first marked word, and the ranges in them."""
    first = marked[0][0] if marked else 0
    start = max(0, min(first - most // 3, len(text) - most)) if first > most // 2 else 0
    before = "…" if start else ""
    after = "…" if start + most < len(text) else ""
    shift = len(before) - start
    inside = [(a + shift, b + shift) for a, b in marked if start <= a and b <= start + most]
    return f"{before}{text[start : start + most]}{after}", inside
