"""The names of systems.

bm25               no embedder at all
EMBEDDER           a name of embedfit.embedders.registry, such as minilm, a model folder, titan-v2 or tei:URL
hybrid:EMBEDDER    its ranking fused with BM25's
"""

from __future__ import annotations

from dataclasses import dataclass

from embedfit.config import Config, refuse_if_offline
from embedfit.embedders import registry
from embedfit.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system's name, taken apart. kind: "bm25", or the kind of its embedder."""

    kind: str
    hybrid: bool = False


def parse(name: str) -> System:
    """Take a system's name apart. Raises UsageError that says what the form is."""
    if name.partition("|")[0] == "bm25":
        return System(kind="bm25")
    dense = name.removeprefix("hybrid:")
    if dense.partition("|")[0] == "bm25" or dense.startswith("hybrid:"):
        raise UsageError(f"{name!r}: a hybrid is of a dense system and BM25.", remedy="For example: hybrid:minilm")
    return System(kind=registry.parse(dense).kind, hybrid=dense != name)


def check_systems(config: Config) -> None:
    """Raise UsageError for a wrong name in evaluate.systems, and for one that may cost money in the preset offline."""
    for name in config.evaluate.systems:
        system = parse(name)
        if system.kind != "bm25" and registry.bills(name.removeprefix("hybrid:")):
            refuse_if_offline(config, f"evaluate.systems={name}")
