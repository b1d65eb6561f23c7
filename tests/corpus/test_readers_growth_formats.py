"""As test_readers_growth, for the formats that are no text: hostile files, and ten times as much of the same."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedfit.corpus.blocks import UnreadableDocument
from embedfit.corpus.readers.isolation import Limits, ReadingProcess
from embedfit.corpus.readers.registry import readers

SENTENCE = "The circulation pump of the heater is vented through the brass screw."
SIZE = 300_000
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def archive(**parts: str) -> bytes:
    """A zip file; "__" in a name stands for "/"."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name.replace("__", "/"), content)
    return held.getvalue()


def relations(*targets: tuple[str, str]) -> str:
    rows = (
        f'<Relationship Id="r{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets)
    )
    return f'<Relationships xmlns="{_RELATIONS}">{"".join(rows)}</Relationships>'


def docx(body: str) -> bytes:
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    first = f"<w:p><w:r><w:t>{SENTENCE}</w:t></w:r></w:p>"
    return archive(
        **{
            "_rels__.rels": relations(("officeDocument", "word/document.xml")),
            "word__document.xml": f'<w:document xmlns:w="{space}"><w:body>{first}{body}</w:body></w:document>',
        }
    )


def pptx(shapes: str, slides: int = 1) -> bytes:
    spaces = (
        'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
        f'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:r="{_OFFICE}"'
    )
    first = f"<p:sp><p:txBody><a:p><a:r><a:t>{SENTENCE}</a:t></a:r></a:p></p:txBody></p:sp>"
    slide = f"<p:sld {spaces}><p:cSld><p:spTree>{first}{shapes}</p:spTree></p:cSld></p:sld>"
    ids = "".join(f'<p:sldId id="{256 + number}" r:id="r{number}"/>' for number in range(slides))
    return archive(
        **{
            "_rels__.rels": relations(("officeDocument", "ppt/presentation.xml")),
            "ppt__presentation.xml": f"<p:presentation {spaces}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>",
            "ppt___rels__presentation.xml.rels": relations(
                *(("slide", f"slides/slide{number}.xml") for number in range(slides))
            ),
            **{f"ppt__slides__slide{number}.xml": slide for number in range(slides)},
        }
    )


def xlsx(rows: str, sheets: int = 1) -> bytes:
    space = f'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="{_OFFICE}"'
    first = f"<row><c t='inlineStr'><is><t>{SENTENCE}</t></is></c></row>"
    names = "".join(f'<sheet name="s{number}" sheetId="{number + 1}" r:id="r{number}"/>' for number in range(sheets))
    kinds = "".join(
        f'<Override PartName="/xl/worksheets/sheet{number}.xml" ContentType='
        '"application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>'
        for number in range(sheets)
    )
    return archive(
        **{
            "[Content_Types].xml": (
                '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
                'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workb'
                'ook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
                f"{kinds}</Types>"
            ),
            "_rels__.rels": relations(("officeDocument", "xl/workbook.xml")),
            "xl__workbook.xml": f"<workbook {space}><sheets>{names}</sheets></workbook>",
            "xl___rels__workbook.xml.rels": relations(
                *(("worksheet", f"worksheets/sheet{number}.xml") for number in range(sheets))
            ),
            **{
                f"xl__worksheets__sheet{number}.xml": (
                    f"<worksheet {space}><sheetData>{first}{rows}</sheetData></worksheet>"
                )
                for number in range(sheets)
            },
        }
    )


def opendocument(body: str) -> bytes:
    base = "urn:oasis:names:tc:opendocument:xmlns"
    spaces = " ".join(f'xmlns:{name}="{base}:{name}:1.0"' for name in ("office", "text", "table"))
    first = f"<text:p>{SENTENCE}</text:p>"
    return archive(
        mimetype="application/vnd.oasis.opendocument.text",
        **{
            "META-INF__manifest.xml": "<manifest/>",
            "content.xml": (
                f"<office:document-content {spaces}><office:body><office:text>{first}{body}</office:text></office:body>"
                "</office:document-content>"
            ),
        },
    )


def epub(chapter: str, chapters: int = 1, more: str = "") -> bytes:
    items = "".join(
        f'<item id="c{number}" href="c{number}.xhtml" media-type="application/xhtml+xml"/>'
        for number in range(chapters)
    )
    spine = "".join(f'<itemref idref="c{number}"/>' for number in range(chapters))
    return archive(
        mimetype="application/epub+zip",
        **{
            "META-INF__container.xml": '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>',
            "b.opf": f"<package><manifest>{items}{more}</manifest><spine>{spine}</spine></package>",
            **{f"c{number}.xhtml": f"<p>{SENTENCE}</p>{chapter}" for number in range(chapters)},
        },
    )


def mail(body: bytes, headers: bytes = b"") -> bytes:
    return b"Subject: " + SENTENCE.encode() + b"\nFrom: a@b.c\nTo: d@e.f\n" + headers + b"\n" + body


def nested_parts(count: int) -> bytes:
    parts = b"".join(
        b"--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n" % (number, number + 1) for number in range(count)
    )
    return mail(parts, b"Content-Type: multipart/mixed; boundary=b0\n")


def notebook(cells: object) -> bytes:
    return json.dumps({"cells": [{"cell_type": "markdown", "source": SENTENCE}, *cells]}).encode()  # type: ignore[misc]


def pdf(content: str, pages: int = 1, more: str = "") -> bytes:
    """A PDF without a table of its objects, which readers make themselves."""
    text = f"BT /F 12 Tf 50 700 Td ({SENTENCE}) Tj ET\n{content}"  # of the first page: on all it were a header
    kids = " ".join(f"{10 + number} 0 R" for number in range(pages))
    objects = (
        f"1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n2 0 obj <</Type/Pages/Kids[{kids}]/Count {pages}>> endobj\n"
        "3 0 obj <</Type/Font/Subtype/Type1/BaseFont/Helvetica>> endobj\n"
        f"4 0 obj <</Length {len(text)}>> stream\n{text}\nendstream endobj\n"
        "5 0 obj <</Length 0>> stream\n\nendstream endobj\n"
    )
    page = (
        "{} 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents {} 0 R/Resources<</Font<</F 3 0 R>>>>{}>> "
        "endobj\n"
    )
    body = "".join(page.format(10 + number, 5 if number else 4, more) for number in range(pages))
    return f"%PDF-1.4\n{objects}{body}trailer <</Root 1 0 R>>\n%%EOF".encode()


CELL = "<c t='inlineStr'><is><t>w</t></is></c>"
CASES: dict[str, dict[str, Callable[[int], bytes]]] = {
    "docx": {
        "paragraphs": lambda n: docx("<w:p><w:r><w:t>w</w:t></w:r></w:p>" * (n // 34)),
        "runs": lambda n: docx("<w:p>" + "<w:r><w:t>w</w:t></w:r>" * (n // 24) + "</w:p>"),
        "nested tables": lambda n: docx(
            "<w:tbl><w:tr><w:tc>" * (n // 100) + "<w:p/>" + "</w:tc></w:tr></w:tbl>" * (n // 100)
        ),
        "nested boxes": lambda n: docx(
            "<w:p><w:txbxContent>" * (n // 60) + "<w:p/>" + "</w:txbxContent></w:p>" * (n // 60)
        ),
        "joined paragraphs": lambda n: docx(
            "<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>w</w:t></w:r></w:p>" * (n // 74)
        ),
        "deletions": lambda n: docx("<w:p><w:del><w:delText>w</w:delText></w:del></w:p>" * (n // 54)),
        "ruby": lambda n: docx("<w:p>" + "<w:ruby><w:rt><w:t>w</w:t></w:rt></w:ruby>" * (n // 44) + "</w:p>"),
        "cells": lambda n: docx("<w:tbl><w:tr>" + "<w:tc><w:p/></w:tc>" * (n // 19) + "</w:tr></w:tbl>"),
    },
    "pptx": {
        "shapes": lambda n: pptx("<p:sp><p:txBody><a:p><a:t>w</a:t></a:p></p:txBody></p:sp>" * (n // 58)),
        "groups": lambda n: pptx("<p:grpSp>" * (n // 19) + "</p:grpSp>" * (n // 19)),
        "slides": lambda n: pptx("", n // 500),
        "cells": lambda n: pptx("<a:tbl><a:tr>" + "<a:tc><a:p/></a:tc>" * (n // 19) + "</a:tr></a:tbl>"),
    },
    "xlsx": {
        "rows": lambda n: xlsx(f"<row>{CELL * 2}</row>" * (n // 90)),
        "one row": lambda n: xlsx(f"<row>{CELL * (n // 38)}</row>"),
        "far rows": lambda n: xlsx("".join(f"<row r='{10 * row}'>{CELL}</row>" for row in range(1, n // 55))),
        "far cells": lambda n: xlsx(
            "".join(f"<row r='{row}'><c r='XFD{row}'><v>1</v></c></row>" for row in range(2, n // 45))
        ),
        "formulas": lambda n: xlsx("<row><c><f>1</f></c></row>" * (n // 28)),
        "open formulas": lambda n: xlsx("<row><c><f>" + "1" * n + "</f></c></row>"),
        "spaces": lambda n: xlsx("<row><c><f>1</f>" + " " * n + "</c></row>"),
        "sheets": lambda n: xlsx("", n // 500),
    },
    "opendocument": {
        "paragraphs": lambda n: opendocument("<text:p>w</text:p>" * (n // 18)),
        "spans": lambda n: opendocument("<text:p>" + "<text:span>w</text:span>" * (n // 24) + "</text:p>"),
        "lists": lambda n: opendocument(
            "<text:list><text:list-item>" * (n // 55) + "<text:p/>" + "</text:list-item></text:list>" * (n // 55)
        ),
        "tables": lambda n: opendocument(
            "<table:table><table:table-row><table:table-cell>" * (n // 100)
            + "</table:table-cell></table:table-row></table:table>" * (n // 100)
        ),
        "repeated": lambda n: opendocument(
            "<table:table>" + "<table:table-row table:number-rows-repeated='999999999'><table:table-cell "
            "table:number-columns-repeated='999999999'><text:p>w</text:p></table:table-cell></table:table-row>"
            * (n // 170)
            + "</table:table>"
        ),
    },
    "epub": {
        "chapters": lambda n: epub("<p>w</p>", n // 500),
        "one chapter": lambda n: epub("<p>w</p>" * (n // 8)),
        "sections": lambda n: epub("w <![CDATA[" * (n // 12) + "]]>" * (n // 12)),
        "items": lambda n: epub(
            "", more="".join(f'<item id="i{number}" href="{number}.png"/>' for number in range(n // 30))
        ),
    },
    "csv": {
        "rows": lambda n: f"{SENTENCE},b\n".encode() + b"w,1\n" * (n // 4),
        "one row": lambda n: f"{SENTENCE}\n".encode() + b"w," * (n // 2),
        "one cell": lambda n: f'{SENTENCE}\n"'.encode() + b"w\n" * (n // 2) + b'"\n',
        "quotes": lambda n: f"{SENTENCE}\n".encode() + b'"' * n,
        "quotes in quotes": lambda n: f"{SENTENCE}\n".encode() + b'"w""' * (n // 4),
        "delimiters": lambda n: f"{SENTENCE}\n".encode() + b",;\t|" * (n // 4),
        "wide header": lambda n: (
            b",".join(b"h%d" % number for number in range(n // 12)) + b"\n" + SENTENCE.encode() + b"\n"
        ),
    },
    "rtf": {
        "paragraphs": lambda n: b"{\\rtf1 " + SENTENCE.encode() + b"\\par " + b"w\\par " * (n // 6) + b"}",
        "groups": lambda n: b"{\\rtf1 " + SENTENCE.encode() + b"{" * n,
        "ends": lambda n: b"{\\rtf1 " + SENTENCE.encode() + b"}" * n,
        "codes": lambda n: b"{\\rtf1 " + SENTENCE.encode() + b"\\'e9" * (n // 4) + b"}",
        "unicode": lambda n: b"{\\rtf1\\uc1000 " + SENTENCE.encode() + b"\\u8364?" * (n // 7) + b"}",
        "cells": lambda n: b"{\\rtf1 " + SENTENCE.encode() + b"\\par\\trowd" + b"w\\cell" * (n // 6) + b"\\row}",
        "lengths": lambda n: b"{\\rtf1 " + SENTENCE.encode() + b"\\bin9999999999 " * (n // 15) + b"}",
        "fonts": lambda n: (
            b"{\\rtf1{\\fonttbl" + b"{\\f1\\fcharset204 w;}" * (n // 20) + b"}" + SENTENCE.encode() + b"}"
        ),
    },
    "mail": {
        "lines": lambda n: mail(b"words of it\n" * (n // 12)),
        "quotes": lambda n: mail(b"> " * (n // 2)),
        "headers": lambda n: mail(b"w", b"Received: from a by b\n" * (n // 22)),
        "long header": lambda n: mail(b"w", b"Cc: " + b"a@b.c, " * (n // 7) + b"\n"),
        "folded header": lambda n: mail(b"w", b"Cc: a\n" + b" a@b.c,\n" * (n // 8)),
        "encoded header": lambda n: mail(b"w", b"Cc: " + b"=?utf-8?q?w?= " * (n // 14) + b"\n"),
        "parameters": lambda n: mail(b"w", b"Content-Type: text/plain" + b"; a*0=b" * (n // 7) + b"\n"),
        "parts": lambda n: mail(b"--b\n\nw\n" * (n // 8), b"Content-Type: multipart/mixed; boundary=b\n"),
        "nested parts": lambda n: nested_parts(n // 60),
        "nested messages": lambda n: mail(
            b"Content-Type: message/rfc822\n\n" * (n // 30), b"Content-Type: message/rfc822\n"
        ),
        "base64": lambda n: mail(base64.encodebytes(b"w " * (n // 3)), b"Content-Transfer-Encoding: base64\n"),
        "no base64": lambda n: mail(b"w!\n" * (n // 3), b"Content-Transfer-Encoding: base64\n"),
        "wrapped messages": lambda n: mail(
            base64.encodebytes(b"w " * (n // 3)), b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n"
        ),
    },
    "mailbox": {
        "messages": lambda n: (b"From a\n" + mail(b"w\n")) * (n // 115),
        "starts": lambda n: b"From a\n" + mail(b"w\n") + b"From a\n" * (n // 7),
    },
    "notebook": {
        "cells": lambda n: notebook([{"cell_type": "code", "source": "w"}] * (n // 40)),
        "lines": lambda n: notebook([{"cell_type": "markdown", "source": ["w\n"] * (n // 7)}]),
        "outputs": lambda n: notebook([{"cell_type": "code", "outputs": [{"text": "w"}] * (n // 15)}]),
        "depth": lambda n: b'{"cells": ' + b"[" * n,
        "pages": lambda n: notebook(
            [{"cell_type": "code", "outputs": [{"data": {"text/html": "<b" * 4000}}] * (n // 8000)}]
        ),
    },
    "pdf": {
        "pages": lambda n: pdf("", n // 130),
        "texts": lambda n: pdf("BT /F 9 Tf 50 600 Td (w) Tj ET\n" * (n // 31)),
        "lines": lambda n: pdf("BT /F 9 Tf 50 690 Td\n" + "0 -1 Td (w w) Tj\n" * (n // 17) + "ET"),
        "one line": lambda n: pdf("BT /F 1 Tf 0 600 Td (" + "w " * (n // 2) + ") Tj ET"),
        "graphics": lambda n: pdf("q " * (n // 2)),
        "strings": lambda n: pdf("BT (" + "(" * n + ") Tj ET"),
        "arrays": lambda n: pdf("", more="/X " + "[" * n),
        "dictionaries": lambda n: pdf("", more="/X " + "<<" * (n // 2)),
    },
}

#: No program writes them.
REFUSED = {("notebook", "depth"), ("rtf", "groups"), ("mail", "nested parts"), ("mail", "nested messages")}


@pytest.fixture(scope="module")
def process() -> Iterator[ReadingProcess]:
    with ReadingProcess(Limits(seconds=20, seconds_per_mib=0, wall=10, memory=1000)) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, cases in CASES.items() for name in cases])
def test_readers_read_ten_times_as_much_of_a_format(
    process: ReadingProcess, tmp_path: Path, kind: str, name: str
) -> None:
    reader = readers()[kind]
    for size in (SIZE // 10, SIZE):
        path = tmp_path / f"a{reader.record.extensions[0]}"
        path.write_bytes(CASES[kind][name](size))
        try:
            parsed = process.read(reader, path)
        except UnreadableDocument as refused:
            # In the reader's own words.
            assert (kind, name) in REFUSED, str(refused)
            assert not any(word in str(refused) for word in ("takes more", "crashed", "fails"))
        else:
            assert SENTENCE in " ".join(block.text for block in parsed.blocks)


def test_every_format_has_such_files() -> None:
    assert {*CASES, "text", "markdown", "html"} >= set(readers())
