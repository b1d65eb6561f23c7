"""Filters: conditions on the fields of passages, as data and as people write them."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Literal

import numpy as np

from embedfit.errors import InputError

Scalar = str | int | float | bool
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "contains", "exists"]

OPERATORS: tuple[Operator, ...] = ("=", "!=", "<", "<=", ">", ">=", "contains", "exists")
MOST_CONDITIONS = 64
MOST_VALUES = 1_000
MOST_CHARACTERS = 1_000
_SIGNS: dict[str, Operator] = {
    "=": "=",
    "==": "=",
    "!=": "!=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
    ":": "contains",
}
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_EXPRESSION = re.compile(rf"\s*(?P<name>{_QUOTED}|[^\"=!<>:]+?)\s*(?P<sign>==|!=|<=|>=|=|<|>|:)(?P<values>.*)", re.S)
_ALTERNATIVE = re.compile(rf"\s*(?P<text>{_QUOTED}|[^|\"]*?)\s*(?:\||$)", re.S)
_NUMBER = re.compile(r"[-+]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?")
_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(Z|[+-]\d\d:?\d\d)?)?)?)?"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST = int(sys.float_info.max)
_HOW = "For example: lang=de, lang=de|fr, date>=2024-01-01, groups:hr, lang!=de, url=* (any value)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition on one field of a passage.

    values: one of them must match ("!=": none may). Each is a tuple of its readings, because `2024` on a command line
    may be a text or a number. "contains" matches an item of a list; on `folder`, that folder or one above it.
    "exists" takes True or False.
    """

    field: str
    operator: Operator
    values: tuple[tuple[Scalar, ...], ...]

    def __str__(self) -> str:
        shown = "|".join(json.dumps(readings[0], ensure_ascii=False) for readings in self.values[:3])
        sign = {"contains": ":", "exists": " exists "}.get(self.operator, self.operator)
        return f"{self.field}{sign}{shown}{'|…' if len(self.values) > 3 else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that a passage must meet, all of them."""

    conditions: tuple[Condition, ...] = ()

    def and_also(self, other: Filter) -> Filter:
        """Both."""
        return Filter(conditions=self.conditions + other.conditions)

    def __str__(self) -> str:
        return ", ".join(map(str, self.conditions)) or "everything"


Where = Filter | Mapping[str, object] | Sequence[str] | str


def of_documents(ids: Iterable[str]) -> Filter:
    """A filter for the passages of some documents. It ignores ids that the index does not hold."""
    return Filter(
        conditions=(Condition(field="document", operator="=", values=tuple((one,) for one in sorted(set(ids)))),)
    )


def filter_of(where: object) -> Filter:
    """The filter that people wrote as JSON or as expressions of the command line. None lets everything through.

    {"lang": "de", "year": [2023, 2024], "date": {">=": "2024-01-01"}, "groups": {"contains": "hr"},
    "url": {"exists": true}}, or ["lang=de", "date>=2024-01-01"]. Raises InputError.
    """
    if where is None or isinstance(where, Filter):
        return where or Filter()
    if isinstance(where, str):
        where = [where]
    if isinstance(where, Mapping):
        conditions = list(_of_object(where))
    elif isinstance(where, (list, tuple)) and all(isinstance(one, str) for one in where):
        _at_most(where, MOST_CONDITIONS, "conditions")
        conditions = [_of_expression(one) for one in where]
    else:
        raise InputError("A filter is an object of fields, or a list of texts such as lang=de.", remedy=_HOW)
    _at_most(conditions, MOST_CONDITIONS, "conditions")
    for one in conditions:
        _check_scalars(one)
    return Filter(conditions=tuple(conditions))


def _check_scalars(condition: Condition) -> None:
    """Raise InputError for what no database can be asked: half a character of UTF-16, a number that no float holds."""
    for one in (condition.field, *(one for readings in condition.values for one in readings)):
        if isinstance(one, str) and _SURROGATE.search(one):
            raise InputError(f"{_short(ascii(condition.field))}: the text {_short(ascii(one))} is no Unicode.")
        if isinstance(one, int) and abs(one) > _LARGEST:
            raise InputError(f"{_short(condition.field)}: a number has more than 308 digits.")


def _of_object(where: Mapping[object, object]) -> Iterator[Condition]:
    _at_most(where, MOST_CONDITIONS, "conditions")
    for name, wanted in where.items():
        if not isinstance(name, str) or not name or len(name) > MOST_CHARACTERS:
            raise InputError(f"A filter names its fields by texts of 1 to {MOST_CHARACTERS:,} characters.")
        if not isinstance(wanted, Mapping):
            yield Condition(field=name, operator="=", values=_values(name, wanted))
            continue
        if not wanted:
            raise InputError(
                f"The filter of {_short(name)} is empty.", remedy=f'For example: {{"{_short(name)}": "…"}}'
            )
        for operator, value in wanted.items():
            known = next((one for one in OPERATORS if one == operator), None)
            if known is None:
                raise InputError(
                    f"{_short(name)}: there is no operator {_short(str(operator))}.",
                    remedy=f"There are: {', '.join(OPERATORS)}",
                )
            if known == "exists" and not isinstance(value, bool):
                raise InputError(f"{_short(name)}: exists is true or false.")
            yield Condition(field=name, operator=known, values=_checked(name, known, _values(name, value)))


def _values(name: str, value: object) -> tuple[tuple[Scalar, ...], ...]:
    given = [_plain(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
    _at_most(given, MOST_VALUES, f"values of {_short(name)}")
    if not given:
        raise InputError(f"The filter of {_short(name)} names no value; leave it out to find all.")
    values: list[Scalar] = []
    for one in given:
        if not isinstance(one, (str, int, float)) or (isinstance(one, float) and not math.isfinite(one)):
            shown = (
                json.dumps(one) if one is None or isinstance(one, float) else f"a value of type {type(one).__name__}"
            )
            raise InputError(
                f"{_short(name)}: {shown} is neither a text, a number, true nor false.",
                remedy='To find passages without the field: {"exists": false}',
            )
        if isinstance(one, str) and len(one) > MOST_CHARACTERS:
            raise InputError(f"{_short(name)}: a value has more than {MOST_CHARACTERS:,} characters.")
        values.append(one)
    return tuple((one,) for one in values)


def _plain(value: object) -> object:
    """A date as its ISO text, a number of numpy as Python's; other values as they are."""
    if isinstance(value, date):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def _of_expression(text: str) -> Condition:
    match = _EXPRESSION.fullmatch(text)
    if match is None or len(text) > 100 * MOST_CHARACTERS:
        raise InputError(f"The filter {_short(text)!r} can't be read.", remedy=_HOW)
    name = _unquoted(match["name"])
    operator = _SIGNS[match["sign"]]
    if match["values"].strip() == "*" and operator in ("=", "!="):
        return Condition(field=name, operator="exists", values=((operator == "=",),))
    values: list[tuple[Scalar, ...]] = []
    at, rest = 0, match["values"]
    while True:
        found = _ALTERNATIVE.match(rest, at)
        if found is None:
            raise InputError(f"The filter {_short(text)!r} can't be read.", remedy=_HOW)
        one = found["text"]
        values.append((_unquoted(one),) if one.startswith('"') else _readings(one))
        at = found.end()
        if not found[0].endswith("|"):
            break
    _at_most(values, MOST_VALUES, f"values of {_short(name)}")
    return Condition(field=name, operator=operator, values=_checked(name, operator, tuple(values)))


def _checked(name: str, operator: Operator, values: tuple[tuple[Scalar, ...], ...]) -> tuple[tuple[Scalar, ...], ...]:
    if operator in ("<", "<=", ">", ">="):
        if len(values) > 1:
            raise InputError(f"{_short(name)}: {operator} compares with one value.")
        for one in values[0]:
            if not isinstance(one, bool) and (not isinstance(one, str) or date_of(one)):
                return values
        shown = _short(str(values[0][0]))
        raise InputError(
            f"{_short(name)}: {operator} compares with a number or an ISO date, not with {shown!r}.",
            remedy=f"For example: {_short(name)}{operator}2024-01-31",
        )
    return values


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        value: str = json.loads(text, strict=False)
    except ValueError as error:
        raise InputError(f"{_short(text)} can't be read as a quoted text.", remedy=_HOW) from error
    return value


def _readings(text: str) -> tuple[Scalar, ...]:
    """Every value that an unquoted text may stand for."""
    readings: list[Scalar] = [text]
    if text in ("true", "false"):
        readings.append(text == "true")
    elif _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        readings.append(int(text) if text.lstrip("+-").isdigit() else number)
    return tuple(readings)


def _at_most(given: Sized, most: int, what: str) -> None:
    if len(given) > most:
        raise InputError(f"A filter has at most {most:,} {what}; {len(given):,} were given.")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


def date_of(text: str) -> tuple[int, int] | None:
    """(first microsecond, the one after the last) of an ISO date or time, or None. A time without an offset is UTC.

    A year, a month or a day is a span of that length, so `date<=2024` holds for all of 2024.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    try:
        start = datetime(
            int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")), tzinfo=timezone.utc,
        )  # fmt: skip
        first = _microseconds(start) - _offset(offset)
        if month is None:
            after = _microseconds(start.replace(year=start.year + 1)) if start.year < 9999 else first + 1
        elif day is None:
            following = (start.year + start.month // 12, start.month % 12 + 1)
            after = (
                _microseconds(start.replace(year=following[0], month=following[1]))
                if following[0] <= 9999
                else first + 1
            )
        else:
            unit = 1 if fraction else 10**6 if second else 60 * 10**6 if hour else 86_400 * 10**6
            after = first + unit
    except ValueError:
        return None
    return first, after


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


def _offset(text: str | None) -> int:
    if text in (None, "Z"):
        return 0
    assert text is not None
    sign = -1 if text[0] == "-" else 1
    return sign * (int(text[1:3]) * 60 + int(text[-2:])) * 60 * 10**6
