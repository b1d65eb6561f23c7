"""A teacher of whole batches: the base model, window by window and token by token, and BM25.

A row says which passage its query was written of. It does not say which other passages of the batch answer it
too, or how clearly the query means its own: written queries are often vague. Three that need no training together
rank far better than the model that is trained, and give each passage of the batch a score: the base model with a
vector for every window of a passage, its tokens' late interaction, and BM25. In-batch distillation teaches these
scores (Lin, Yang and Lin 2021, arXiv 2010.11386, with a teacher that trains along).
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
    """The three scores' parts; some may be 0, their sum is above it."""

    windows: float
    tokens: float
    words: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTeacher:
    """A teacher that scores a batch's passages by windows, tokens and words.

    place: (N,) of each text of the store, its row in queries or its passage. queries: (Q, H) unit vectors;
    words: (Q,) queries as BM25 reads them. windows: (W, H) unit vectors of the P passages' windows; starts: (P,) as
    in models.windows. index and tokens: of the P passages; tokens is None where its weight is 0.
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
    """The teacher of a store's texts. name: of the base model.

    Vectors of texts and windows are stored, for the evaluation, which asks for the same ones, and for other processes
    of this training; those of tokens are many and soon computed.
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
