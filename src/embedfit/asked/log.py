"""Reads files of questions: the different questions, how often each was asked, and why other lines were skipped.

A file may have millions of lines, so it is read once, in bounded memory. If it has more than `most` different
questions, a sample is kept, drawn by how often each was asked: every line draws a number, a question gets the smallest
number of its lines, and the questions with the smallest numbers are kept (Cohen and Kaplan, "Summarizing data using
bottom-k sketches", PODC 2007).
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from embedfit.asked import personal
from embedfit.asked.reading import Row, rows_of
from embedfit.errors import InputError
from embedfit.progress import Reporter
from embedfit.retrieval.words import words_or_pairs

#: The most different questions that are kept.
MOST = 50_000
#: Characters and words of a question that are kept: no model reads further.
MAX_CHARACTERS, MAX_WORDS = 2_000, 256
_DRAWN = 8_192
#: Makes, beside the seed, the random stream that chooses which questions are kept.
_SAMPLE_STREAM = 7
_MEGABYTE = 1 << 20


@dataclass(slots=True)
class Question:
    """A question that people asked. times: how often. positives: the answers that the file names, each once."""

    text: str
    times: int = 1
    positives: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The contents of files of questions.

    questions: by key, in a random order whose first N questions are, for any N, a sample by how often they were asked.
    lines: the number of lines with a question. skipped: reason → (number of lines, place of the first). cut: the number
    of questions that were shortened. is_sample: whether there were more different questions than are kept. personal:
    kind → number of lines. forgotten: the number of lines left out because of `embedfit forget`.
    """

    questions: dict[str, Question]
    lines: int
    skipped: dict[str, tuple[int, str]]
    cut: int
    is_sample: bool
    personal: Counter[str]
    forgotten: int = 0

    def sentences(self) -> Iterator[str]:
        """Log lines about the files. They quote no question."""
        repeated = self.lines - len(self.questions)
        if self.is_sample:
            yield (
                f"queries: {self.lines:,} questions; more than {len(self.questions):,} are different, and a sample of "
                "that size is kept, drawn by how often they were asked"
            )
        else:
            share = f", {repeated / self.lines:.0%} repeat another one" if repeated else ""
            yield f"queries: {self.lines:,} questions, {len(self.questions):,} different{share}"
        most = max(self.questions.values(), key=lambda one: one.times, default=None)
        if most is not None and most.times >= max(10, 0.1 * self.lines):
            yield f"queries: one question was asked {most.times:,} times; it trains or judges once"
        for reason, (count, first) in self.skipped.items():
            yield f"queries: {count:,} {'line' if count == 1 else 'lines'} skipped: {reason} (the first: {first})"
        if self.cut:
            yield f"queries: {self.cut:,} were cut after {MAX_WORDS} words or {MAX_CHARACTERS:,} characters"
        if self.forgotten:
            yield f"queries: {self.forgotten:,} lines left out, as `embedfit forget` asked"
        if sentence := personal.said(self.personal):
            yield sentence


def read_log(
    paths: Sequence[str | Path],
    report: Reporter,
    *,
    seed: int,
    most: int = MOST,
    leave_out: Collection[str] = frozenset(),
) -> Log:
    """Read files of questions. leave_out: keys (see key_of) of questions that were forgotten.

    Raises InputError if a file is missing or is no text, or if no file holds a question.
    """
    reader = _Reader(most=most, leave_out=leave_out, rng=np.random.default_rng([seed, _SAMPLE_STREAM]))
    for path in map(Path, paths):
        size = path.stat().st_size / _MEGABYTE if path.exists() else 0
        with report.task(f"Reading {path.name}", size, "MB") as task:
            waiting = 0
            for row in rows_of(path):
                reader.add(row, path)
                waiting += len(row.text) + 1
                if waiting > _MEGABYTE:
                    task.advance(waiting / _MEGABYTE)
                    waiting = 0
    if not reader.lines:
        raise InputError(
            f"There is no question in {', '.join(map(str, paths))}.",
            remedy='One question a line, or JSONL such as {"query": "how do I …"}',
        )
    return reader.log()


def key_of(text: str) -> str:
    """A key that is equal for questions with the same words in any case, punctuation and width; "" without a word."""
    found = words_or_pairs(text)
    return hashlib.blake2b("\0".join(found).encode("utf-8", "replace"), digest_size=16).hexdigest() if found else ""


class _Reader:
    """The sample so far: each question's smallest number, and a heap of them with the largest first."""

    def __init__(self, *, most: int, leave_out: Collection[str], rng: np.random.Generator) -> None:
        self._most, self._leave_out, self._rng = most, leave_out, rng
        self._drawn: list[float] = []
        self._questions: dict[str, Question] = {}
        self._numbers: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._skipped: dict[str, tuple[int, str]] = {}
        self._personal: Counter[str] = Counter()
        self.lines = self._cut = self._forgotten = 0
        self._is_sample = False

    def add(self, row: Row, path: Path) -> None:
        """Take a line in."""
        text, was_cut = cut(row.text)
        key = "" if row.problem else key_of(text)
        if not key:
            reason = row.problem or "no word is in it"
            count, first = self._skipped.get(reason, (0, f"{path}, line {row.number}"))
            self._skipped[reason] = (count + 1, first)
            return
        if key in self._leave_out:
            self._forgotten += 1
            return
        self.lines += 1
        self._cut += was_cut
        self._personal.update(personal.kinds_in(text))
        self._count(key, text, row.positives)

    def _count(self, key: str, text: str, positives: Sequence[str]) -> None:
        number = self._draw()
        known = self._questions.get(key)
        if known is not None:
            known.times += 1
            known.positives.update(dict.fromkeys(positives))
            if number < self._numbers[key]:
                self._numbers[key] = number
                heapq.heappush(self._heap, (-number, key))
            return
        if len(self._questions) >= self._most:
            self._is_sample = True
            largest = self._largest()
            if number >= -largest[0]:
                return
            heapq.heappop(self._heap)
            del self._questions[largest[1]], self._numbers[largest[1]]
        self._questions[key] = Question(text, 1, dict.fromkeys(positives))
        self._numbers[key] = number
        heapq.heappush(self._heap, (-number, key))

    def _largest(self) -> tuple[float, str]:
        """(largest number, its question). It drops the heap's entries for which a question has a smaller number now."""
        while self._numbers.get(self._heap[0][1]) != -self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0]

    def _draw(self) -> float:
        if not self._drawn:
            self._drawn = self._rng.random(_DRAWN).tolist()
        return self._drawn.pop()

    def log(self) -> Log:
        """The log of all lines so far."""
        order = sorted(self._questions, key=lambda key: self._numbers[key])
        return Log(
            questions={key: self._questions[key] for key in order},
            lines=self.lines,
            skipped=self._skipped,
            cut=self._cut,
            is_sample=self._is_sample,
            personal=self._personal,
            forgotten=self._forgotten,
        )


def cut(text: str) -> tuple[str, bool]:
    """(the beginning of a text, whether the rest was cut off)."""
    if len(text) <= MAX_CHARACTERS and text.count(" ") < MAX_WORDS:
        return text, False
    return " ".join(text[:MAX_CHARACTERS].split(" ")[:MAX_WORDS]), True
