"""A teacher of whole batches: BM25 and the base model, window by window, together.

A row says which passage its query was written of. It does not say which other passages of the batch answer it
too, or how clearly the query means its own: written queries are often vague. BM25 and the base model, which sees
a passage window by window here, together rank far better than the model that is trained, and give each passage
of the batch a score. In-batch distillation teaches these (Lin, Yang and Lin 2021, arXiv 2010.11386, with a
teacher that trains along).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedfit.config import WINDOW_TOKENS
from embedfit.models.local import local_model, stored_windows
from embedfit.models.vectors import vector_cache
from embedfit.models.windows import max_pool
from embedfit.progress import Reporter
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.fusion import weighted_sum
from embedfit.training.store import Text

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTeacher:
    """What scores a batch's passages.

    place: (N,) of each text of the store, its row in queries or its passage. queries: (Q, H) unit vectors;
    words: (Q,) queries as BM25 reads them. windows: (W, H) unit vectors of the P passages' windows; starts: (P,) as
    in models.windows. index: of the P passages. dense_weight: the base model's part in a score; BM25 has the rest.
    """

    place: Ints
    queries: Floats
    words: Sequence[str]
    windows: Floats
    starts: Ints
    index: Bm25
    dense_weight: float

    def scores(self, queries: Ints, passages: Ints) -> Floats:
        """Weighted sums of the base model's and BM25's scores, in deviations from their means over all P passages.

        queries: (B,), passages: (G,): numbers into the store. Returns (B, G).
        """
        rows = self.place[queries]
        dense = max_pool(self.queries[rows] @ self.windows.T, self.starts)
        lexical = np.stack([self.index.scores(self.words[row]) for row in rows])
        return weighted_sum(dense, lexical, weight=self.dense_weight)[:, self.place[passages]]


def fused_teacher(texts: Sequence[Text], name: str, dense_weight: float, report: Reporter) -> FusedTeacher:
    """The teacher of a store's texts. name: of the base model. dense_weight: as in FusedTeacher.

    Vectors are stored, for the evaluation, which asks for the same ones, and for other processes of this training.
    """
    place = np.zeros(len(texts), np.int64)
    passages = [number for number, text in enumerate(texts) if text.prompt is None]
    place[passages] = np.arange(len(passages))
    contents = [texts[number].content for number in passages]
    cache, base = vector_cache(), local_model("base", name)
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
        dense_weight=dense_weight,
    )
