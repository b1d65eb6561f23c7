"""Mixtures of the base and a tuned model, by what was tuned: one model, the tower of queries, or a map on queries."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embedfit.config import Config
from embedfit.index.tokens import store_tokens
from embedfit.merging.alike import check_alike
from embedfit.merging.blends import AdapterScale, Blend, Weights
from embedfit.models import query_map
from embedfit.models.layout.files import ADAPTER
from embedfit.models.layout.golden import write_golden
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import plain_tower, save_mapped, save_towers, tower_folder
from embedfit.models.local import LocalModel
from embedfit.models.query_map import QueryMap
from embedfit.numerics.arrays import Vectors
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime


class Mixtures(Protocol):
    """The models between the base (α = 0) and the tuned model (α = 1)."""

    def embed(self, alpha: float, passages: Sequence[str], queries: Sequence[str]) -> tuple[Vectors, Vectors]:
        """One mixture's vectors of passages, (N, H), and of queries, (Q, H)."""

    def save(self, alpha: float, folder: Path) -> None:
        """Write the mixture's model folder with its golden vectors. α above 0."""


def mixtures_of(
    workspace: Workspace, config: Config, base: LocalModel, runtime: Runtime, *, tokens_of: float | None = None
) -> Mixtures:
    """The mixtures of a run. Raises ModelError if finetuned/ did not begin as the base.

    tokens_of: the α whose passages get their token vectors stored beside their one vectors, out of one pass of the
    model.
    """
    tuned = workspace.existing("finetuned")
    store = Store(base, runtime, workspace.scratch("merge"))
    if read_architecture(tuned).queries is None:
        return WholeModels(store, tuned, tuned / ADAPTER, tokens_of=tokens_of)
    if config.training.tuned == "map":
        return Maps(store, QueryMap.load(workspace.existing(query_map.FILE)))
    return QueryTowers(store, tower_folder(tuned, is_query=True), tuned / ADAPTER)


@dataclass(frozen=True)
class Store:
    """Where mixtures find vectors and put them. base: the run's. scratch: a folder for models that only encode."""

    base: LocalModel
    runtime: Runtime
    scratch: Path

    def embed(self, model: LocalModel, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Vectors of texts: (N, H). The model gives back its memory."""
        try:
            return self.runtime.vectors.embed(model, texts, is_query=is_query, report=self.runtime.report)
        finally:
            model.release()


class _Blends:
    """Mixtures of weights: of all of them, or of those that encode queries."""

    def __init__(self, store: Store, base: LocalModel, tuned: Path, adapter: Path) -> None:
        """base: the plain model that tuned began as.

        adapter: the folder of the adapter that tuned was made with; if it is there, its scale makes the mixtures.
        """
        check_alike(base.folder, tuned)
        self._store = store
        self._ends = {0.0: base, 1.0: LocalModel("finetuned", tuned)}
        self._mixture, self._alpha = store.scratch / "mixture", 0.0
        self._blend: Blend = AdapterScale(base, tuned, adapter) if adapter.is_dir() else Weights(base, tuned)

    def _model(self, alpha: float) -> LocalModel:
        """The plain model of an α: a mixture lies in the scratch folder until the next one is asked for.

        The base alone keeps its own query instruction.
        """
        if alpha in self._ends:
            return self._ends[alpha]
        if alpha != self._alpha:
            shutil.rmtree(self._mixture, ignore_errors=True)
            self._blend.write(alpha, self._mixture)
            self._alpha = alpha
        return LocalModel("merged", self._mixture)


class WholeModels(_Blends):
    """Mixtures of all weights, which encode queries and passages."""

    def __init__(self, store: Store, tuned: Path, adapter: Path, *, tokens_of: float | None = None) -> None:
        """tokens_of: see mixtures_of(). adapter: see _Blends."""
        super().__init__(store, store.base, tuned, adapter)
        self._tokens_of = tokens_of

    def embed(self, alpha: float, passages: Sequence[str], queries: Sequence[str]) -> tuple[Vectors, Vectors]:
        """See Mixtures. What ships is saved with these weights, so later stages find the vectors in the store."""
        vectors, report = self._store.runtime.vectors, self._store.runtime.report
        model = self._model(alpha)
        if alpha == self._tokens_of:
            store_tokens(passages, model, vectors, report)
        return vectors.embed_both(model, passages, queries, report=report)

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        self._blend.write(alpha, folder)
        write_golden(folder)
        self._blend.finish(alpha, folder)


class QueryTowers(_Blends):
    """Mixtures of the weights that encode queries. Passages keep the base's vectors."""

    def __init__(self, store: Store, tuned: Path, adapter: Path) -> None:
        folder, layout = plain_tower(store.base.folder, store.base.layout, is_query=True)
        super().__init__(store, LocalModel("base", folder, layout=layout), tuned, adapter)

    def embed(self, alpha: float, passages: Sequence[str], queries: Sequence[str]) -> tuple[Vectors, Vectors]:
        """See Mixtures."""
        asked = self._store.embed(self._model(alpha), queries, is_query=True)
        return self._store.embed(self._store.base, passages, is_query=False), asked

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        base = self._store.base
        with tempfile.TemporaryDirectory() as scratch:
            query = Path(scratch) / "query"
            self._blend.write(alpha, query)
            passages, layout = plain_tower(base.folder, base.layout, is_query=False)
            save_towers(folder, query=query, document=passages, layout=layout)
        self._blend.finish(alpha, folder)


class Maps:
    """Blends of a map on query vectors with the identity. Nothing is encoded anew for a blend."""

    def __init__(self, store: Store, learned: QueryMap) -> None:
        self._store, self._map = store, learned

    def embed(self, alpha: float, passages: Sequence[str], queries: Sequence[str]) -> tuple[Vectors, Vectors]:
        """See Mixtures."""
        vectors, base = self._store.runtime.vectors, self._store.base
        found, asked = vectors.embed_both(base, passages, queries, report=self._store.runtime.report)
        return found, self._map.blended(alpha)(asked)

    def save(self, alpha: float, folder: Path) -> None:
        """See Mixtures."""
        base = self._store.base
        save_mapped(folder, self._map.blended(alpha).matrix, base=base.folder, layout=base.layout)
