"""The constants of an index, computed from questions that people asked or else from sentences of its passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from embedfit.index.retriever import DENSE_PARTS
from embedfit.index.scoring import Asked, Parts, Rows, Scores
from embedfit.numerics.arrays import Floats

#: The most queries that are scored: questions of a log, or sentences of as many passages in their place.
SAMPLE = 200
#: With fewer questions of people, the passages' sentences are the better sample.
ENOUGH_ASKED = 30
#: Characters of such a sentence at most.
_LONGEST = 300
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_SHORTEST = 20
#: Scores that are held at a time: those of a large index are computed for a few queries at a time.
_BLOCK = 1 << 26


def stand_ins(contents: Sequence[str], *, seed: int = 0) -> tuple[list[str], npt.NDArray[np.int64]]:
    """One sentence each from at most SAMPLE passages, drawn by seed, and the passages' numbers: (S,), (S,)."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(contents))[:SAMPLE]
    texts = []
    for number in chosen:
        sentences = sentences_of(contents[number])
        texts.append(sentences[rng.integers(len(sentences))])
    return texts, chosen.astype(np.int64)


def sentences_of(content: str) -> list[str]:
    """The sentences of a passage that are long enough to say something, cut to _LONGEST; all of it if none is."""
    found = [part.strip() for part in _SENTENCE_ENDS.split(content) if len(part.strip()) >= _SHORTEST]
    return [text[:_LONGEST] for text in found or [content]]


def deviations(
    parts: Parts,
    contents: Sequence[str],
    embed: Callable[[Sequence[str]], Floats],
    *,
    asked: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, float]:
    """The mean deviation, over queries, of a query's cosines with the passages, for each dense part.

    asked: questions that people asked, in random order; the first SAMPLE are used. If there are fewer than
    ENOUGH_ASKED, sentences of the passages are used instead, each without the score of its own passage. embed: turns
    texts into query vectors.
    """
    texts, own = (list(asked[:SAMPLE]), None) if len(asked) >= ENOUGH_ASKED else stand_ins(contents, seed=seed)
    vectors = embed(texts)
    there = {name: part for name in DENSE_PARTS if (part := getattr(parts, name)) is not None}
    spreads: dict[str, list[float]] = {name: [] for name in there}
    most = max([1, parts.size, *(len(part.vectors) for part in there.values() if isinstance(part, Rows))])
    block = max(1, _BLOCK // most)
    for start in range(0, len(texts), block):
        some = slice(start, start + block)
        scores = Scores(parts, Asked(texts=texts[some], vectors=vectors[some]))
        for name, spread in spreads.items():
            for row, of_query in enumerate(scores.raw(name)):
                raw = of_query.astype(np.float64)  # one query at a time, because it takes twice the memory
                if own is not None:
                    raw[own[start + row]] = np.nan
                spread.append(float(np.nanstd(raw)) if parts.size > 1 else 0.0)
    means = {name: float(np.mean(spread)) for name, spread in spreads.items()}
    return {name: mean if mean > 1e-6 else 1.0 for name, mean in means.items()}
