"""The world outside a stage: its display, the user's files, the language model, workers, the clock and consent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from embedfit.errors import UsageError
from embedfit.llm.protocol import LanguageModel
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Reporter, Silent
from embedfit.scale.executor import Executor
from embedfit.scale.inline import Inline
from embedfit.scale.shards import open_shards
from embedfit.tracking import Tracking


def _refuse(question: str) -> bool:
    return False


def cache_folder() -> Path:
    """The folder of all that can be fetched or computed again: $EMBEDFIT_CACHE or the platform's cache folder."""
    return Path(os.environ.get("EMBEDFIT_CACHE") or platformdirs.user_cache_dir("embedfit"))


def default_ledger() -> Path:
    """The user's ledger of language-model calls, one SQLite file: in $EMBEDFIT_HOME or the platform's data folder."""
    return Path(os.environ.get("EMBEDFIT_HOME") or platformdirs.user_data_dir("embedfit")) / "ledger.sqlite"


def default_vectors() -> VectorStore:
    """The user's stored vectors, shared by all runs: in $EMBEDFIT_HOME or the cache folder.

    $EMBEDFIT_VECTORS_GB is the most that they may take. $EMBEDFIT_SHARDS, a folder or s3://BUCKET/PREFIX, is where
    workers put them, too. Raises UsageError if one of both is wrong.
    """
    most = os.environ.get("EMBEDFIT_VECTORS_GB") or None
    try:
        limit = None if most is None else int(float(most) * (1 << 30))
    except (ValueError, OverflowError):
        raise UsageError(f"EMBEDFIT_VECTORS_GB={most} is no number of GiB.", remedy="EMBEDFIT_VECTORS_GB=20") from None
    place = os.environ.get("EMBEDFIT_SHARDS")
    folder = Path(os.environ.get("EMBEDFIT_HOME") or cache_folder()) / "vectors"
    return VectorStore(folder, limit=limit, shared=open_shards(place) if place else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Arguments of every stage that are not settings: they change how a stage runs, not its result.

    ledger: the file of paid replies. vectors: embeddings that were computed before. language_model: answers every
    prompt instead of the one that the settings name. executor: where documents are read and texts encoded. confirm:
    asks the user a yes/no question; the default refuses, so nothing is spent by accident. processes: how many train
    together. nodes: on which machines (training.processes.launch.Nodes); empty: on this one. clock: seconds since 1970.
    tracking: the experiment tracker that losses and results are sent to.
    """

    report: Reporter = field(default_factory=Silent)
    ledger: Path = field(default_factory=default_ledger)
    vectors: VectorStore = field(default_factory=default_vectors)
    language_model: LanguageModel | None = None
    executor: Executor = field(default_factory=Inline)
    confirm: Callable[[str], bool] = _refuse
    processes: int = 1
    nodes: str = ""
    clock: Callable[[], float] = time.time
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        """Let the executor compute the vectors that are missing."""
        object.__setattr__(self, "vectors", self.vectors.computed_by(self.executor))
