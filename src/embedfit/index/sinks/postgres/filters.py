"""A condition on the fields of passages as SQL. Every name and value is a parameter, never a part of the text."""

from __future__ import annotations

import json
from collections.abc import Callable

from embedfit.errors import InputError
from embedfit.index.sinks.postgres.load import readable
from embedfit.index.sinks.sink import About
from embedfit.index.store.columns import DOCUMENT
from embedfit.index.store.filters import Condition, Scalar, date_of
from embedfit.index.store.manifest import FieldColumns

_FOLDER = "folder"


def condition_of(condition: Condition, about: About, number: int) -> tuple[str, dict[str, object]]:
    """SQL that is true for passages that meet a condition, and its parameters.

    number: of the condition, which makes the names of its parameters its own. The meaning is that of Catalogue.allowed.
    Raises InputError for a field that does not exist and for a value that doesn't fit it.
    """
    known = next((one for one in about.fields if one.name == condition.field), None)
    if known is None:
        names = ", ".join(one.name for one in about.fields[:40])
        raise InputError(f"There is no field {condition.field[:100]!r}.", remedy=f"There are: {names}")
    given: dict[str, object] = {f"f{number}": readable(condition.field)}
    value = "to_jsonb(document)" if known.name == DOCUMENT else f"metadata -> %(f{number})s"

    def parameter(one: object) -> str:
        name = f"f{number}_{len(given)}"
        given[name] = one
        return f"%({name})s"

    if condition.operator == "exists":
        present = f"({value}) IS NOT NULL"
        return (present if condition.values[0][0] else f"NOT {present}"), given
    tests = []
    for readings in condition.values:
        own = [one for reading in readings for one in _tests(condition, known, reading, value, number, parameter)]
        if not own:
            raise InputError(
                f"The condition {condition} does not fit the field {known.name}.",
                remedy=f"{known.name} holds {_kinds(known)}.",
            )
        tests += own
    either = " OR ".join(f"coalesce({test}, false)" for test in tests)
    return (f"NOT ({either})" if condition.operator == "!=" else f"({either})"), given


def _tests(
    condition: Condition,
    known: FieldColumns,
    reading: Scalar,
    value: str,
    number: int,
    parameter: Callable[[object], str],
) -> list[str]:
    """SQL tests of one reading of a value; none if it doesn't fit the field."""
    is_text = isinstance(reading, str)
    reading = readable(reading) if isinstance(reading, str) else reading
    if condition.operator in ("<", "<=", ">", ">="):
        path = f"$[*] ? (@ {condition.operator} $x)"
        if is_text:
            date = date_of(str(reading))
            if date is None or known.dates[0] == known.dates[1]:
                return []
            bound = date[0] if condition.operator in ("<", ">=") else date[1]
            sign = "<" if condition.operator in ("<", "<=") else ">="
            dates = parameter(json.dumps({"x": bound}))
            return [f"jsonb_path_exists(dates -> %(f{number})s, '$[*] ? (@ {sign} $x)', {dates}::jsonb)"]
        if isinstance(reading, bool) or not known.number:
            return []
        return [f"jsonb_path_exists({value}, '{path}', {parameter(json.dumps({'x': reading}))}::jsonb)"]
    if condition.operator == "contains" and not known.is_list:
        if known.name != _FOLDER or not is_text:
            return []
        text = str(reading).rstrip("/")
        inside = f"starts_with({value} #>> '{{}}', {parameter(f'{text}/' if reading else '')})"
        return [f"{value} = {parameter(json.dumps(reading))}::jsonb", inside]
    kind = known.flag if isinstance(reading, bool) else known.text if is_text else known.number
    if not kind and known.name != DOCUMENT:
        return []
    return [f"{value} @> {parameter(json.dumps(reading))}::jsonb"]


def _kinds(known: FieldColumns) -> str:
    there = [name for name, count in (("flags", known.flag), ("numbers", known.number), ("texts", known.text)) if count]
    return f"{'lists of ' if known.is_list else ''}{' or '.join(there)}"
