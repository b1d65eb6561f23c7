"""Mixtures of the base and a tuned model, by what was tuned: one model, the tower of queries, or a map on queries."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embedfit.config import Config
from embedfit.merging.alike import check_alike
from embedfit.merging.blends import AdapterScale, Blend, Weights
from embedfit.merging.task import RetrievalTask
from embedfit.models import query_map
from embedfit.models.encoder import Encoder
from embedfit.models.layout.files import ADAPTER
from embedfit.models.layout.golden import write_golden
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import plain_tower, save_mapped, save_towers, tower_folder
from embedfit.models.local import LocalModel
from embedfit.models.query_map import QueryMap
from embedfit.numerics.arrays import Scores, Vectors
from embedfit.path.workspace import Workspace
from embedfit.retrieval.own import without_own
from embedfit.runtime import Runtime


class Mixtures(Protocol):
    """The models between the base (α = 0) and the tuned model (α = 1)."""

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """The scores of a task's queries and passages by one mixture: (Q, N)."""

    def save(self, alpha: float, folder: Path) -> None:
        """Write the mixture's model folder with its golden vectors. α above 0."""


def mixtures_of(workspace: Workspace, config: Config, base: LocalModel, runtime: Runtime) -> Mixtures:
    """The mixtures of a run. Raises ModelError if finetuned/ did not begin as the base."""
    tuned = workspace.existing("finetuned")
    if read_architecture(tuned).queries is None:
        base.release()  # all it encodes is stored by now
        return WholeModels(base, tuned, tuned / ADAPTER)
    frozen = Frozen(base, runtime)
    if config.training.tuned == "map":
        return Maps(frozen, QueryMap.load(workspace.existing(query_map.FILE)))
    return QueryTowers(frozen, tower_folder(tuned, is_query=True), tuned / ADAPTER)


class WholeModels:
    """Mixtures of all weights, which encode queries and passages."""

    def __init__(self, base: LocalModel, tuned: Path, adapter: Path) -> None:
        """adapter: the folder of the adapter that tuned was made with; if it is there, its scale makes the mixtures."""
        check_alike(base.folder, tuned)
        self._blend: Blend = AdapterScale(base, tuned, adapter) if adapter.is_dir() else Weights(base, tuned)

    def mixed(self, alpha: float) -> Encoder:
        """The encoder of a mixture, until the next call. The base alone keeps its own query instruction."""
        return self._blend.mixed(alpha)

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """See Mixtures."""
        return task.scores(self.mixed(alpha))

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        self._blend.write(alpha, folder)
        write_golden(folder)
        self._blend.finish(alpha, folder)


@dataclass(frozen=True)
class Frozen:
    """The base, whose vectors of passages no mixture changes. They come from the store."""

    base: LocalModel
    runtime: Runtime

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """The base's vectors: (N, H)."""
        return self.runtime.vectors.embed(self.base, texts, is_query=is_query, report=self.runtime.report)

    def scores(self, queries: Vectors, task: RetrievalTask) -> Scores:
        """The scores (Q, N) of a task's passages by query vectors (Q, H)."""
        return without_own(queries @ self.embed(task.passages, is_query=False).T, task.own)


class QueryTowers(WholeModels):
    """Mixtures of the weights that encode queries. Passages keep the base's vectors."""

    def __init__(self, frozen: Frozen, tuned: Path, adapter: Path) -> None:
        folder, layout = plain_tower(frozen.base.folder, frozen.base.layout, is_query=True)
        super().__init__(LocalModel("base", folder, layout=layout), tuned, adapter)
        self._frozen = frozen

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """See Mixtures."""
        return self._frozen.scores(self.mixed(alpha).encode_unit(task.queries, is_query=True), task)

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        base = self._frozen.base
        with tempfile.TemporaryDirectory() as scratch:
            query = Path(scratch) / "query"
            self._blend.write(alpha, query)
            passages, layout = plain_tower(base.folder, base.layout, is_query=False)
            save_towers(folder, query=query, document=passages, layout=layout)
        self._blend.finish(alpha, folder)


class Maps:
    """Blends of a map on query vectors with the identity. Nothing is encoded anew for a blend."""

    def __init__(self, frozen: Frozen, learned: QueryMap) -> None:
        self._frozen, self._map = frozen, learned

    def scores(self, alpha: float, task: RetrievalTask) -> Scores:
        """See Mixtures."""
        queries = self._frozen.embed(task.queries, is_query=True)
        return self._frozen.scores(self._map.blended(alpha)(queries), task)

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        base = self._frozen.base
        save_mapped(folder, self._map.blended(alpha).matrix, base=base.folder, layout=base.layout)
