"""Queries made of a passage's own telling words, without a language model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from embedfit.queries.filters import words
from embedfit.records import Passage, Query

STYLE = "terms"

#: Words that lie so near to each other are likely about one thing.
_WINDOW = 30
_FEWEST, _MOST = 2, 5
_SHORTEST_WORD = 3


def term_queries(
    passages: Sequence[Passage], twins: Mapping[str, tuple[str, ...]], count: int, rng: np.random.Generator
) -> list[Query]:
    """`count` queries of some training passages: two to five words that are rare in the corpus.

    twins: the passages to take, by id, each with those that say the same.

    A small writer asks vaguely, and a model trained on that alone loses names and numbers. Words of one
    stretch of the passage are drawn by their squared idf, in their order: what Okapi's weights call telling
    (Robertson and Spärck Jones 1976). All are kept: that their passage answers them is certain.
    """
    frequency = Counter(word for passage in passages for word in set(words(passage.content)))
    weight = {word: math.log(1 + len(passages) / times) ** 2 for word, times in frequency.items()}
    queries = []
    for passage in passages:
        if passage.split != "train" or passage.passage_id not in twins:
            continue
        found: set[str] = set()
        for number in range(count):
            text = _draw(words(passage.text), weight, rng)
            if text and text not in found:
                found.add(text)
                queries.append(
                    Query(
                        query_id=f"{passage.passage_id}-{STYLE}-{number}",
                        passage_id=passage.passage_id,
                        text=text,
                        style=STYLE,
                        split="train",
                        kept=True,
                        also_relevant=twins[passage.passage_id],
                    )
                )
    return queries


def _draw(text: list[str], weight: dict[str, float], rng: np.random.Generator) -> str:
    """The words of one query; empty where the passage has too few."""
    start = int(rng.integers(0, max(1, len(text) - _WINDOW)))
    window = [word for word in dict.fromkeys(text[start : start + _WINDOW]) if len(word) >= _SHORTEST_WORD]
    if len(window) < 2 * _FEWEST:
        return ""
    weights = np.array([weight[word] for word in window])
    size = min(int(rng.integers(_FEWEST, _MOST + 1)), len(window))
    drawn = rng.choice(len(window), size, replace=False, p=weights / weights.sum())
    return " ".join(window[place] for place in sorted(drawn))
