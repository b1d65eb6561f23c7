"""All systems by name: a table of those that every run measures, and the form of every other name.

bm25               words alone, without any embedder
EMBEDDER           a name of embedfit.embedders.registry, such as minilm, a model folder, titan-v2 or tei:URL
windowed:EMBEDDER  a model on this machine with a vector for every window of a passage (in a benchmark)
hybrid:EMBEDDER    the ranking of either fused with that of BM25
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from embedfit.config import Config, refuse_if_offline
from embedfit.embedders import registry
from embedfit.errors import UsageError
from embedfit.index.retriever import BASE, BM25, DEFAULT, RRF, WINDOWS, Part, Retriever


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSystem:
    """A system that every run measures.

    label: its name for people. model: the model whose vectors it ranks by; "ships" stands for the one that ships,
    "mapped" for the base with the query map; None if it reads words alone. retriever: "default" and "chosen" stand for
    the two that the stage `choose` wrote. against: the systems that it is compared with. leads: whether the report
    begins with it. windows: whether it is left out if every passage is one window. kind: the way a figure draws it.
    """

    name: str
    label: str
    model: Literal["base", "mapped", "finetuned", "merged", "ships"] | None
    retriever: Retriever | Literal["default", "chosen"]
    against: tuple[str, ...] = ()
    leads: bool = False
    windows: bool = False
    kind: Literal["base", "lexical", "hybrid", "other"] = "other"


#: The first stage of the default without windows. Beside it, the row with windows shows the gain by windows.
_HYBRID = Retriever(
    name="hybrid", parts=(Part(name="one", weight=1.0), *(part for part in DEFAULT.parts if part.name == "words"))
)

#: In the order of summary.json and of the report.
SYSTEMS = (
    RunSystem(name="base", label="Base", model="base", retriever=BASE, leads=True, kind="base"),
    RunSystem(name="mapped", label="Query map", model="mapped", retriever=BASE, against=("base", "bm25")),
    RunSystem(name="finetuned", label="Fine-tuned", model="finetuned", retriever=BASE, against=("base", "bm25")),
    RunSystem(name="merged", label="Merged", model="merged", retriever=BASE, against=("base", "finetuned", "bm25")),
    RunSystem(
        name="bm25", label="BM25", model=None, retriever=BM25, against=("base",), leads=True, kind="lexical"
    ),
    RunSystem(name="hybrid_base", label="Base + BM25", model="base", retriever=_HYBRID, kind="hybrid"),
    RunSystem(
        name="hybrid_merged", label="Merged + BM25", model="merged", retriever=_HYBRID, kind="hybrid",
        against=("hybrid_base", "bm25", "merged"),
    ),
    RunSystem(name="bm25_cut", label="BM25, cut passages", model=None, retriever=BM25, kind="lexical"),
    RunSystem(name="base_windowed", label="Base, windowed", model="base", retriever=WINDOWS, windows=True),
    RunSystem(
        name="merged_windowed", label="Merged, windowed", model="merged", retriever=WINDOWS, windows=True,
        against=("merged", "base", "base_windowed", "bm25"),
    ),
    RunSystem(
        name="hybrid_merged_windowed", label="Windowed + BM25", model="merged", retriever=DEFAULT.without_tokens(),
        against=("hybrid_merged",), windows=True, kind="hybrid",
    ),
    RunSystem(
        name="rrf", label="Rank fusion", model="ships", retriever=RRF, against=("base", "default"), leads=True,
        kind="hybrid",
    ),
    RunSystem(
        name="default_base", label="Default, untuned", model="base", retriever="default", against=("base",), leads=True
    ),
    RunSystem(
        name="default_mapped", label="Default, query map", model="mapped", retriever="default",
        against=("default_base",),
    ),
    RunSystem(
        name="default", label="Default", model="ships", retriever="default", against=("base", "default_base", "bm25"),
        leads=True,
    ),
    RunSystem(name="chosen_base", label="Chosen, untuned", model="base", retriever="chosen", leads=True),
    RunSystem(
        name="chosen", label="Chosen", model="ships", retriever="chosen", against=("base", "default", "chosen_base"),
        leads=True,
    ),
)  # fmt: skip
BY_NAME = {one.name: one for one in SYSTEMS}


#: The systems of `embedfit adapt`: each one's name for people, and the systems that it is compared with.
ADAPTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "frozen": ("Frozen vectors", ()),
    "mapped": ("Query map", ("frozen",)),
    "moved": ("Moved vectors", ("frozen",)),
    "mapped_moved": ("Map and moved vectors", ("frozen", "mapped", "moved")),
    "bm25": ("BM25", ("frozen",)),
}


def label_of(name: str) -> str:
    """A system's name for people. A name that is not in the tables, such as a hub id, stays as it is."""
    if name in ADAPTED:
        return ADAPTED[name][0]
    return BY_NAME[name].label if name in BY_NAME else name


def pairs(further: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of systems that a run compares. further: the systems of evaluate.systems."""
    own = [(one.name, other) for one in SYSTEMS for other in one.against]
    return [*own, *(("merged", name) for name in further)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemName:
    """A system's name, taken apart. kind: "bm25", or the kind of its embedder. embedder: "" for BM25 alone."""

    name: str
    kind: str
    embedder: str = ""
    hybrid: bool = False
    windowed: bool = False

    def with_windows(self) -> SystemName:
        """The same system with a vector for every window of a passage."""
        name = f"{'hybrid:' if self.hybrid else ''}windowed:{self.embedder}"
        return replace(self, name=name, windowed=True)


def parse(name: str) -> SystemName:
    """Take a system's name apart. Raises UsageError with an example of the right form."""
    if name.partition("|")[0] == "bm25":
        return SystemName(name=name, kind="bm25")
    dense = name.removeprefix("hybrid:")
    embedder = dense.removeprefix("windowed:")
    if embedder.partition("|")[0] == "bm25" or embedder.startswith(("hybrid:", "windowed:")):
        raise UsageError(f"{name!r}: hybrid takes a dense system beside BM25.", remedy="For example: hybrid:minilm")
    kind = registry.parse(embedder).kind
    if embedder != dense and kind != registry.LOCAL:
        raise UsageError(f"{name!r}: windowed takes a model on this machine.", remedy="For example: windowed:minilm")
    return SystemName(name=name, kind=kind, embedder=embedder, hybrid=dense != name, windowed=embedder != dense)


def check_systems(config: Config) -> None:
    """Raise UsageError for a name in evaluate.systems that is wrong, taken, or may cost money in the preset offline."""
    for name in config.evaluate.systems:
        if name in BY_NAME:
            raise UsageError(f"evaluate.systems: {name} is a row that a run has by itself.", remedy="Leave it out.")
        system = parse(name)
        if system.windowed:
            raise UsageError(
                f"evaluate.systems: {name}: a run measures windows only of its own models.",
                remedy=f"Run: embedfit benchmark {name} --beir FOLDER",
            )
        if system.kind != "bm25" and registry.bills(system.embedder):
            refuse_if_offline(config, f"evaluate.systems={name}")
