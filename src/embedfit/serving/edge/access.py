"""The keys of a server, each with a filter on the passages that it finds. A request can only narrow the filter."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedfit.errors import InputError, UsageError
from embedfit.files.textfiles import toml_of
from embedfit.index.store.filters import Filter, filter_of
from embedfit.serving.settings import ServeSettings

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_HOW = (
    'A key is: [[keys]] name = "hr", env = "HR_KEY" (or sha256 = "…" of printf %s "$KEY" | sha256sum), '
    'filter = { groups = ["hr", "all"] } (or everything = true)'
)


@dataclass(frozen=True, slots=True)
class Caller:
    """A sender of requests. name: for the log. forced: the filter on its requests; None: they find everything."""

    name: str
    forced: Filter | None = None


#: The caller of a server without a key.
ANYBODY = Caller("anybody")


@dataclass(frozen=True, slots=True)
class Keys:
    """The callers of a server by the SHA-256 of their keys, which are not kept. Empty: the server asks for no key."""

    callers: Sequence[tuple[bytes, Caller]] = field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.callers)

    def caller(self, key: bytes) -> Caller | None:
        """The caller that has this key, or None. The time is the same for every key and for a wrong one."""
        digest = hashlib.sha256(key).digest()
        found = None
        for known, caller in self.callers:
            if hmac.compare_digest(digest, known):
                found = caller
        return found


def keys_of(settings: ServeSettings, environment: Mapping[str, str] = os.environ, *, all_set: bool = True) -> Keys:
    """The keys of --api-key, which finds everything, and of the file of --access. Raises InputError and UsageError.

    all_set: every key that the file takes from the environment must be there; else those that are not are left out.
    """
    callers: list[tuple[bytes, Caller]] = []
    if settings.api_key is not None:
        callers.append((hashlib.sha256(settings.api_key.encode()).digest(), Caller("--api-key")))
    if settings.access is not None:
        callers += _of_file(Path(settings.access).expanduser(), environment, all_set=all_set)
    names = [caller.name for _, caller in callers]
    twice = next((caller.name for n, (digest, caller) in enumerate(callers) if digest in dict(callers[:n])), None)
    if twice is not None:
        raise UsageError(f"The key {twice!r} is the same as another one's.", remedy="Give each caller its own key.")
    if len(set(names)) < len(names):
        raise UsageError(f"{settings.access} names two keys alike.", remedy="Give each key a name of its own.")
    return Keys(tuple(callers))


def _of_file(path: Path, environment: Mapping[str, str], *, all_set: bool) -> list[tuple[bytes, Caller]]:
    table = toml_of(path, remedy=_HOW)
    entries = table.get("keys")
    if set(table) != {"keys"} or not isinstance(entries, list) or not entries:
        raise InputError(f"{path} must hold keys and nothing else.", remedy=_HOW)
    found = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: key {number} has no name.", remedy=_HOW)
        where = f"{path}: the key {name!r}"
        unknown = set(entry) - {"name", "env", "sha256", "filter", "everything"}
        if unknown:
            raise InputError(f"{where} has no setting {min(unknown)!r}.", remedy=_HOW)
        forced = _forced(entry, where)
        if all_set or entry.get("env") is None or environment.get(str(entry["env"]), "").strip():
            found.append((_digest(entry, where, environment), Caller(name, forced)))
    return found


def _digest(entry: Mapping[str, object], where: str, environment: Mapping[str, str]) -> bytes:
    if ("env" in entry) == ("sha256" in entry):
        raise InputError(f"{where} needs either env or sha256.", remedy=_HOW)
    if "sha256" in entry:
        if not isinstance(entry["sha256"], str) or not _DIGEST.fullmatch(entry["sha256"]):
            raise InputError(f"{where}: sha256 is not 64 hexadecimal digits.", remedy='printf %s "$KEY" | sha256sum')
        return bytes.fromhex(entry["sha256"])
    variable = entry["env"]
    key = environment.get(variable, "").strip() if isinstance(variable, str) else ""
    if not key:
        raise InputError(
            f"{where}: the environment variable {variable} is not set.",
            remedy=f'For example: export {variable}="$(openssl rand -hex 24)"',
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise InputError(f"{where}: what {variable} holds can't be sent in a header.", remedy="openssl rand -hex 24")
    return hashlib.sha256(key.encode()).digest()


def _forced(entry: Mapping[str, object], where: str) -> Filter | None:
    everything = entry.get("everything", False)
    if not isinstance(everything, bool) or everything == ("filter" in entry):
        raise InputError(f"{where} needs either a filter or everything = true.", remedy=_HOW)
    if everything:
        return None
    try:
        forced = filter_of(entry["filter"])
    except InputError as error:
        raise InputError(f"{where}: {error.message}", remedy=error.remedy) from error
    if not forced.conditions:
        raise InputError(f"{where}: its filter has no condition.", remedy=_HOW)
    return forced
