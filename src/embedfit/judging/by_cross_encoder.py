"""A cross-encoder as judge."""

from __future__ import annotations

from collections.abc import Sequence

from embedfit.judging.judge import Pair, PairScore
from embedfit.models.cross_encoder import CrossEncoder
from embedfit.progress import Reporter


class CrossEncoderJudge:
    """Probabilities of a reranker, on this machine."""

    def __init__(self, model: CrossEncoder, report: Reporter) -> None:
        self._model = model
        self._report = report

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._model.folder.name

    def judge(self, pairs: Sequence[Pair]) -> list[PairScore]:
        """A score for each pair, in order."""
        scores = self._model.scores([(pair.query, pair.passage) for pair in pairs], report=self._report)
        return [PairScore(score=float(score)) for score in scores]
