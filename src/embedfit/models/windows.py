"""Several vectors a passage, of overlapping windows of its text; a passage's score is its best window's.

A query asks for one detail, and the mean of a passage's token vectors says little of each of its details.
docs/recipe.md has the loss, and the gain by windows of 64 tokens on five corpora. To search small pieces and return the
texts that they are part of is an old idea (Callan 1994, "Passage-level evidence in document retrieval").
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from tokenizers import Encoding, Tokenizer

from embedfit.files.textfiles import without_surrogates
from embedfit.models.architecture import Architecture
from embedfit.numerics.arrays import Ints, Scores, Vectors
from embedfit.retrieval.words import UNSPACED

#: The share of a window that the next one repeats, so that a sentence which a border cuts is whole in one of the two.
OVERLAP = 0.25
#: Parts of a window's own vector beside one part of its passage's. The best window alone harms where a passage is
#: about one thing (stackfaq: -1.0 points against -0.1 with the passage's part).
_OWN_PARTS = 2
_CHUNK = 1000  # passages tokenised at a time


@dataclass(frozen=True, slots=True)
class Windows:
    """W windows of N passages.

    texts: (W,), passage by passage. starts: (N,), the number of each passage's first window.
    """

    texts: tuple[str, ...]
    starts: Ints

    @property
    def owners(self) -> Ints:
        """The number of the passage that each window is of. (W,)."""
        return _owners(self.starts, len(self.texts))


def _owners(starts: Ints, windows: int) -> Ints:
    return np.repeat(np.arange(len(starts)), np.diff(np.append(starts, windows)))


def max_pool(scores: Scores, starts: Ints) -> Scores:
    """Scores of passages: the highest of their windows'. scores: (Q, W); starts: (N,) as in Windows; returns (Q, N)."""
    if not len(starts):
        return scores[:, :0]
    result: Scores = np.maximum.reduceat(scores, starts, axis=1)
    return result


def blended(windows: Vectors, passages: Vectors, starts: Ints) -> Vectors:
    """Windows' vectors with the subject of the passage around them mixed in: unit rows of 2 × window + 1 × passage.

    windows: (W, H), passages: (N, H): unit rows; starts: (N,) as in Windows; returns (W, H). A passage that is one
    window keeps its vector.
    """
    mixed = _OWN_PARTS * windows + passages[_owners(starts, len(windows))]
    result: Vectors = mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    return result


def spans(sizes: Sequence[int], room: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open ranges of words, each of at most `room` tokens, that hold every word.

    sizes: tokens of each word, 1 to room. Neighbours share at most `overlap` tokens, but the last range
    reaches back as far as fits: a short rest would say little.
    """
    ends = [0, *accumulate(sizes)]
    found: list[tuple[int, int]] = []
    start = stop = 0
    while stop < len(sizes):
        stop = bisect_right(ends, ends[start] + room) - 1
        if stop == len(sizes):
            start = bisect_left(ends, ends[-1] - room)
        found.append((start, stop))
        start = max(start + 1, bisect_left(ends, ends[stop] - overlap))
    return found or [(0, 0)]


def in_windows(contents: Sequence[str], tokenizer: Tokenizer, max_tokens: int) -> Windows:
    """Cut passages, between words, into windows that a model can read.

    contents: title, a space, text, as models read it; one that fits is its only window. tokenizer: without
    truncation. max_tokens: of a window, special tokens included.

    A passage's title stands in its first window alone: before every window it gains half a point on emanual but loses
    two on covid_qa, where papers have long titles; and blended() mixes in the passage's subject anyway.
    """
    room = max_tokens - tokenizer.num_special_tokens_to_add(False)
    windows: list[str] = []
    starts: list[int] = []
    for first in range(0, len(contents), _CHUNK):
        chunk = [without_surrogates(content) for content in contents[first : first + _CHUNK]]
        for content, encoding in zip(chunk, tokenizer.encode_batch(chunk, add_special_tokens=False), strict=True):
            starts.append(len(windows))
            if len(encoding.ids) <= room:
                windows.append(content)
            else:
                windows.extend(_windows(content, encoding, room))
    return Windows(tuple(windows), np.array(starts, np.int64))


def windows_of_model(
    contents: Sequence[str], tokenizer: Tokenizer, layout: Architecture, *, max_tokens: int
) -> Windows:
    """Cut passages into windows of max_tokens, or of as many as fit a model beside its instruction for passages."""
    instruction = len(tokenizer.encode(layout.document_instruction, add_special_tokens=False).ids)
    return in_windows(contents, tokenizer, max(1, min(max_tokens, layout.max_tokens - instruction)))


def _windows(content: str, encoding: Encoding, room: int) -> Iterator[str]:
    words = _words(content, encoding, room)
    for start, stop in spans([size for size, _, _ in words], room, int(OVERLAP * room)):
        yield content[words[start][1] : words[stop - 1][2]]


def _words(content: str, encoding: Encoding, room: int) -> list[tuple[int, int, int]]:
    """(tokens, first character, end) of each word; one of more tokens than `room` is several.

    Some tokenizers take a whole Chinese or Thai sentence for one word: each of its tokens is one here.
    """
    words: list[tuple[int, int, int]] = []
    last: int | None = None
    for word, (start, stop) in zip(encoding.word_ids, encoding.offsets, strict=True):
        inside = word is not None and word == last and not _begins_word(content, start, words[-1][2] if words else 0)
        if words and inside and words[-1][0] < room:
            words[-1] = words[-1][0] + 1, words[-1][1], stop
        else:
            words.append((1, start, stop))
        last = word
    return words


def _begins_word(content: str, start: int, before: int) -> bool:
    """Whether a token that begins at `start` may begin a window: a letter of a script without spaces, not its mark."""
    letter = content[start : start + 1]
    return start >= before and UNSPACED.match(letter) is not None and not unicodedata.category(letter).startswith("M")
