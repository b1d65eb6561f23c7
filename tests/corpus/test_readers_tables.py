"""Spreadsheets and delimited files: every row names its columns, whatever the file's size and shape."""

from __future__ import annotations

import datetime
import io
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.chart import BarChart
from openpyxl.comments import Comment

from embedfit.corpus.blocks import Block, ParsedDocument, UnreadableDocument
from embedfit.corpus.readers.office import xlsx
from embedfit.corpus.readers.office.xlsx import read_xlsx
from embedfit.corpus.readers.tables import record_blocks
from embedfit.corpus.readers.texts import delimited
from embedfit.corpus.readers.texts.delimited import read_delimited


def lines(parsed: ParsedDocument) -> list[str]:
    return [line for block in parsed.blocks for line in block.text.split("\n")]


def records(*rows: tuple[str, ...]) -> list[str]:
    return [line for block in record_blocks(rows) for line in block.text.split("\n")]


def test_rows_name_their_columns() -> None:
    assert records(("question", "answer"), ("How?", "So."), ("Why?", "")) == [
        "question: How?; answer: So.",
        "question: Why?",
    ]
    assert records(("part", "", "price"), ("pump", "red", "3")) == ["part: pump; red; price: 3"]
    assert records(("part", "price"), ("pump", "3", "extra")) == ["part: pump; price: 3; extra"]


@pytest.mark.parametrize(
    "first",
    [("How do I descale it?", "With vinegar."), ("1", "2"), ("2024-05-01", "cost"), ("same", "same"), ("x" * 90, "y")],
)
def test_a_first_row_of_values_is_no_header(first: tuple[str, ...]) -> None:
    assert records(first, ("a", "b")) == [" | ".join(first), "a | b"]


def test_titles_above_the_header_are_kept() -> None:
    rows = [("Prices 2024",), (), ("in euros", ""), ("part", "price", "shop"), ("pump", "3", "Oslo")]
    assert records(*rows) == ["Prices 2024", "in euros", "part: pump; price: 3; shop: Oslo"]


def test_a_single_row_and_a_single_column_lose_nothing() -> None:
    assert records(("part", "price")) == ["part | price"]
    assert records(("one",), ("two",)) == ["one", "two"]
    assert records() == []


def test_long_sheets_are_many_blocks() -> None:
    blocks = list(record_blocks([("name", "place"), *((f"name {n}", f"place {n}") for n in range(1000))]))
    assert len(blocks) > 20 and all(len(block.text) < 1200 for block in blocks)
    assert all(line.startswith("name: ") for block in blocks for line in block.text.split("\n"))


def workbook(path: Path, *, name: str = "a.xlsx") -> tuple[openpyxl.Workbook, Path]:
    return openpyxl.Workbook(), path / name


def test_xlsx_values_sheets_and_types(tmp_path: Path) -> None:
    book, path = workbook(tmp_path, name="a.xlsm")
    sheet = book.active
    sheet.title = "Spare parts"
    sheet.append(["Price list"])
    sheet.merge_cells("A1:F1")
    sheet.append(["part", "price", "since", "share", "left", "in stock"])
    sheet.append(["Valve,\nred", 12.5, datetime.date(2024, 5, 1), 0.25, 0.1 + 0.2, True])
    sheet["D3"].number_format = "0%"
    sheet.append(["Pump", 3, datetime.datetime(2024, 5, 1, 8, 30), None, "=1/0", datetime.time(9, 30)])
    hidden = book.create_sheet("Hidden")
    hidden.sheet_state = "hidden"
    hidden.append(["How?", "So."])
    book.create_sheet("Empty")
    book.save(path)
    assert lines(read_xlsx(path)) == [
        "Spare parts",
        "Price list",
        "part: Valve, red; price: 12.5; since: 2024-05-01; share: 25%; left: 0.3; in stock: TRUE",
        "part: Pump; price: 3; since: 2024-05-01 08:30:00; in stock: 09:30:00",
        "Hidden",
        "How? | So.",
    ]
    assert [block.text for block in read_xlsx(path).blocks if block.kind == "heading"] == ["Spare parts", "Hidden"]


def test_xlsx_whatever_its_name(tmp_path: Path) -> None:
    book, path = workbook(tmp_path)
    book.active.append(["pump", "screw"])
    book.save(path)
    for name in ("report", "report.dat", "report.XLSX"):
        assert lines(read_xlsx(path.rename(path.with_name(name)))) == ["pump | screw"]
        path = path.with_name(name)


def test_xlsx_says_which_values_are_not_there(tmp_path: Path) -> None:
    book, path = workbook(tmp_path)
    sheet = book.active
    for row in (["part", "price"], ["pump", "=1+1"], ["screw", "#N/A"], ["nut", "#REF!"], ["bolt", "#N/A"], ["cap", 3]):
        sheet.append(row)
    sheet["A6"].comment = Comment("Ask the foundry", "me")
    chart = BarChart()
    chart.title = "Prices by part"
    book.create_chartsheet("Chart").add_chart(chart)
    book.save(path)
    parsed = read_xlsx(path)
    assert parsed.note == (
        "1 formula has no stored value: save the workbook in a spreadsheet program; "
        "3 cells left out that hold an error (#N/A, #REF!)"
    )
    assert [(one.reason, one.preview) for one in parsed.removed] == [("comment", "Ask the foundry")]
    assert parsed.blocks[-1] == Block(kind="text", text="Prices by part")


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        ("<c r='A1'><f>1+1</f><v>2</v></c>", 0), ("<c r='A1'><f>1+1</f></c>", 1), ("<c r='A1'><f>1</f><v/></c>", 1),
        ("<c><f t='shared' si='0'/><v></v></c>", 1), ("<x:c><x:f>1</x:f></x:c>", 1), ("<c><v>1</v></c>", 0),
    ],
)  # fmt: skip
def test_formulas_without_value_are_counted_wherever_the_pieces_end(cell: str, count: int) -> None:
    sheet = (f"<row>{cell * 40}</row>" * 3).encode()
    for size in (7, 64, 1 << 16):
        pieces = [sheet[start : start + size] for start in range(0, len(sheet), size)]
        assert xlsx._formulas_without_value(pieces) == 120 * count


def test_xlsx_with_far_away_cells(tmp_path: Path) -> None:
    book, path = workbook(tmp_path)
    sheet = book.active
    sheet["A1"] = "near"
    sheet["XFD2"] = "far right"
    sheet.cell(1_048_576, 1, "far down")
    book.save(path)
    assert read_xlsx(path).blocks == (Block(kind="table", text="near\nfar right\nfar down"),)


def test_xlsx_with_too_many_cells_says_how_far_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "_MAX_CELLS", 25 * (2 + 4))
    book, path = workbook(tmp_path)
    for number in range(100):
        book.active.append([f"word {number}", "x"])
    book.save(path)
    parsed = read_xlsx(path)
    assert parsed.note == "read up to row 25 of sheet 'Sheet'"
    assert len(lines(parsed)) == 25 - 1  # the first is their header


def test_xlsx_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MAX_BYTES", 1000)
    book, path = workbook(tmp_path)
    book.save(path)
    with pytest.raises(UnreadableDocument, match="unpacks to more than"):
        read_xlsx(path)


@pytest.fixture(scope="module")
def whole() -> bytes:
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for number in range(30):
        book.active.append([f"word {number}", number])
    book.save(stream)
    return stream.getvalue()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_workbooks_are_listed_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.xlsx"
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    path.write_bytes(
        whole[:place] + (b"" if cut else data.draw(st.binary(min_size=1, max_size=8)) + whole[place + 8 :])
    )
    try:
        read_xlsx(path)
    except UnreadableDocument as error:
        assert str(error)


def csv_of(tmp_path: Path, text: str, *, name: str = "a.csv", encoding: str = "utf-8") -> ParsedDocument:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return read_delimited(path)


FAQ = 'question,answer\nHow do I descale the kettle?,"Fill it with vinegar,\nand wait ""an hour""."\nWhy?,So.\n'
READ = [
    'question: How do I descale the kettle?; answer: Fill it with vinegar, and wait "an hour".',
    "question: Why?; answer: So.",
]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_with_quoted_line_ends(tmp_path: Path, encoding: str, line_end: str) -> None:
    assert lines(csv_of(tmp_path, FAQ.replace("\n", line_end), encoding=encoding)) == READ


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a;b;c\n1,5;2,5;red\n3,0;4,1;blue\n", "a.csv"),
        ("sep=;\na;b;c\n1,5;2,5;red\n3,0;4,1;blue\n", "a.csv"),
        ("a\tb\tc\n1,5\t2,5\tred\n3,0\t4,1\tblue\n", "a.tsv"),
        ("a\tb\tc\n1,5\t2,5\tred\n3,0\t4,1\tblue\n", "a.csv"),
        ("a|b|c\n1,5|2,5|red\n3,0|4,1|blue\n", "a.csv"),
    ],
)
def test_delimiters(tmp_path: Path, text: str, name: str) -> None:
    assert lines(csv_of(tmp_path, text, name=name)) == ["a: 1,5; b: 2,5; c: red", "a: 3,0; b: 4,1; c: blue"]


def test_a_quote_without_a_partner_swallows_no_rows(tmp_path: Path) -> None:
    text = 'part\tsize\n"pump\t5\nvalve\t6\nhose\t7\n'
    assert lines(csv_of(tmp_path, text, name="a.tsv")) == [
        'part: "pump; size: 5', "part: valve; size: 6", "part: hose; size: 7"
    ]  # fmt: skip


def test_csv_of_many_characters_says_how_far_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_MAX_CHARACTERS", 1000)
    parsed = csv_of(tmp_path, "part,size\n" + "pump,large\n" * 200)
    assert parsed.note == f"the first {len(lines(parsed)) + 1} rows were read"
    assert 90 < len(lines(parsed)) < 120


@given(text=st.text('abcäж漢 ,;\t|"\n', max_size=300))
@settings(max_examples=80, deadline=None)
def test_any_text_as_csv_keeps_its_words(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(f"sep=,\nname,place\n{text}\n", encoding="utf-8")
    try:
        found = "".join("".join(line) for line in lines(read_delimited(path)))
    except UnreadableDocument:
        return
    for word in text.replace('"', " ").replace(",", " ").split():
        assert "".join(filter(str.isalnum, word)) in "".join(filter(str.isalnum, found))
