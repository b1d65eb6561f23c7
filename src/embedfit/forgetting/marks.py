"""Marks of the texts to forget, by which any other text is checked for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from embedfit.asked.log import key_of
from embedfit.retrieval.words import words

#: A text that shares so many successive words with a passage quotes it.
SHINGLE = 12
#: A question of fewer words counts only as a line of its own, because within a sentence it may be anybody's.
_OWN_LINE = 6
#: The signs that prompts, JSON and tables put around a question.
_BREAKS = re.compile(r"^[ \t]*(?:\d+[.):]|[-*•])[ \t]+|[\n\r\t<>\"“”|]|:\s", re.MULTILINE)


class Marks:
    """The words of questions and passages that are to be forgotten.

    A passage is recognised by any SHINGLE successive words that no kept passage has. Words that documents share, such
    as a footer, are no mark of one of them.
    """

    def __init__(self, questions: Collection[str], passages: Sequence[str] = (), kept: Iterable[str] = ()) -> None:
        self.keys = {key for text in questions if (key := key_of(text))}
        self._runs: dict[int, set[int]] = {}
        self._lines: set[tuple[str, ...]] = set()
        for text in questions:
            self._add(words(text), whole=bool(_BREAKS.search(text)))
        for text in passages:
            found = words(text)
            for start in range(max(1, len(found) - SHINGLE + 1)):
                self._add(found[start : start + SHINGLE], whole=False)
        if passages:
            self._keep(kept)

    def _add(self, found: Sequence[str], *, whole: bool) -> None:
        if not found:
            return
        self._lines.add(tuple(found))
        if len(found) >= _OWN_LINE or whole:
            run = tuple(found[:SHINGLE])
            self._runs.setdefault(len(run), set()).add(hash(run))

    def _keep(self, kept: Iterable[str]) -> None:
        for text in kept:
            found = words(text)
            for size, runs in self._runs.items():
                runs.difference_update(_shingles(found, size))
            if len(found) <= SHINGLE:
                self._lines.discard(tuple(found))

    def holds(self, text: str) -> bool:
        """Whether a text holds one of the questions or a part of one of the passages."""
        found = words(text)
        if any(not runs.isdisjoint(_shingles(found, size)) for size, runs in self._runs.items()):
            return True
        return tuple(found) in self._lines or any(
            tuple(words(line)) in self._lines for line in _BREAKS.split(text) if line
        )


def _shingles(found: Sequence[str], size: int) -> Iterator[int]:
    for start in range(len(found) - size + 1):
        yield hash(tuple(found[start : start + size]))
