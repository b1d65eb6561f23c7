"""A query with the passage that it was written for, as the filters see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A query and the passage that it was written for."""

    text: str
    style: str
    passage: str
    title: str = ""


#: A rule gives the reason to drop a candidate, empty if it has none.
Rule = Callable[[Candidate], str]


def longest_shared_run(query: list[str], passage: list[str]) -> list[str]:
    """The longest run of words that both have."""
    best = end = 0
    previous = [0] * (len(passage) + 1)
    for place, word in enumerate(query, 1):
        current = [0] * (len(passage) + 1)
        for position, other in enumerate(passage, 1):
            if word == other:
                current[position] = previous[position - 1] + 1
                if current[position] > best:
                    best, end = current[position], place
        previous = current
    return query[end - best : end]
