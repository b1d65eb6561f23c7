"""Documents of a BEIR corpus."""

from __future__ import annotations

from embedfit.corpus.grouping import group_records


def test_by_title() -> None:
    ids = ["Super_Bowl_50-0", "Super_Bowl_50-1", "Oxygen-0", "Oxygen-1"]
    assert group_records(ids, ["Super Bowl 50"] * 2 + ["Oxygen"] * 2) == ["Super_Bowl_50"] * 2 + ["Oxygen"] * 2


def test_by_title_without_ids_that_say_more() -> None:
    assert group_records(["1", "2", "3", "4"], ["A b", "A b", "C d", "C d"]) == ["A b", "A b", "C d", "C d"]


def test_by_prefix() -> None:
    assert group_records(["0-0", "0-1", "1-0", "1-1"], [""] * 4) == ["0", "0", "1", "1"]
    ids = [f"{device}_section_{number}" for device in ("tv", "s10") for number in range(3)]
    assert group_records(ids, [f"Title {number}" for number in range(6)]) == ["tv_section"] * 3 + ["s10_section"] * 3


def test_records_without_structure_are_documents() -> None:
    ids = ["4983", "5836", "7912"]
    assert group_records(ids, ["One", "Two", "Three"]) == ids
    assert group_records(["doc-1", "doc-2", "doc-3"], [""] * 3) == ["doc-1", "doc-2", "doc-3"], (
        "one prefix says nothing"
    )
    assert group_records([], []) == []
