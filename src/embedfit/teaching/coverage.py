"""How much of people's questions the passages say in the same words, and what a teacher may be trusted with by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from embedfit.path.artefacts import Passage, Query
from embedfit.retrieval.bm25 import Bm25

#: The share of a question that BM25's best passage must cover, on average, for the whole of a map to ship. Below it
#: words mislead, and with them a teacher that counts words (docs/adapt.md has the corpora).
COVERED = 0.33
#: The largest weight of a map otherwise. It harmed on no corpus.
CAREFUL = 0.5
#: The teacher otherwise: parts of one vector, windows and words, near the untuned model.
CAREFUL_TEACHER = (0.4, 0.4, 0.2)


def largest_weight(share: float, careful: float = CAREFUL) -> float:
    """The largest weight at which a map may ship that learned from people's questions.

    share: covered() of them. careful: the weight where words mislead.
    """
    return 1.0 if share >= COVERED else careful


def log_teaches(share: float, label_share: float) -> bool:
    """Whether people's questions train beside written queries. share: covered() of the questions.

    If words mislead and the written queries' own passages count in their targets (label_share above 0), the written
    ones alone teach more (docs/recipe.md).
    """
    return share >= COVERED or not label_share


def covered(contents: Sequence[str], questions: Sequence[str]) -> float:
    """The share of a question that BM25's best passage covers, averaged over the questions; 0 without questions."""
    if not questions:
        return 0.0
    words = Bm25(contents)
    return float(np.mean([words.coverage(text).max() for text in questions]))


def covered_log(passages: Iterable[Passage], queries: Iterable[Query]) -> float | None:
    """The same of the questions of a run that people asked and that train. None if there are none.

    Passages of the evaluation documents aren't read.
    """
    asked = [query.text for query in queries if query.split == "log" and query.kept]
    if not asked:
        return None
    return covered([passage.content for passage in passages if passage.split != "test"], asked)
