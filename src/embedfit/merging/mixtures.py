"""Mixtures of the base and a tuned model, by what was tuned: one model, the tower of queries, or a map on queries."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from embedfit.config import Config
from embedfit.merging.alike import check_alike
from embedfit.merging.task import RetrievalTask
from embedfit.merging.weights import combine
from embedfit.models.encoder import Encoder
from embedfit.models.folder import save_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import save_towers, tower_folder, with_query_map
from embedfit.models.local import LocalModel
from embedfit.models.query_map import QueryMap
from embedfit.numerics.arrays import Scores, Vectors
from embedfit.path.workspace import Workspace
from embedfit.retrieval.own import without_own


class Mixtures(Protocol):
    """The models between the base (α = 0) and the tuned model (α = 1)."""

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """The scores of a task's queries and passages by one mixture: (Q, N)."""

    def save(self, alpha: float, folder: Path) -> None:
        """Write the mixture's model folder. α above 0."""


def mixtures_of(workspace: Workspace, config: Config, base: LocalModel) -> Mixtures:
    """The mixtures of a run. Raises ModelError if finetuned/ did not begin as the base."""
    tuned = workspace.existing("finetuned")
    if read_architecture(tuned).queries is None:
        return WholeModels(base, tuned)
    if config.train.tuned == "map":
        return Maps(base, QueryMap.load(workspace.existing("query_map.safetensors")))
    return QueryTowers(base, tower_folder(tuned, is_query=True))


class WholeModels:
    """Mixtures of all weights, which encode queries and passages."""

    def __init__(self, base: LocalModel, tuned: Path) -> None:
        check_alike(base.folder, tuned)
        self._base = Encoder.load(base.folder, layout=base.layout)
        self._tuned = Encoder.load(tuned, precision=self._base.precision)
        self._weights = [read_weights(self._base), read_weights(self._tuned)]

    def mixed(self, alpha: float) -> Encoder:
        """The encoder of a mixture, until the next call. The base alone keeps its own query instruction."""
        mixed = self._base if alpha == 0 else self._tuned
        mixed.backbone.load_state_dict(combine(self._weights, [1 - alpha, alpha]), strict=False)
        return mixed

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """See Mixtures."""
        return task.scores(self.mixed(alpha))

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        tensors = combine(self._weights, [1 - alpha, alpha])
        save_model(folder, tensors, base=self._base.folder, layout=self._tuned.layout)


@dataclass
class _Passages:
    """The base's vectors of each task's passages, which no mixture changes."""

    base: Encoder
    known: dict[int, Vectors] = field(default_factory=dict)

    def scores(self, queries: Vectors, task: RetrievalTask) -> Scores:
        if id(task) not in self.known:
            self.known[id(task)] = self.base.encode_unit(task.passages)
        return without_own(queries @ self.known[id(task)].T, task.own)


class QueryTowers(WholeModels):
    """Mixtures of the weights that encode queries. Passages keep the base's vectors."""

    def __init__(self, base: LocalModel, tuned: Path) -> None:
        super().__init__(base, tuned)
        self._document = base
        self._passages = _Passages(Encoder.load(base.folder, layout=base.layout))

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """See Mixtures."""
        return self._passages.scores(self.mixed(alpha).encode_unit(task.queries, is_query=True), task)

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        with tempfile.TemporaryDirectory() as scratch:
            query = Path(scratch) / "query"
            super().save(alpha, query)
            save_towers(folder, query=query, document=self._document.folder, layout=self._document.layout)


class Maps:
    """Blends of a map on query vectors with the identity. Nothing is encoded anew for a blend."""

    def __init__(self, base: LocalModel, learned: QueryMap) -> None:
        self._document, self._map = base, learned
        self._encoder = Encoder.load(base.folder, layout=base.layout)
        self._passages = _Passages(self._encoder)
        self._queries: dict[int, Vectors] = {}

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """See Mixtures."""
        if id(task) not in self._queries:
            self._queries[id(task)] = self._encoder.encode_unit(task.queries, is_query=True)
        return self._passages.scores(self._map.blended(alpha)(self._queries[id(task)]), task)

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        with tempfile.TemporaryDirectory() as scratch:
            query = Path(scratch) / "query"
            matrix = np.asarray(self._map.blended(alpha).matrix)
            with_query_map(self._document.folder, matrix, query, layout=self._document.layout)
            save_towers(folder, query=query, document=self._document.folder, layout=self._document.layout)


def read_weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    """The weights of a model folder under the names of the bare transformer, fp32."""
    own = encoder.backbone.state_dict()
    # A copy, because mixtures are loaded into the backbone.
    return {name: tensor.detach().cpu().clone() for name, tensor in own.items() if tensor.is_floating_point()}
