"""A condition on the fields of passages as SQL. Every name and value is a parameter, never a part of the text."""

from __future__ import annotations

import json
from collections.abc import Callable

from embedfit.index.sinks.conditions import Test, field_of, tests_of
from embedfit.index.sinks.postgres.layout import readable
from embedfit.index.sinks.sink import About
from embedfit.index.store.columns import DOCUMENT
from embedfit.index.store.filters import Condition, Scalar


def condition_of(condition: Condition, about: About, number: int) -> tuple[str, dict[str, object]]:
    """SQL that is true for passages that meet a condition, and its parameters.

    number: of the condition, which makes the names of its parameters its own. Raises InputError for a field that does
    not exist and for a value that doesn't fit it.
    """
    known = field_of(condition, about)
    own = f"f{number}"
    given: dict[str, object] = {own: readable(condition.field)}
    value = "to_jsonb(document)" if known.name == DOCUMENT else f"metadata -> %({own})s"
    dates = f"dates -> %({own})s"

    def parameter(one: object) -> str:
        name = f"{own}_{len(given)}"
        given[name] = one
        return f"%({name})s"

    if condition.operator == "exists":
        present = f"({value}) IS NOT NULL"
        return (present if condition.values[0][0] else f"NOT {present}"), given
    tests = [_sql(test, dates if test.kind.startswith("date") else value, parameter) for test in
             tests_of(condition, known)]  # fmt: skip
    either = " OR ".join(f"coalesce({test}, false)" for test in tests)
    return (f"NOT ({either})" if condition.operator == "!=" else f"({either})"), given


def _sql(test: Test, value: str, parameter: Callable[[object], str]) -> str:
    """value: SQL of the field's value, or of its dates."""
    wanted: Scalar = readable(test.value) if isinstance(test.value, str) else test.value
    if test.kind == "equal":
        return f"{value} @> {parameter(json.dumps(wanted))}::jsonb"
    if test.kind == "inside":
        return f"starts_with({value} #>> '{{}}', {parameter(wanted)})"
    path = f"$[*] ? (@ {test.kind.removeprefix('date ')} $x)"
    return f"jsonb_path_exists({value}, '{path}', {parameter(json.dumps({'x': wanted}))}::jsonb)"
