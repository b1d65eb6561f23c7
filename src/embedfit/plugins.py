"""Tables that other packages add to: by entry points, the door by which our own parts come in too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Generic, TypeVar

from embedfit.errors import InputError

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Registered(Generic[Record]):
    """A record of a table, and the "module:NAME" under which another process finds it."""

    record: Record
    place: str


def table(group: str, built_in: Mapping[str, str], form: type[Record]) -> dict[str, Registered[Record]]:
    """Every record by the name of its entry point, plug-ins first: a plug-in replaces ours of the same name.

    group: of the entry points. built_in: our own, as pyproject.toml lists them too: a checkout runs without being
    installed. form: the class of the records. Raises InputError for an entry point that can't be loaded.
    """
    found = [(entry.name, entry.value) for entry in metadata.entry_points(group=group) if not _is_ours(entry)]
    strangers = dict(sorted(found))
    ordered = strangers | {name: place for name, place in built_in.items() if name not in strangers}
    return {name: Registered(load(place, group, form), place) for name, place in ordered.items()}


def _is_ours(entry: metadata.EntryPoint) -> bool:
    """Whether embedfit itself brings it. The built-in ones are right where an older install is not."""
    return entry.dist is not None and entry.dist.name == "embedfit"


def load(place: str, group: str, form: type[Record]) -> Record:
    """The record at "module:NAME"."""
    module, _, name = place.partition(":")
    try:
        record = getattr(import_module(module), name)
    except Exception as error:  # a plug-in's module may raise anything
        raise InputError(
            f"{place}, an entry point of {group}, can't be loaded: {type(error).__name__}: {error}",
            remedy="Mend the package that brings it, or uninstall it.",
        ) from error
    if not isinstance(record, form):
        raise InputError(
            f"{place}, an entry point of {group}, is no {form.__name__}.",
            remedy=f"Make it an {form.__module__}.{form.__name__}.",
        )
    return record
