"""The keys of a JSON value as dotted paths: what a golden file holds a format to."""

from __future__ import annotations

#: Mappings whose keys are names, not a part of the format.
NAMED = ("systems", "metrics", "ci95", "retrievers", "timings_s", "passages", "slices", "dev", "config")


def keys_of(value: object, path: str = "") -> set[str]:
    """Every key of every object, "[]" for the items of a list and "*" for names."""
    if isinstance(value, list):
        return {key for item in value for key in keys_of(item, f"{path}[]")}
    if not isinstance(value, dict):
        return set()
    found = set()
    for name, item in value.items():
        key = f"{path}.*" if path.split(".")[-1] in NAMED else f"{path}.{name}".removeprefix(".")
        found |= {key} | keys_of(item, key)
    return found
