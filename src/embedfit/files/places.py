"""The stored form of paths in a run folder, which lets the folder be read from anywhere, and moved.

A stored path is relative to the run folder, with "/" between its parts; on another drive of Windows it is absolute.
embedfit.toml holds for each stored path the absolute one in its table [places]. A stored path is first looked up from
the run folder's present place, so a run that was moved or copied together with its documents uses those. If nothing is
there, the absolute path counts, so a run that was moved alone uses the documents in their old place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The table of embedfit.toml.
PLACES = "places"


def read_places(settings: Path) -> dict[str, str]:
    """Stored path → absolute path, as embedfit.toml holds them. Empty if it can't be read."""
    try:
        found = tomllib.loads(settings.read_text("utf-8")).get(PLACES, {})
    except (OSError, ValueError):
        return {}
    return {str(name): str(place) for name, place in found.items()} if isinstance(found, dict) else {}


def stored_path(path: str | Path, folder: Path, places: Mapping[str, str]) -> str:
    """The form in which a run folder keeps a path. places: stored path → absolute path, as kept so far.

    A path that is stored already, or lies below a stored one, keeps its form, even if the run was moved since.
    """
    absolute = os.path.abspath(os.path.expanduser(path))
    for stored, place in places.items():
        if located(stored, folder, places) != place:
            continue  # something else lies there now
        if absolute == place:
            return stored
        if PurePath(absolute).is_relative_to(place):
            return f"{stored}/{PurePath(absolute).relative_to(place).as_posix()}"
    # The last part may be a link that somebody named, so only the folders above it are resolved.
    parent, name = os.path.split(absolute)
    try:
        relative = os.path.relpath(os.path.join(os.path.realpath(parent), name), os.path.realpath(folder))
    except ValueError:  # the file is on another drive
        return PurePath(absolute).as_posix()
    return PurePath(relative).as_posix()


def located(stored: str, folder: Path, places: Mapping[str, str]) -> str:
    """The absolute path of a stored one, whether or not something is there."""
    here = os.path.normpath(os.path.join(os.path.realpath(folder), stored))
    if os.path.lexists(here):
        return here
    for name, place in places.items():
        if stored == name or stored.startswith(f"{name}/"):
            there = os.path.join(place, stored[len(name) + 1 :]) if stored != name else place
            if os.path.lexists(there):
                return there
    return here
