"""A teacher of whole batches: the base model, window by window and token by token, and BM25.

A row names the passage that its query was written for. It does not say which other passages of the batch answer it too,
or how clearly the query means its own: written queries are often vague. Three rankers that need no training, taken
together, rank far better than the model in training, and score each passage of the batch: the base model with a vector
for every window of a passage, its tokens' late interaction, and BM25. In-batch distillation teaches these scores (Lin,
Yang and Lin 2021, arXiv 2010.11386, with a teacher that trains along).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.config import WINDOW_TOKENS
from embedfit.models.encoder import load_base
from embedfit.models.local import local_model, stored_windows
from embedfit.models.windows import max_pool
from embedfit.numerics.arrays import Floats, Ints
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import standardised
from embedfit.runtime import Runtime
from embedfit.training.store import Text
from embedfit.training.teachers.late_interaction import LateInteraction


@dataclass(frozen=True, slots=True)
class TeacherWeights:
    """The weights of the three scores; some may be 0, but their sum is above 0."""

    windows: float
    tokens: float
    words: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTeacher:
    """A teacher that scores a batch's passages by windows, tokens and words.

    place: (N,), for each text of the store its row in `queries` or the number of its passage. queries: (Q, H) unit
    vectors; words: (Q,) queries as BM25 reads them. windows: (W, H) unit vectors of the P passages' windows; starts:
    (P,) as in models.windows. index and tokens: of the P passages; tokens is None if its weight is 0.
    """

    place: Ints
    queries: Floats
    words: Sequence[str]
    windows: Floats
    starts: Ints
    index: Bm25
    tokens: LateInteraction | None
    weights: TeacherWeights

    def scores(self, queries: Ints, passages: Ints) -> Floats:
        """Weighted means of the three scores, each in deviations from its mean over the P passages.

        Late interaction's mean is over a sample of them. queries: (B,), passages: (G,): numbers into the store.
        Returns (B, G).
        """
        rows, columns = self.place[queries], self.place[passages]
        windows = standardised(max_pool(self.queries[rows] @ self.windows.T, self.starts))[:, columns]
        words = standardised(np.stack([self.index.scores(self.words[row]) for row in rows]))[:, columns]
        parts = self.weights
        result = parts.windows * windows + parts.words * words
        if self.tokens is not None:
            result += parts.tokens * self.tokens.scores(rows, columns)
        return (result / (parts.windows + parts.tokens + parts.words)).astype(np.float32)


def fused_teacher(texts: Sequence[Text], name: str, weights: TeacherWeights, runtime: Runtime) -> FusedTeacher:
    """The teacher for a store's texts. name: the base model's.

    Vectors of texts and windows are stored, because the evaluation and the other processes of this training need the
    same ones. Vectors of tokens are many and quickly computed, so they are not stored.
    """
    place = np.zeros(len(texts), np.int64)
    passages = [number for number, text in enumerate(texts) if text.prompt is None]
    place[passages] = np.arange(len(passages))
    contents = [texts[number].content for number in passages]
    cache, report, base = runtime.vectors, runtime.report, local_model("base", name)
    whole = cache.embed(base, contents, is_query=False, report=report)
    windows, starts = stored_windows(base, contents, whole, WINDOW_TOKENS, cache, report)
    queries = [number for number, text in enumerate(texts) if text.prompt is not None]
    place[queries] = np.arange(len(queries))
    vectors = np.zeros((len(queries), whole.shape[1]), np.float32)
    for prompt in sorted({texts[number].prompt or "" for number in queries}):
        own = [number for number in queries if texts[number].prompt == prompt]
        asked = local_model("base", name, query_instruction=prompt)
        try:
            vectors[place[own]] = cache.embed(
                asked, [texts[number].content for number in own], is_query=True, report=report
            )
        finally:
            asked.release()
    return FusedTeacher(
        place=place,
        queries=vectors,
        words=[texts[number].content for number in queries],
        windows=windows,
        starts=starts,
        index=Bm25(contents),
        tokens=LateInteraction(load_base(name), [texts[number] for number in queries], contents, report)
        if weights.tokens
        else None,
        weights=weights,
    )
