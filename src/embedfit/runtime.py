"""What the outside world is to a stage: its progress display, ledger, language model and consent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from embedfit.progress import Reporter, Silent


def _refuse(question: str) -> bool:
    return False


def default_ledger() -> Path:
    """The ledger of language-model calls: one SQLite file per user."""
    return Path(platformdirs.user_data_dir("embedfit")) / "ledger.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Arguments of every stage that are not settings: they change how a stage runs, not its result.

    confirm: asks the user a yes/no question; the default refuses, so nothing is spent by accident.
    """

    report: Reporter = field(default_factory=Silent)
    ledger: Path = field(default_factory=default_ledger)
    confirm: Callable[[str], bool] = _refuse
    processes: int = 1
