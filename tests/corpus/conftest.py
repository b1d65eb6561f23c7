"""A tokenizer whose tokens are words, so that sizes are known by hand; PDFs made on the spot."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fpdf import FPDF
from tokenizers import Tokenizer, models, pre_tokenizers

from embedfit.corpus.chunking import Window


@pytest.fixture(scope="session")
def words() -> Callable[[int], Window]:
    """A window of so many words."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return lambda size: Window(tokenizer, size)


class Pdf(FPDF):
    """A PDF with an optional running header and footer."""

    running_header = ""
    numbered = False

    def header(self) -> None:
        if self.running_header:
            self.set_font("Helvetica", size=8)
            self.cell(0, 5, self.running_header, new_x="LMARGIN", new_y="NEXT", align="C")
            self.ln(5)

    def footer(self) -> None:
        if self.numbered:
            self.set_y(-15)
            self.set_font("Helvetica", size=8)
            self.cell(0, 5, f"Page {self.page_no()}", align="C")

    def heading(self, text: str, size: float = 14) -> None:
        self.set_font("Helvetica", style="B", size=size)
        self.multi_cell(0, size * 0.5, text, new_x="LMARGIN", new_y="NEXT")
        self.ln(3)

    def paragraph(self, text: str) -> None:
        self.set_font("Helvetica", size=11)
        self.multi_cell(0, 5, text, new_x="LMARGIN", new_y="NEXT")
        self.ln(4)

    def lines(self, *texts: str) -> None:
        """Lines broken exactly here, set as one paragraph."""
        self.set_font("Helvetica", size=11)
        for text in texts:
            self.cell(0, 5, text, new_x="LMARGIN", new_y="NEXT")
        self.ln(4)


def make_png(width: int = 40, height: int = 40) -> bytes:
    """A grey square, as an image file."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([128]) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


SUBJECTS = (
    "ferry", "lantern", "orchard", "compass", "turbine", "glacier", "violin", "harbour", "pepper", "satellite",
    "quarry", "bicycle", "saddle", "furnace", "meadow", "telescope", "anchor", "bakery", "cannon", "dolphin",
)  # fmt: skip


def story(number: int, sentences: int = 6) -> str:
    """A paragraph about one subject, unlike those of other numbers."""
    subject, other = SUBJECTS[number % 20], SUBJECTS[(number * 7 + 3) % 20]
    lines = [
        f"The {subject} of chapter {number} was built in {1700 + number} by the people of the {other} valley.",
        f"It took {number + 3} years, and {100 + 13 * number} workers carried stone number {number} up the hill.",
        f"Visitors still ask why the {subject} stands so near the {other} and who painted door {number}.",
        f"An old letter of the year {1800 + number} says that the {subject} cost {number * 91 + 7} silver coins.",
        f"In winter the {subject} is closed, but guide {number} tells its story in the {other} museum.",
        f"The last repair, under plan {number}, replaced the roof of the {subject} with {other} wood.",
    ]
    return " ".join(lines[:sentences])


def write_pdf(path: Path, paragraphs: int = 12, **settings: object) -> Path:
    """A PDF of several pages with headings and text."""
    pdf = Pdf()
    for name, value in settings.items():
        setattr(pdf, name, value)
    pdf.add_page()
    for number in range(paragraphs):
        pdf.heading(f"Chapter {number + 1}: The {SUBJECTS[number % 20]}")
        pdf.paragraph(story(number))
        pdf.paragraph(story(number + 40))
    pdf.output(str(path))
    return path
