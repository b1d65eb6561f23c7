"""The table of the kinds of language models; each kind is a record in which a provider describes itself.

Settings, presets, prompts and estimates read the record; no code compares a provider's name. Our own providers enter
the table as a plug-in does: an entry point of the group `embedfit.generators` names a Generator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from embedfit import plugins
from embedfit.errors import UsageError

GROUP = "embedfit.generators"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How many queries are asked for, unless the settings say so.

    queries: of all training passages together. least, most: training queries of one passage. passages: training
    passages at most, 0 for all. held_out: queries of one dev or test passage at most. samples: different queries of
    one style that can be had of one passage, 0 for any number. favourite: the style of every second training query,
    "" for none.
    """

    queries: int = 20_000
    least: int = 3
    most: int = 10
    passages: int = 0
    held_out: int = 2
    samples: int = 0
    favourite: str = ""


def _as_model(rest: str) -> dict[str, str | None]:
    return {"llm": rest or None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A kind of language model.

    The module that holds it is imported by every command: it imports heavy packages in `open` only.

    name: also the name of its entry point.
    open: (GenerateConfig, embedfit.llm.opening.Outside) → an embedfit.llm.protocol.LanguageModel. Raises UsageError,
    MissingDependency or ProviderError, each with its remedy.
    spec: the settings, by name, behind the name in --generator NAME:…. Raises ValueError with the right form.
    one_query_a_call: the model is too small to follow a list of styles, and reads a passage once where calls follow
    each other in the passages' order.
    free: its calls never cost money, so the user confirms nothing and no call is tried before the others.
    may_bill: GenerateConfig → whether a server that it names may send a bill; default: unless the model is free.
    strong: it writes so well that its queries are worth a place in the index.
    judges: it can say whether a passage answers a query.
    reads_files: `generate.llm` is a file or a folder here; its content counts, not its place.
    told_passage: each call says in Request.extra which passage and styles it is about.
    styles: GenerateConfig → the names of the styles that it can write; default: every style. Raises InputError.
    temperature: of the replies, unless the settings say so.
    """

    name: str
    open: Callable[..., object]
    spec: Callable[[str], Mapping[str, str | None]] = _as_model
    one_query_a_call: bool = False
    free: bool = False
    may_bill: Callable[..., bool] | None = None
    strong: bool = True
    judges: bool = True
    reads_files: bool = False
    told_passage: bool = False
    styles: Callable[..., Collection[str]] | None = None
    temperature: float = 0.9
    wanted: Wanted = Wanted()

    def bills(self, settings: object) -> bool:
        """Whether calls under these settings may cost money."""
        return self.may_bill(settings) if self.may_bill is not None else not self.free


def generators() -> dict[str, Generator]:
    """Every generator by its name. Raises InputError for an entry point that can't be loaded."""
    return {name: one.record for name, one in sorted(plugins.table(GROUP, Generator).items())}


def generator(name: str) -> Generator:
    """The generator of that name. Raises UsageError that lists the known ones."""
    if name not in generators():
        raise UsageError(
            f"There is no generator {name!r}.",
            remedy=f"Use one of: {', '.join(generators())}; or install the package that brings it.",
        )
    return generators()[name]
