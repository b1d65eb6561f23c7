"""PDFs: what a person would read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from fpdf.enums import AccessPermission

from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.readers.pdf.furniture import Line, without_contents, without_running_lines
from embedfit.corpus.readers.pdf.layout import blocks_of
from embedfit.corpus.readers.pdf.reader import read_pdf

from .conftest import Pdf, make_png, story, write_pdf


def text_of(path: Path) -> str:
    return "\n".join(block.text for block in read_pdf(path).blocks)


def test_headings_paragraphs_and_pages(tmp_path: Path) -> None:
    parsed = read_pdf(write_pdf(tmp_path / "a.pdf"))
    headings = [block for block in parsed.blocks if block.kind == "heading"]
    assert [block.text for block in headings][:2] == ["Chapter 1: The ferry", "Chapter 2: The lantern"]
    assert len(headings) == 12 and {block.level for block in headings} == {1}
    texts = [block.text for block in parsed.blocks if block.kind == "text"]
    assert texts == [text for number in range(12) for text in (story(number), story(number + 40))]
    assert parsed.pages > 2 and parsed.note == ""
    pages = [block.page for block in parsed.blocks]
    assert pages == sorted(pages) and pages[0] == 1 and parsed.blocks[-1].breaks[0][1] == parsed.pages


def test_running_headers_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", paragraphs=16, running_header="ACME Manual, confidential", numbered=True)
    parsed = read_pdf(path)
    assert "confidential" not in text_of(path) and "Page 2" not in text_of(path)
    assert {one.preview for one in parsed.removed} == {"ACME Manual, confidential", "Page 1"}
    assert all(one.reason.startswith("running header or footer") for one in parsed.removed)


def test_a_paragraph_goes_on_over_the_page_and_knows_where(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.numbered = True
    pdf.add_page()
    for number in range(6):
        pdf.paragraph(story(number))
    pdf.paragraph(" ".join(story(number) for number in range(10, 30)))
    pdf.output(str(tmp_path / "a.pdf"))
    last = read_pdf(tmp_path / "a.pdf").blocks[-1]
    assert last.text == " ".join(story(number) for number in range(10, 30))
    assert last.page == 1
    offsets = [offset for offset, _ in last.breaks]
    assert [page for _, page in last.breaks] == list(range(2, 2 + len(offsets))) and offsets == sorted(offsets)


def test_hyphenation_at_line_ends(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.add_page()
    pdf.paragraph("Information about forward-looking statements is information about statements that look forward.")
    pdf.lines("This paragraph has some infor-", "mation about forward-", "looking plans and ends here.")
    pdf.output(str(tmp_path / "a.pdf"))
    assert "some information about forward-looking plans and ends here." in text_of(tmp_path / "a.pdf")


def test_table_of_contents_is_left_out(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.add_page()
    pdf.heading("Contents")
    pdf.lines(*(f"Chapter {number} {'.' * 40} {number * 3}" for number in range(1, 13)))
    pdf.add_page()
    for number in range(1, 6):
        pdf.heading(f"Chapter {number}")
        pdf.paragraph(story(number))
    pdf.output(str(tmp_path / "a.pdf"))
    parsed = read_pdf(tmp_path / "a.pdf")
    assert "....." not in text_of(tmp_path / "a.pdf") and story(1) in text_of(tmp_path / "a.pdf")
    assert [one.reason for one in parsed.removed] == ["table of contents"]


def test_rows_of_a_table_stay_rows(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.add_page()
    for number in range(3):
        pdf.paragraph(story(number))
    for name, *values in (
        ("Revenue", "3,208", "2,365"),
        ("Cost of sales", "1,702", "1,447"),
        ("Net loss", "(1,009)", "(1,753)"),
    ):
        pdf.cell(100, 6, name)
        for value in values:
            pdf.cell(35, 6, value, align="R")
        pdf.ln(6)
    pdf.output(str(tmp_path / "a.pdf"))
    table = [block for block in read_pdf(tmp_path / "a.pdf").blocks if block.kind == "table"]
    assert [block.text for block in table] == [
        "Revenue 3,208 2,365\nCost of sales 1,702 1,447\nNet loss (1,009) (1,753)"
    ]


def test_bullets_are_items(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.add_page()
    pdf.paragraph(story(1))
    for number in range(3):
        pdf.paragraph(
            f"- item number {number} of the list, which is long enough that it needs a second line to be set in full"
        )
    pdf.output(str(tmp_path / "a.pdf"))
    items = [block.text for block in read_pdf(tmp_path / "a.pdf").blocks if block.kind == "item"]
    assert len(items) == 3 and all(item.endswith("set in full") for item in items)


def encrypted(path: Path, user_password: str) -> Path:
    pdf = Pdf()
    pdf.set_encryption("owner", user_password or None, permissions=AccessPermission.none())
    pdf.add_page()
    pdf.paragraph(story(1))
    pdf.output(str(path))
    return path


def test_an_empty_password_is_no_obstacle(tmp_path: Path) -> None:
    assert text_of(encrypted(tmp_path / "a.pdf", "")) == story(1)


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7\n", b"not a pdf at all"])
def test_what_is_no_pdf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    with pytest.raises(UnreadableDocument, match="not a readable PDF"):
        read_pdf(path)


def test_password(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="protected by a password"):
        read_pdf(encrypted(tmp_path / "a.pdf", "secret"))


def test_images_only(tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(make_png())
    pdf = Pdf()
    for _ in range(2):
        pdf.add_page()
        pdf.image(str(tmp_path / "scan.png"), w=150)
    pdf.output(str(tmp_path / "a.pdf"))
    with pytest.raises(UnreadableDocument, match="no text in its 2 pages, only images: run OCR"):
        read_pdf(tmp_path / "a.pdf")


def test_cut_in_half(tmp_path: Path) -> None:
    whole = write_pdf(tmp_path / "a.pdf", paragraphs=30).read_bytes()
    (tmp_path / "half.pdf").write_bytes(whole[: len(whole) // 2])
    try:
        parsed = read_pdf(tmp_path / "half.pdf")
    except UnreadableDocument as error:
        assert "cut short" in str(error)
    else:
        assert "cut short" in parsed.note


# --- the layout rules alone


def page(number: int, *texts: str, top: float = 700) -> list[Line]:
    return [
        Line(text=text, page=number, x0=50, x1=50 + 5 * len(text), y=top - 12 * place, size=10)
        for place, text in enumerate(texts)
    ]


def test_running_lines_need_to_stand_at_one_height() -> None:
    pages = [
        page(number, "The same words begin each page", f"and text {number} follows", top=700 - 30 * number)
        for number in range(1, 8)
    ]
    kept, removed = without_running_lines(pages)
    assert kept == pages and removed == []


def test_digits_of_running_lines_may_differ() -> None:
    texts = ("Alpha beta.", "Gamma delta.", "Epsilon zeta.", "Eta theta.", "Iota kappa.")
    pages = [
        page(number, f"Annual Report 2021 | {number}", text, "x", "y", "z", "w", "v")
        for number, text in enumerate(texts, 1)
    ]
    kept, _ = without_running_lines(pages)
    assert [lines[0].text for lines in kept] == list(texts)


def test_a_table_of_one_number_a_row_is_no_table_of_contents() -> None:
    rows = page(
        1, "Income of the year", "Sales 461", "Costs 229", "Interest 695", "Taxes 432", "Other 147", "Total 608"
    )
    kept, removed = without_contents([rows])
    assert kept == [rows] and removed == []


def test_lines_without_places_are_still_text() -> None:
    lines = [Line(text="First line of text", page=1), Line(text="and the second one.", page=1)]
    blocks, _ = blocks_of([lines])
    assert [block.text for block in blocks] == ["First line of text and the second one."]


def test_no_pages() -> None:
    assert blocks_of([]) == ((), ())
    assert blocks_of([[], []]) == ((), ())


# --- real filings


def test_the_filing_of_lyft(data_dir: Path) -> None:
    parsed = read_pdf(data_dir / "10k" / "lyft_2021.pdf")
    headings = {block.text for block in parsed.blocks if block.kind == "heading"}
    assert parsed.pages == 238 and parsed.note == ""
    assert {"PART I", "Item 1. Business.", "Item 1A. Risk Factors.", "Our Mission", "Human Capital"} <= headings
    text = "\n".join(block.text for block in parsed.blocks)
    assert "reflected in the forward-looking statements will be achieved" in text
    assert "\ufffe" not in text and "\u00ad" not in text
    assert "Table of Contents" in {one.preview for one in parsed.removed}
    rows = [line for block in parsed.blocks if block.kind == "table" for line in block.text.split("\n")]
    assert "Stock-based compensation 724.6 565.8 1,599.3" in rows
    assert sum(line.strip().isdigit() for block in parsed.blocks for line in block.text.split("\n")) < 20


@pytest.mark.parametrize(
    "name", ["AMCOR_2023Q2_10Q", "FOOTLOCKER_2022_8K_dated_2022-08-19", "ULTABEAUTY_2023Q4_EARNINGS"]
)
def test_other_filings(data_dir: Path, name: str) -> None:
    parsed = read_pdf(data_dir / "pdf_samples" / f"{name}.pdf")
    kinds = {block.kind for block in parsed.blocks}
    assert {"heading", "text", "table"} <= kinds
    body = [block for block in parsed.blocks if block.kind == "text"]
    assert sum(block.text[-1:] in ".:;,”)" for block in body) > 0.5 * len(body), "paragraphs end where sentences do"
