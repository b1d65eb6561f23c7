"""A condition on a field as simple tests of its values, which each database writes in its own language."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from embedfit.errors import InputError
from embedfit.index.sinks.sink import About
from embedfit.index.store.columns import DOCUMENT
from embedfit.index.store.filters import Condition, Scalar, date_of
from embedfit.index.store.manifest import FieldColumns
from embedfit.path.artefacts import Value

FOLDER = "folder"
Kind = Literal["equal", "<", "<=", ">", ">=", "date <", "date >=", "inside"]
#: Names that every database takes as part of a path.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class Test:
    """A test of one value; of a list, one of its items must pass.

    equal: the value is `value`, of the same type. <, <=, >, >=: a number. date <, date >=: the first microsecond of an
    ISO date, as in dates_of. inside: a text that begins with `value`, which ends in "/" or is "".
    """

    kind: Kind
    value: Scalar


def field_of(condition: Condition, about: About) -> FieldColumns:
    """The field that a condition names. Raises InputError if there is none."""
    known = next((one for one in about.fields if one.name == condition.field), None)
    if known is None:
        names = ", ".join(one.name for one in about.fields[:40])
        raise InputError(f"There is no field {condition.field[:100]!r}.", remedy=f"There are: {names}")
    return known


def tests_of(condition: Condition, known: FieldColumns) -> list[Test]:
    """The tests of which a passage must pass one ("!=": none). The meaning is that of Catalogue.allowed.

    Raises InputError for a value that doesn't fit the field. Not for "exists", which tests no value.
    """
    tests: list[Test] = []
    for readings in condition.values:
        own = [one for reading in readings for one in _tests(condition, known, reading)]
        if not own:
            raise InputError(
                f"The condition {condition} does not fit the field {known.name}.",
                remedy=f"{known.name} holds {_kinds(known)}.",
            )
        tests += own
    return tests


def _tests(condition: Condition, known: FieldColumns, reading: Scalar) -> list[Test]:
    """Tests of one reading of a value; none if it doesn't fit the field."""
    operator = condition.operator
    if operator == "<" or operator == "<=" or operator == ">" or operator == ">=":
        if isinstance(reading, str):
            date = date_of(reading)
            if date is None or known.dates[0] == known.dates[1]:
                return []
            bound = date[0] if operator in ("<", ">=") else date[1]
            return [Test("date <" if operator in ("<", "<=") else "date >=", bound)]
        return [] if isinstance(reading, bool) or not known.number else [Test(operator, reading)]
    if operator == "contains" and not known.is_list:
        if known.name != FOLDER or not isinstance(reading, str):
            return []
        stem = reading.rstrip("/")
        return [Test("equal", reading), Test("inside", f"{stem}/" if reading else "")]
    kind = known.flag if isinstance(reading, bool) else known.text if isinstance(reading, str) else known.number
    return [Test("equal", reading)] if kind or known.name == DOCUMENT else []


def _kinds(known: FieldColumns) -> str:
    there = [name for name, count in (("flags", known.flag), ("numbers", known.number), ("texts", known.text)) if count]
    return f"{'lists of ' if known.is_list else ''}{' or '.join(there)}"


def keys_of(about: About) -> dict[str, str]:
    """The name of each field in a database's paths: its own, or "_" and its place if it has odd signs."""
    fields = enumerate(about.fields)
    return {one.name: one.name if _PLAIN.fullmatch(one.name) else f"_{place}" for place, one in fields}


def items(value: Value) -> tuple[Scalar, ...]:
    """A field's value as a list."""
    return value if isinstance(value, tuple) else (value,)


def dates_of(values: Mapping[str, Value]) -> dict[str, list[int]]:
    """The first microsecond of each ISO date among the texts of a field, by which ranges of dates are compared."""
    found: dict[str, list[int]] = {}
    for name, value in values.items():
        dates = [date[0] for one in items(value) if isinstance(one, str) and (date := date_of(one)) is not None]
        if dates:
            found[name] = dates
    return found


def folders_of(folder: Value | None) -> list[str]:
    """Every text in which the test "inside" finds the field folder."""
    texts: Iterable[str] = (one for one in items(folder) if isinstance(one, str)) if folder is not None else ()
    return sorted({text[:end] for text in texts for end in (0, *_ends(text))})


def _ends(text: str) -> Sequence[int]:
    return [place + 1 for place, sign in enumerate(text) if sign == "/"]
