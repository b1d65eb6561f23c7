"""The fields of an index' passages, by column, and which passages meet the conditions of a filter.

Values of a field are distinct and in order: false and true, then numbers, then texts, each ascending. A passage's
value is its number in that order, so a condition on a range of values is a comparison of numbers.

    metadata.values.jsonl   every field's values, a line each;  metadata.lines.npy  (V + 1,) where each line begins
    metadata.codes.npy      (E,) int32, field by field the numbers of passages' values; -1: none
    metadata.starts.npy     int64, for each field of lists (N + 1,) the first item of each passage
    metadata.dates.npy      (D, 2) int64, date_of() of the texts of each field with ISO dates; (-1, -1): no date
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.index.rows import starts_of
from embedfit.index.store.filters import Condition, Filter, Scalar, date_of
from embedfit.index.store.manifest import FieldColumns
from embedfit.numerics.arrays import Ints
from embedfit.numerics.on_demand import OnDemand
from embedfit.path.artefacts import Metadata, Passage, Value

Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]

VALUES, LINES, CODES = "metadata.values.jsonl", "metadata.lines.npy", "metadata.codes.npy"
STARTS, DATES = "metadata.starts.npy", "metadata.dates.npy"
FILES = (VALUES, LINES, CODES, STARTS, DATES)
#: The field that every passage has: the id of its document.
DOCUMENT = "document"
_KINDS = ("flag", "number", "text")
_SHOWN_FIELDS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field as people see it. kinds: the types of its values. passages: the number of passages that have it."""

    name: str
    kinds: tuple[str, ...]
    is_list: bool
    passages: int

    def __str__(self) -> str:
        kinds = " or ".join(f"{kind}s" for kind in self.kinds)
        return f"{self.name} ({'lists of ' if self.is_list else ''}{kinds})"


def joined(passages: Iterable[Passage], metadata: Iterable[Metadata]) -> list[Mapping[str, Value]]:
    """The fields of each passage: its document's, and over them its own. Passages of one document may share them."""
    equal: dict[str, Mapping[str, Value]] = {}  # records of a file differ in few fields
    known = {(one.document_id, one.passage_id): equal.setdefault(repr(one.values), one.values) for one in metadata}
    rows: list[Mapping[str, Value]] = []
    for one in passages:
        document, own = known.get((one.document_id, ""), {}), known.get((one.document_id, one.passage_id))
        rows.append({**document, **own} if own else document)
    return rows


# --- writing


def write_columns(
    folder: Path, passages: Sequence[Passage], rows: Sequence[Mapping[str, Value]]
) -> tuple[FieldColumns, ...]:
    """Write the fields of passages. Returns their entries in the manifest. rows: (N,), or () for none."""
    names = dict.fromkeys([DOCUMENT, *(name for row in rows for name in row)])
    fields: list[FieldColumns] = []
    codes: list[Codes] = []
    starts: list[Ints] = []
    dates: list[Ints] = []
    lines, places = [0], [0, 0, 0, 0]
    with atomic_file(folder / VALUES, binary=True) as file:
        for name in names:  # one field at a time is in memory
            given: list[tuple[int, Value]] = (
                [(number, one.document_id) for number, one in enumerate(passages)]
                if name == DOCUMENT
                else [(number, row[name]) for number, row in enumerate(rows) if name in row]
            )
            values, own, own_starts = _column(given, len(passages))
            own_dates = _dates(values)
            for _, value in values:
                line = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
                file.write(line)
                lines.append(lines[-1] + len(line))
            codes.append(own)
            starts += [] if own_starts is None else [own_starts]
            dates.append(own_dates)
            sizes = (len(own), 0 if own_starts is None else len(own_starts), len(own_dates))
            after = [len(lines) - 1, *(place + size for place, size in zip(places[1:], sizes, strict=True))]
            kinds = Counter(_KINDS[kind] for kind, _ in values)
            ranges = dict(zip(("values", "codes", "starts", "dates"), zip(places, after, strict=True), strict=True))
            is_list = own_starts is not None
            about = {"name": name, "is_list": is_list, "passages": len(given)}
            fields.append(FieldColumns.model_validate(about | {kind: kinds[kind] for kind in _KINDS} | ranges))
            places = after
    for target, array in (
        (LINES, np.array(lines, np.int64)),
        (CODES, np.concatenate(codes)),
        (STARTS, np.concatenate([*starts, np.zeros(0, np.int64)])),
        (DATES, np.concatenate(dates)),
    ):
        with atomic_file(folder / target, binary=True) as file:
            np.save(file, array, allow_pickle=False)
    return tuple(fields)


def _kind(value: Scalar) -> int:
    return 0 if isinstance(value, bool) else 1 if isinstance(value, (int, float)) else 2


def _dates(values: Sequence[tuple[int, Scalar]]) -> Ints:
    """date_of() of each text: (T, 2); (0, 2) if no text is a date."""
    found = [date_of(str(value)) or (-1, -1) for kind, value in values if kind == 2]
    result = np.array(found, np.int64).reshape(-1, 2)
    return result if (result[:, 1] >= 0).any() else result[:0]


def _column(given: Sequence[tuple[int, Value]], count: int) -> tuple[list[tuple[int, Scalar]], Codes, Ints | None]:
    """(distinct (kind, value) in order, codes, starts of lists) of a field that some of N passages have."""
    is_list = any(isinstance(value, tuple) for _, value in given)
    items: list[tuple[int, Scalar]] = []
    counts = np.zeros(count, np.int64)
    for number, value in given:
        own = value if isinstance(value, tuple) else (value,)
        items += [(_kind(one), one) for one in own]
        counts[number] = len(own)
    values = sorted(set(items))
    codes = {value: code for code, value in enumerate(values)}
    numbers = np.array([codes[item] for item in items], np.int32)
    if is_list:
        return values, numbers, starts_of(counts)
    result = np.full(count, -1, np.int32)
    result[[number for number, _ in given]] = numbers
    return values, result, None


# --- reading


class Values(OnDemand[Scalar]):
    """The distinct values of a field, read from the file when they are asked for."""

    def __init__(self, lines: memoryview, starts: Ints) -> None:
        """lines: the file, with the lines of all fields. starts: (V + 1,) the byte at which each line begins."""
        self._lines = lines
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def item(self, place: int) -> Scalar:
        """The value with this number."""
        value: Scalar = json.loads(bytes(self._lines[self._starts[place] : self._starts[place + 1]]))
        return value


class Column:
    """One field of N passages."""

    def __init__(self, about: FieldColumns, values: Values, codes: Codes, starts: Ints | None, dates: Ints) -> None:
        """codes: (N,); for a field of lists (E,), with starts (N + 1,).

        dates: (T, 2) for the texts among the values; (0, 2) if none is a date.
        """
        self.name = about.name
        self.values = values
        self.codes = codes
        self.starts = starts
        ends = [about.flag, about.flag + about.number, about.flag + about.number + about.text]
        #: For flags, numbers and texts: the place of the first value, and the place after the last.
        self.ranges: list[tuple[int, int]] = list(zip([0, *ends[:2]], ends, strict=True))
        self.dates = dates

    def of(self, number: int) -> Value | None:
        """A passage's value, None if it has none."""
        if self.starts is None:
            code = int(self.codes[number])
            return None if code < 0 else self.values[code]
        own = self.codes[self.starts[number] : self.starts[number + 1]]
        return tuple(self.values[code] for code in own.tolist()) or None

    def has(self) -> Mask:
        """Which passages have the field: (N,)."""
        result: Mask = self.codes >= 0 if self.starts is None else np.diff(self.starts) > 0
        return result

    def passages(self, wanted: Mask) -> Mask:
        """Which passages have one of some values. wanted: (V,); returns (N,)."""
        if self.starts is None:
            return np.append(wanted, False)[self.codes]  # -1 is the last one
        found = np.concatenate([[0], np.cumsum(wanted[self.codes])])
        result: Mask = found[self.starts[1:]] > found[self.starts[:-1]]
        return result

    def seen(self, within: Mask | None) -> Codes:
        """The codes of some passages, -1 left out."""
        if within is None:
            codes = self.codes
        elif self.starts is None:
            codes = self.codes[within]
        else:
            codes = self.codes[np.repeat(within, np.diff(self.starts))]
        return codes[codes >= 0]

    def place(self, value: Scalar) -> int | None:
        """The number of a value, None if no passage has it."""
        low, high = self.ranges[_kind(value)]
        code = bisect_left(self.values, value, low, high)
        return code if code < high and self.values[code] == value else None


class Catalogue:
    """The fields of N passages, which filters look into."""

    def __init__(self, fields: Sequence[FieldColumns], size: int, folder: Path) -> None:
        # Plain views, because each slice of a numpy.memmap takes ten times as long.
        lines = np.memmap(folder / VALUES, np.uint8, mode="r").data if size else memoryview(b"")
        places, codes, starts, dates = (
            np.asarray(np.load(folder / name, mmap_mode="r" if size else None, allow_pickle=False))
            for name in (LINES, CODES, STARTS, DATES)
        )
        self.size = size
        self.columns: dict[str, Column] = {}
        for one in fields:
            values = Values(lines, places[one.values[0] : one.values[1] + 1])
            own = starts[slice(*one.starts)] if one.is_list else None
            self.columns[one.name] = Column(one, values, codes[slice(*one.codes)], own, dates[slice(*one.dates)])

    def of(self, number: int) -> dict[str, Value]:
        """The fields of a passage, without the document's id, for which a hit has a member of its own."""
        found = {name: column.of(number) for name, column in self.columns.items() if name != DOCUMENT}
        return {name: value for name, value in found.items() if value is not None}

    def fields(self, within: Mask | None = None) -> list[Field]:
        """The fields of the passages in `within`, or of all. Other passages' fields stay unknown to the caller."""
        found = [self._field(column, within) for column in self.columns.values()]
        return [one for one in found if one.passages]

    def _field(self, column: Column, within: Mask | None) -> Field:
        codes = column.seen(within)
        kinds = tuple(
            kind
            for kind, (low, high) in zip(_KINDS, column.ranges, strict=True)
            if high > low and bool(((codes >= low) & (codes < high)).any())
        )
        has = column.has()
        passages = int(np.count_nonzero(has if within is None else has & within))
        return Field(name=column.name, kinds=kinds, is_list=column.starts is not None, passages=passages)

    def values(self, name: str, within: Mask | None = None, most: int = 100) -> list[tuple[Scalar, int]]:
        """(value, passages) of the most frequent values of a field. Raises InputError if no passage has the field."""
        self._known(name, within)
        column = self.columns[name]
        counts = np.bincount(column.seen(within), minlength=len(column.values))
        best = np.argsort(-counts, kind="stable")[:most]
        return [(column.values[code], int(counts[code])) for code in best.tolist() if counts[code]]

    def allowed(self, wanted: Filter, within: Mask | None = None) -> Mask | None:
        """Which passages meet the conditions and are in `within`: (N,); None: all.

        Raises InputError for a wrong condition. Its message tells nothing of passages outside `within`.
        """
        result = within
        for condition in wanted.conditions:
            known = self._known(condition.field, within)
            meets = self._meets(condition, known, within)
            result = meets if result is None else result & meets
        return result

    def _known(self, name: str, within: Mask | None) -> Field:
        column = self.columns.get(name)
        known = None if column is None else self._field(column, within)
        if known is None or not (known.passages or name == DOCUMENT):
            raise InputError(f"There is no field {name[:100]!r}.", remedy=self._listed(within))
        return known

    def _listed(self, within: Mask | None) -> str:
        shown = [str(one) for one in self.fields(within)]
        more = len(shown) - _SHOWN_FIELDS
        return f"There are: {', '.join(shown[:_SHOWN_FIELDS])}{f' and {more:,} more' if more > 0 else ''}"

    def _meets(self, condition: Condition, known: Field, within: Mask | None) -> Mask:
        column = self.columns[condition.field]
        if condition.operator == "exists":
            has = column.has()
            return has if condition.values[0][0] else ~has
        wanted = np.zeros(len(column.values), bool)
        for readings in condition.values:
            if condition.operator == "contains":
                fits = self._contains(column, known, readings, wanted)
            elif condition.operator in ("=", "!="):
                fits = _equal(column, known, readings, wanted)
            else:
                fits = _compared(column, known, condition.operator, readings, wanted, within)
            if not fits:
                asks_text = condition.operator == "contains" and not known.is_list
                hint = (
                    f'":" is for lists and folders; a whole value is asked for with {known.name}=… '
                    if asks_text
                    else ""
                )
                raise InputError(
                    f"The condition {condition} does not fit the field {known}.", remedy=f"{hint}{self._listed(within)}"
                )
        meets = column.passages(wanted)
        return ~meets if condition.operator == "!=" else meets

    def _contains(self, column: Column, known: Field, readings: Sequence[Scalar], wanted: Mask) -> bool:
        if known.is_list:
            return _equal(column, known, readings, wanted)
        text = readings[0]
        if column.name != "folder" or not isinstance(text, str):
            return False
        low, high = column.ranges[2]
        _equal(column, known, readings, wanted)
        inside = (f"{text.rstrip('/')}/", f"{text.rstrip('/')}0") if text else ("", "\U0010ffff")  # "0" follows "/"
        wanted[bisect_left(column.values, inside[0], low, high) : bisect_left(column.values, inside[1], low, high)] = (
            True
        )
        return True


def _equal(column: Column, known: Field, readings: Sequence[Scalar], wanted: Mask) -> bool:
    """Mark a value. Returns whether one of its readings has a type that the field has."""
    fitting = [one for one in readings if _KINDS[_kind(one)] in known.kinds or column.name == DOCUMENT]
    for one in fitting:
        code = column.place(one)
        if code is not None:
            wanted[code] = True
    return bool(fitting)


def _compared(
    column: Column, known: Field, operator: str, readings: Sequence[Scalar], wanted: Mask, within: Mask | None
) -> bool:
    """Mark the values of a range. Returns whether a reading has a type that the field has."""
    fits = False
    for one in readings:
        if isinstance(one, str):
            fits |= "text" in known.kinds and _dates_compared(column, operator, one, wanted, within)
        elif not isinstance(one, bool) and "number" in known.kinds:
            low, high = column.ranges[1]
            left, right = (side(column.values, one, low, high) for side in (bisect_left, bisect_right))
            start, stop = {"<": (low, left), "<=": (low, right), ">": (right, high), ">=": (left, high)}[operator]
            wanted[start:stop] = True
            fits = True
    return fits


def _dates_compared(column: Column, operator: str, text: str, wanted: Mask, within: Mask | None) -> bool:
    date = date_of(text)
    low, high = column.ranges[2]
    if date is None or not len(column.dates):
        return False
    is_date = column.dates[:, 1] >= 0
    seen = np.zeros(len(column.values), bool)
    seen[column.seen(within)] = True
    if not (seen[low:high] & is_date).any():
        return False  # the same answer whether or not passages outside `within` have dates
    first, after = date
    starts = column.dates[:, 0]
    bound = first if operator in ("<", ">=") else after
    meets = starts < bound if operator in ("<", "<=") else starts >= bound
    wanted[low:high] |= is_date & meets
    return True
