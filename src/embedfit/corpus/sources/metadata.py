"""Metadata of documents and passages: fields of plain values, within bounds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from pathlib import PurePosixPath

from embedfit.path.artefacts import Metadata, Value

#: Fields of a document or record, characters of a value and of a name, items of a list, and objects in objects.
MOST_FIELDS = 50
MOST_CHARACTERS = 1_000
MOST_NAME = 100
MOST_ITEMS = 100
MOST_DEPTH = 3
#: Fields of a corpus. Each is a column of the index.
MOST_OF_CORPUS = 200
#: The field of the groups that may read a document: always a list, so that an access key's filter has one meaning.
GROUPS = "groups"
#: Fields that the file itself decides. A document's own field of such a name is kept as "metadata.NAME".
OF_FILES = ("document", "folder", "file", "extension")
#: Larger integers are kept as text, because a double, which JSON's readers use, would change them.
_EXACT = 1 << 53
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def of_file(name: str) -> dict[str, Value]:
    """The fields of a file. name: its path under the folder that was named, with "/" between the parts."""
    path = PurePosixPath(name)
    folder = "" if path.parent == PurePosixPath(".") else path.parent.as_posix()
    return {"folder": folder, "file": path.name, "extension": path.suffix.removeprefix(".").lower()}


def bounded(raw: Mapping[str, object]) -> tuple[dict[str, Value], list[str]]:
    """(fields, the losses in words) of the metadata of a document or record.

    raw: values of JSON, YAML or TOML. Objects in it become fields with dotted names; the fields of an object called
    "metadata" get no prefix. Numbers and flags in a list become texts. null and empty texts are left out.
    """
    fields: dict[str, Value] = {}
    notes: list[str] = []
    # The groups come first, so that the limit of fields never drops them.
    ordered = sorted(raw.items(), key=lambda item: item[0] != GROUPS)
    inner = raw.get("metadata")
    if isinstance(inner, Mapping):
        ordered = [item for item in ordered if item[0] != "metadata"]
        own = list(inner.items())
        taken = {_name(name) for name, _ in ordered}
        ordered += [(f"metadata.{name}" if _name(name) in taken else name, value) for name, value in own]
        ordered.sort(key=lambda item: item[0] != GROUPS)
    for path, value in _flat(ordered, 1, notes):
        name = _name(path)
        if name in OF_FILES:
            name = f"metadata.{name}"
        if len(fields) >= MOST_FIELDS:
            notes.append(f"fields after the first {MOST_FIELDS} are left out")
            break
        if not name or len(name) > MOST_NAME:
            notes.append(f"a field whose name is empty or longer than {MOST_NAME} characters is left out")
            continue
        kept = _groups(value, notes) if name == GROUPS else _value(name, value, notes)
        if kept is not None:
            fields.setdefault(name, kept)
    return fields, notes


def _flat(items: Iterable[tuple[object, object]], depth: int, notes: list[str]) -> Iterator[tuple[str, object]]:
    """(dotted name, value) of every value except objects; lazily, because the first fields are enough."""
    for name, value in items:
        if not isinstance(value, Mapping):
            yield str(name), value
        elif depth >= MOST_DEPTH:
            notes.append(f"`{_name(name)[:MOST_NAME]}` is left out: it is nested too deeply")
        else:
            yield from _flat(((f"{name}.{key}", one) for key, one in value.items()), depth + 1, notes)


def _name(name: object) -> str:
    return " ".join(_CONTROLS.sub(" ", str(name)).split())


def _groups(value: object, notes: list[str]) -> Value | None:
    return _value(GROUPS, value if isinstance(value, (list, tuple)) else [value], notes)


def _value(name: str, value: object, notes: list[str]) -> Value | None:
    if not isinstance(value, (list, tuple)):
        return _scalar(name, value, notes)
    if len(value) > MOST_ITEMS:
        notes.append(f"`{name}` is cut after {MOST_ITEMS} items")
    found = []
    for one in value[:MOST_ITEMS]:
        if isinstance(one, (Mapping, list, tuple)):
            notes.append(f"`{name}`: items that are objects or lists are left out")
            continue
        scalar = _scalar(name, one, notes)
        if scalar is not None:
            found.append(_as_text(scalar))
    return tuple(dict.fromkeys(found)) if found else None


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _scalar(name: str, value: object, notes: list[str]) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _EXACT else _cut(name, str(value), notes)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        notes.append(f"`{name}` is left out where it is {value}")
        return None
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if not isinstance(value, str):
        notes.append(f"`{name}` is left out: it is neither text, number, true, false nor a list")
        return None
    return _cut(name, " ".join(_CONTROLS.sub(" ", value).split()), notes) or None


def _cut(name: str, text: str, notes: list[str]) -> str:
    if len(text) > MOST_CHARACTERS:
        notes.append(f"`{name}` is cut after {MOST_CHARACTERS:,} characters")
    return text[:MOST_CHARACTERS]


def of_corpus(rows: Sequence[Metadata]) -> tuple[Iterable[Metadata], list[str]]:
    """(rows with no more fields than an index holds, the fields left out). The most frequent fields stay."""
    counts = Counter(name for row in rows for name in row.values)
    if len(counts) <= MOST_OF_CORPUS:
        return rows, []
    first = {GROUPS, *OF_FILES}
    ranked = sorted(counts, key=lambda name: (name not in first, -counts[name], name))
    kept = set(ranked[:MOST_OF_CORPUS])
    note = f"{len(counts) - len(kept):,} of {len(counts):,} fields are left out, such as `{ranked[MOST_OF_CORPUS]}`"
    few = (replace(row, values={name: value for name, value in row.values.items() if name in kept}) for row in rows)
    return few, [note]


def said(notes: Mapping[str, int]) -> str:
    """One line for people about the fields that were cut or left out."""
    most = sorted(notes.items(), key=lambda item: (-item[1], item[0]))
    listed = "; ".join(f"{note}{f' ({count:,} times)' if count > 1 else ''}" for note, count in most[:5])
    return listed + (f"; and {len(most) - 5:,} more" if len(most) > 5 else "")
