"""PowerPoint files: titles, groups, tables, charts, notes, hidden slides; what stands on every slide is left out."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pptx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.readers.office.pptx import read_pptx


def deck() -> bytes:
    result = pptx.Presentation()
    first, second = (result.slides.add_slide(result.slide_layouts[1]) for _ in range(2))
    place = (Inches(1), Inches(1), Inches(3), Inches(1))
    first.shapes.title.text = "The crane\nof the harbour"
    first.placeholders[1].text = "It lifts\ntwelve tonnes."
    first.shapes.add_group_shape().shapes.add_group_shape().shapes.add_textbox(*place).text_frame.text = "In a group."
    table = first.shapes.add_table(2, 2, *place).table
    for row, values in enumerate((("wind", "work"), ("forty knots", "none"))):
        for column, value in enumerate(values):
            table.cell(row, column).text = value
    data = CategoryChartData()
    data.categories = ["East quay", "West quay"]
    data.add_series("Cranes", (1, 2))
    chart = first.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *place, data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "Cranes by quay"
    first.notes_slide.notes_text_frame.text = "Mention the brakes."
    second.shapes.title.text = "Hidden"
    second._element.set("show", "0")
    second.placeholders[1].text = "Costs of the repair."
    stream = io.BytesIO()
    result.save(stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def whole() -> bytes:
    return deck()


def test_all_that_a_slide_shows(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "a.pptx").write_bytes(whole)
    parsed = read_pptx(tmp_path / "a.pptx")
    assert [(block.page, block.text) for block in parsed.blocks] == [
        (1, "The crane of the harbour"), (1, "• It lifts"), (1, "• twelve tonnes."), (1, "• In a group."),
        (1, "wind | work\nforty knots | none"), (1, "Cranes by quay"), (1, "Cranes"), (1, "East quay"),
        (1, "West quay"), (1, "Mention the brakes."), (2, "Hidden"), (2, "• Costs of the repair."),
    ]  # fmt: skip
    assert parsed.pages == 2 and parsed.note == ""


def test_footers_are_listed_and_missing_slides_are_noted(tmp_path: Path, whole: bytes) -> None:
    footer = (
        '<p:sp><p:nvSpPr><p:nvPr><p:ph type="{}"/></p:nvPr></p:nvSpPr>'
        "<p:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:txBody></p:sp>"
    )
    source = zipfile.ZipFile(io.BytesIO(whole))
    with zipfile.ZipFile(tmp_path / "a.pptx", "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name == "ppt/slides/slide1.xml":
                more = footer.format("ftr", "Acme Ltd") + footer.format("sldNum", "1") + "</p:spTree>"
                content = content.replace(b"</p:spTree>", more.encode())
            if name != "ppt/slides/slide2.xml":
                archive.writestr(name, content)
    parsed = read_pptx(tmp_path / "a.pptx")
    assert [(one.page, one.reason, one.preview) for one in parsed.removed] == [(1, "running footer", "Acme Ltd")]
    assert parsed.note == "1 slide missing in the file"
    assert not any(block.text in ("Acme Ltd", "• 1") for block in parsed.blocks)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_files_are_listed_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pptx"
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    path.write_bytes(
        whole[:place] + (b"" if cut else data.draw(st.binary(min_size=1, max_size=8)) + whole[place + 8 :])
    )
    try:
        read_pptx(path)
    except UnreadableDocument as error:
        assert str(error)
