"""Filters: what people write becomes conditions, and the columns of an index say who meets them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.errors import InputError
from embedfit.index.store.columns import Catalogue, joined, write_columns
from embedfit.index.store.filters import OPERATORS, Filter, date_of, filter_of, of_documents
from embedfit.path.artefacts import Metadata, Passage

ROWS: list[dict[str, Any]] = [
    {"lang": "de", "year": 2023, "date": "2023-12-31", "groups": ("hr", "all"), "folder": "a", "open": True},
    {"lang": "en", "year": 2024, "date": "2024-01-01T10:00:00+02:00", "groups": ("all",), "folder": "a/b"},
    {"lang": "de", "year": 2024.5, "date": "2024-02", "groups": ("it",), "folder": "ab", "code": "2024"},
    {"lang": "fr", "date": "soon", "folder": "", "open": False, "code": 2024},
    {},
]


def passages(count: int) -> list[Passage]:
    return [Passage(passage_id=str(n), document_id=f"doc{n // 2}", title="", text=str(n)) for n in range(count)]


def catalogue(folder: Path, rows: list[dict[str, Any]]) -> Catalogue:
    folder.mkdir(exist_ok=True)
    fields = write_columns(folder, passages(len(rows)), rows)
    return Catalogue(fields, len(rows), folder)


@pytest.fixture
def known(tmp_path: Path) -> Catalogue:
    return catalogue(tmp_path / "columns", ROWS)


def found(known: Catalogue, where: Any, within: list[int] | None = None) -> list[int]:
    mask = None if within is None else np.isin(np.arange(known.size), within)
    allowed = known.allowed(filter_of(where), mask)
    return list(range(known.size)) if allowed is None else np.flatnonzero(allowed).tolist()


@pytest.mark.parametrize(
    ("expression", "condition", "expected"),
    [
        ("lang=de", {"lang": "de"}, [0, 2]),
        ("lang==de", {"lang": {"=": "de"}}, [0, 2]),
        ("lang=de|fr", {"lang": ["de", "fr"]}, [0, 2, 3]),
        ("lang!=de", {"lang": {"!=": "de"}}, [1, 3, 4]),
        ("lang!=de|fr", {"lang": {"!=": ["de", "fr"]}}, [1, 4]),
        ("lang=xx", {"lang": "xx"}, []),
        ("lang=*", {"lang": {"exists": True}}, [0, 1, 2, 3]),
        ("lang!=*", {"lang": {"exists": False}}, [4]),
        ("year=2024", {"year": 2024}, [1]),
        ("year>=2024", {"year": {">=": 2024}}, [1, 2]),
        ("year>2024", {"year": {">": 2024}}, [2]),
        ("year<2024", {"year": {"<": 2024.0}}, [0]),
        ("year<=2024", {"year": {"<=": 2024}}, [0, 1]),
        ("date>=2024-01-01", {"date": {">=": "2024-01-01"}}, [1, 2]),
        ("date>=2024", {"date": {">=": "2024"}}, [1, 2]),
        ("date<2024", {"date": {"<": "2024"}}, [0]),
        ("date<=2023", {"date": {"<=": "2023"}}, [0]),
        ("date<=2024-01", {"date": {"<=": "2024-01"}}, [0, 1]),
        ("date>2024-01", {"date": {">": "2024-01"}}, [2]),
        ("date=2024-01-01T08:00:00Z", {"date": "2024-01-01T08:00:00Z"}, []),
        ("date>=2024-01-01T08:00:00Z", {"date": {">=": "2024-01-01T08:00:00Z"}}, [1, 2]),
        ("date>2024-01-01T08:00:00Z", {"date": {">": "2024-01-01T08:00:00Z"}}, [2]),
        ("groups:hr", {"groups": {"contains": "hr"}}, [0]),
        ("groups=hr", {"groups": "hr"}, [0]),
        ("groups:hr|it", {"groups": {"contains": ["hr", "it"]}}, [0, 2]),
        ("groups!=all", {"groups": {"!=": "all"}}, [2, 3, 4]),
        ("folder:a", {"folder": {"contains": "a"}}, [0, 1]),
        ("folder:a/", {"folder": {"contains": "a/"}}, [1]),
        ("folder=a", {"folder": "a"}, [0]),
        ("folder=", {"folder": ""}, [3]),
        ("folder:", {"folder": {"contains": ""}}, [0, 1, 2, 3]),
        ("open=true", {"open": True}, [0]),
        ("code=2024", None, [2, 3]),
        ('code="2024"', {"code": "2024"}, [2]),
        (None, {"code": 2024}, [3]),
        ('"lang" = "de"', {"lang": "de"}, [0, 2]),
        ("document=doc0", {"document": "doc0"}, [0, 1]),
        ("document=none", {"document": "none"}, []),
    ],
)
def test_conditions(known: Catalogue, expression: str | None, condition: Any, expected: list[int]):
    if expression is not None:
        assert found(known, expression) == expected
        assert found(known, [expression]) == expected
    if condition is not None:
        assert found(known, condition) == expected


def test_several_conditions_hold_together(known: Catalogue):
    assert found(known, ["lang=de", "year>2023"]) == [2]
    assert found(known, {"lang": "de", "year": {">": 2022, "<": 2024}}) == [0]
    assert found(known, None) == found(known, {}) == found(known, []) == [0, 1, 2, 3, 4]
    both = filter_of("lang=de").and_also(of_documents(["doc0", "unknown"]))
    assert found(known, both) == [0]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"nothing": 1}, "no field 'nothing'"),
        ({"nothing": {"exists": False}}, "no field 'nothing'"),
        ({"year": "2024"}, "does not fit the field year (numbers)"),
        ({"lang": 3}, "does not fit the field lang (texts)"),
        ({"lang": {">": 3}}, "does not fit"),
        ({"lang": {">": "2024"}}, "does not fit"),
        ({"year": {">": "2024-01-01"}}, "does not fit"),
        ({"lang": {"contains": "d"}}, "does not fit the field lang (texts)"),
        ({"open": 1}, "does not fit"),
        ({"year": True}, "does not fit"),
    ],
)
def test_what_does_not_fit_the_index_lists_its_fields(known: Catalogue, where: Any, why: str):
    with pytest.raises(InputError) as error:
        found(known, where)
    assert why in error.value.message
    assert error.value.remedy is not None
    for name in ("document (texts)", "lang (texts)", "year (numbers)", "groups (lists of texts)", "open (flags)"):
        assert name in error.value.remedy


def nested(around: Callable[[Any], Any]) -> Any:
    """A value in 5,000 others."""
    value: Any = "x"
    for _ in range(5_000):
        value = around(value)
    return value


@pytest.mark.parametrize(
    "where",
    [
        3, True, [1], [["lang=de"]], {"lang": []}, {"lang": {}}, {"lang": {"or": "de"}}, {"lang": {"$in": ["de"]}},
        {"lang": None}, {"lang": [None]}, {"lang": [["de"]]}, {"lang": {"=": {"x": 1}}}, {"lang": {"exists": 1}},
        {"lang": {"exists": [True]}}, {"lang": float("nan")}, {"year": {">": [1, 2]}}, {"year": {">": True}},
        {"date": {">": "soon"}}, {1: "de"}, {"": 1}, {"lang": "x" * 1001}, {"lang": ["x"] * 1001},
        {str(n): 1 for n in range(65)}, {**{str(n): 1 for n in range(60)}, "x": {one: "2024" for one in OPERATORS[:6]}},
        "lang", "", "=de", "lang~de", 'lang="de', 'lang="de" x', '"lang=de', "year>", "year>a", "date>=2024-13-01",
        ["lang=de"] * 65, "lang=" + "|".join(["x"] * 1001), 'lang="\\q"', {"lang": "\ud800"}, {"a\udfff": 1},
        'lang="\\ud800"', {"year": 10**309}, nested(lambda one: {"=": one}), nested(lambda one: [one]),
        [nested(lambda one: [one])], {"year": nested(lambda one: {"x": one})},
    ],
)  # fmt: skip
def test_what_is_no_filter(where: Any):
    with pytest.raises(InputError):
        filter_of(where)


def test_of_other_passages_a_restricted_view_says_nothing(tmp_path: Path):
    rows = [{"lang": "de", "x": 1, "tags": ("a",)}, {"lang": "en", "x": "secret", "hidden": 1, "when": "2024-01-01"},
            {"lang": "de", "x": 2, "when": "never"}]  # fmt: skip
    known = catalogue(tmp_path / "columns", rows)
    within = np.array([True, False, True])
    assert {one.name: (one.kinds, one.passages) for one in known.fields(within)} == {
        "document": (("text",), 2), "lang": (("text",), 2), "x": (("number",), 2), "tags": (("text",), 1),
        "when": (("text",), 1),
    }  # fmt: skip
    assert known.values("lang", within) == [("de", 2)]
    assert found(known, "lang!=de", [0, 2]) == []
    for where in ({"hidden": 1}, {"hidden": {"exists": False}}, {"x": "secret"}, {"when": {">": "2020"}}):
        with pytest.raises(InputError) as error:
            found(known, where, [0, 2])
        assert "hidden" not in str(error.value.remedy) and "numbers or texts" not in str(error.value.remedy)
    with pytest.raises(InputError) as same:
        known.values("hidden", within)
    with pytest.raises(InputError) as unknown:
        known.values("unknow", within)
    assert same.value.message.replace("hidden", "unknow") == unknown.value.message
    assert same.value.remedy == unknown.value.remedy


# --- against a plain loop

scalars = st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 2.5]) | st.sampled_from(
    ["", "a", "b", "1", "2023", "2024-01", "2024-01-15", "true", "é"])  # fmt: skip
lists = st.lists(st.sampled_from(["a", "b", "1"]), min_size=1, max_size=3, unique=True).map(tuple)
rows = st.lists(st.dictionaries(st.sampled_from(["f", "g"]), scalars | lists, max_size=2), min_size=1, max_size=8)


def same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and isinstance(one, str) == isinstance(other, str) and (
        one == other)  # fmt: skip


def meets(row: dict[str, Any], operator: str, value: Any) -> bool:
    if "f" not in row:
        return operator == "!="
    items = row["f"] if isinstance(row["f"], tuple) else (row["f"],)
    if operator in ("=", "!=", "contains"):
        return any(same(item, value) for item in items) != (operator == "!=")
    if isinstance(value, str):
        spans = [date_of(item) for item in items if isinstance(item, str)]
        first, after = date_of(value) or (0, 0)
        return any(
            {"<": span[0] < first, "<=": span[0] < after, ">": span[0] >= after, ">=": span[0] >= first}[operator]
            for span in spans
            if span
        )
    numbers = [item for item in items if not isinstance(item, (str, bool))]
    return any({"<": n < value, "<=": n <= value, ">": n > value, ">=": n >= value}[operator] for n in numbers)


@given(rows=rows, operator=st.sampled_from(OPERATORS[:7]), value=scalars)
@settings(max_examples=300)
def test_columns_find_what_a_plain_loop_finds(tmp_path_factory, rows, operator, value):
    known = catalogue(tmp_path_factory.mktemp("columns"), rows)
    for number, row in enumerate(rows):
        back = known.of(number)
        assert set(back) == set(row)
        assert all(back[name] == row[name] or back[name] == (row[name],) for name in row)
    try:
        allowed = known.allowed(filter_of({"f": {operator: value}}))
    except InputError:
        return
    assert allowed is not None
    assert allowed.tolist() == [meets(row, operator, value) for row in rows]


@given(st.text(max_size=40))
def test_any_expression_is_a_filter_or_an_error(text: str):
    try:
        assert isinstance(filter_of(text), Filter)
    except InputError:
        pass


@given(st.dates(), st.dates())
def test_dates_compare_as_days(one: date, other: date):
    a, b = date_of(one.isoformat()), date_of(other.isoformat())
    assert a and b
    assert (a[0] < b[0]) == (one < other) and (a[1] <= b[0]) == (one < other)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.integers(-12 * 60, 14 * 60))
def test_times_compare_as_moments(moment: datetime, minutes: int):
    there = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    here = there.astimezone(timezone.utc)
    assert date_of(there.isoformat()) == date_of(here.isoformat().replace("+00:00", "Z"))


@pytest.mark.parametrize("text", ["", "24", "2024-1-1", "2024-13", "2024-02-30", "2024-01-01T25:00", "x2024", "2024-"])
def test_what_is_no_date(text: str):
    assert date_of(text) is None


def test_a_passage_has_its_own_fields_over_its_document_s():
    both = [Metadata(document_id="doc0", values={"a": 1, "b": 1}),
            Metadata(document_id="doc0", passage_id="1", values={"b": 2})]  # fmt: skip
    assert joined(passages(3), both) == [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {}]


def test_no_passage_has_no_fields(tmp_path: Path):
    assert catalogue(tmp_path / "columns", []).fields() == []
