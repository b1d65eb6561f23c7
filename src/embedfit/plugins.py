"""Tables of parts, which embedfit and other packages fill by entry points.

A part is a record in a module, and a line of pyproject.toml that names it, be it ours or another package's.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Generic, TypeVar

from embedfit.errors import InputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Record = TypeVar("Record")
_OURS = "embedfit"


@dataclass(frozen=True, slots=True)
class Registered(Generic[Record]):
    """A record of a table, and the "module:NAME" under which another process finds it."""

    record: Record
    place: str


def places(group: str) -> dict[str, str]:
    """The address of each record of a group, "module:NAME", by the name of its entry point. Imports no record.

    Plug-ins come first. A plug-in that has the name of one of our parts replaces it.
    """
    return dict(_places(group, tuple(sys.path)))


def table(group: str, form: type[Record]) -> dict[str, Registered[Record]]:
    """The records of a group, in the order of `places`. form: their class.

    Raises InputError for an entry point that can't be loaded.
    """
    return {name: Registered(load(place, group, form), place) for name, place in places(group).items()}


def place_of(group: str, name: str) -> str:
    """The address of a record, without importing it. Raises UsageError that lists the names of the group."""
    known = places(group)
    if name not in known:
        raise UsageError(
            f"There is no {name!r} among the {group.rpartition('.')[2]}.",
            remedy=f"Use one of: {', '.join(sorted(known))}; or install the package that brings it.",
        )
    return known[name]


def find(group: str, name: str, form: type[Record]) -> Record:
    """One record, without loading the others. Raises as `place_of` and `load`."""
    return load(place_of(group, name), group, form)


def load(place: str, group: str, form: type[Record]) -> Record:
    """The record at "module:NAME". Raises InputError if it can't be loaded or has another class."""
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


@cache  # keyed by sys.path, which decides the result; kept because a search reads the lists of all installed packages
def _places(group: str, path: tuple[str, ...]) -> Mapping[str, str]:
    ours = _our_places().get(group, {})
    others = {
        entry.name: entry.value
        for entry in metadata.entry_points(group=group)
        if entry.dist is None or entry.dist.name != _OURS
    }
    return dict(sorted(others.items())) | {name: ours[name] for name in sorted(ours.keys() - others.keys())}


@cache
def _our_places() -> Mapping[str, Mapping[str, str]]:
    """Embedfit's own entry points, by group and name. A checkout's pyproject.toml overrules an old installation."""
    checkout = Path(__file__).parents[2] / "pyproject.toml"
    if checkout.is_file():
        project = tomllib.loads(checkout.read_text("utf-8")).get("project", {})
        if project.get("name") == _OURS:
            groups: Mapping[str, Mapping[str, str]] = project["entry-points"]
            return groups
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in metadata.distribution(_OURS).entry_points:
        found[entry.group][entry.name] = entry.value
    return found
