"""Word files: every sentence that a reader of the accepted document sees is read, in order and once."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.readers import package
from embedfit.corpus.readers.isolation import Limits, ReadingProcess
from embedfit.corpus.readers.office.docx import read_docx
from embedfit.corpus.readers.registry import readers

_NAMESPACES = (
    'xmlns:w="{w}" xmlns:r="{r}" xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart"'
)
_TRANSITIONAL = {
    "w": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "r": "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
}
_STRICT = {
    "w": "http://purl.oclc.org/ooxml/wordprocessingml/main",
    "r": "http://purl.oclc.org/ooxml/officeDocument/relationships",
}
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(*content: str, style: str = "", properties: str = "") -> str:
    style = f'<w:pStyle w:val="{style}"/>' if style else ""
    return f"<w:p><w:pPr>{style}{properties}</w:pPr>{''.join(content)}</w:p>"


def table(*rows: tuple[str, ...]) -> str:
    cells = ["".join(f"<w:tc>{cell}</w:tc>" for cell in row) for row in rows]
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


def part(root: str, content: str, spaces: dict[str, str] = _TRANSITIONAL) -> str:
    return f"<w:{root} {_NAMESPACES.format(**spaces)}>{content}</w:{root}>"


def build(path: Path, body: str, spaces: dict[str, str] = _TRANSITIONAL, **parts: str) -> Path:
    """A Word file of the body and other parts: `footnotes=…` is word/footnotes.xml, `header1=…` a header."""
    relations = "".join(
        f'<Relationship Id="{name}" Type="{spaces["r"]}/{name.rstrip("0123456789")}" Target="{name}.xml"/>'
        for name in parts
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="a" Type="{spaces["r"]}/officeDocument" '
            'Target="/word/document.xml"/></Relationships>',
        )
        archive.writestr("word/document.xml", part("document", f"<w:body>{body}</w:body>", spaces))
        archive.writestr(
            "word/_rels/document.xml.rels", f'<Relationships xmlns="{_RELATIONS}">{relations}</Relationships>'
        )
        for name, content in parts.items():
            archive.writestr(f"word/{name}.xml", content)
    return path


def texts(document: ParsedDocument) -> list[str]:
    return [block.text for block in document.blocks]


@pytest.fixture
def read(tmp_path: Path):
    def of(body: str, **parts: str) -> ParsedDocument:
        return read_docx(build(tmp_path / "a.docx", body, **parts))

    return of


@pytest.mark.parametrize("spaces", [_TRANSITIONAL, _STRICT], ids=["transitional", "strict"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (run("pays ") + f"<w:ins>{run('within 45 days ')}</w:ins>" + run("by bank"), "pays within 45 days by bank"),
        (run("one ") + "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>" + run("two"), "one two"),
        (f"<w:moveFrom>{run('old place')}</w:moveFrom>" + run("rest"), "rest"),
        (f"<w:moveTo>{run('new place')}</w:moveTo>", "new place"),
        (f"<w:ins><w:del><w:r><w:delText>x</w:delText></w:r></w:del>{run('kept')}</w:ins>", "kept"),
        (
            run("begins ") + f"<w:sdt><w:sdtPr><w:alias w:val='n'/></w:sdtPr><w:sdtContent>{run('today')}"
            "</w:sdtContent></w:sdt>" + run(" here"),
            "begins today here",
        ),
        (f"<w:smartTag>{run('Oslo')}</w:smartTag><w:customXml>{run(' is')}</w:customXml>", "Oslo is"),
        (f"<w:dir>{run('left ')}</w:dir><w:bdo>{run('right')}</w:bdo>", "left right"),
        (f'<w:hyperlink r:id="x">{run("the link")}</w:hyperlink>', "the link"),
        (
            '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText>DATE \\@ x</w:instrText></w:r>'
            '<w:r><w:fldChar w:fldCharType="separate"/></w:r>' + run("5 May") + '<w:r><w:fldChar '
            'w:fldCharType="end"/></w:r>',
            "5 May",
        ),
        (f'<w:fldSimple w:instr="TITLE">{run("The title")}</w:fldSimple>', "The title"),
        ("<w:r><w:t>one</w:t><w:br/><w:t>two</w:t><w:tab/><w:t>three</w:t><w:cr/><w:t>four</w:t></w:r>",
         "one two three four"),
        ("<w:r><w:t>well</w:t><w:noBreakHyphen/><w:t>known soft</w:t><w:softHyphen/><w:t>ly</w:t></w:r>",
         "well-known softly"),
        (run("at 20 ") + '<w:r><w:sym w:font="Symbol" w:char="F0B0"/></w:r>' + run("C"), "at 20 °C"),
        ('<w:r><w:sym w:font="Symbol" w:char="F061"/></w:r>' + run(" decay"), "α decay"),
        (run("done ") + '<w:r><w:sym w:font="Wingdings" w:char="F0FC"/></w:r>', "done ✓"),
        (
            run("force ") + "<m:oMath><m:r><m:t>F=</m:t></m:r><m:f><m:num><m:r><m:t>p</m:t></m:r></m:num><m:den><m:r>"
            "<m:t>t</m:t></m:r></m:den></m:f></m:oMath>",
            "force F=p/t",
        ),
        (
            "<w:r><w:ruby><w:rt>" + run("とう") + "</w:rt><w:rubyBase>" + run("東") + "</w:rubyBase></w:ruby></w:r>"
            "<w:r><w:ruby><w:rt>" + run("きょう") + "</w:rt><w:rubyBase>" + run("京") + "</w:rubyBase></w:ruby></w:r>"
            + run("都"),
            "東京(とうきょう)都",
        ),
        (
            '<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:checkBox><w:default w:val="0"/><w:checked/>'
            "</w:checkBox></w:ffData></w:fldChar></w:r>" + run(" paid"),
            "☒ paid",
        ),
        (
            run("class ") + '<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:ddList><w:result w:val="1"/>'
            '<w:listEntry w:val="red"/><w:listEntry w:val="green"/></w:ddList></w:ffData></w:fldChar></w:r>',
            "class green",
        ),
    ],
)  # fmt: skip
def test_what_stands_inside_a_paragraph(tmp_path: Path, content: str, expected: str, spaces: dict[str, str]) -> None:
    parsed = read_docx(build(tmp_path / "a.docx", paragraph(content), spaces))
    assert texts(parsed) == [expected]
    assert parsed.note == ""


def test_deleted_text_rows_and_comments_are_listed(read) -> None:
    deleted = "<w:del><w:r><w:delText>the old clause</w:delText></w:r></w:del>"
    rows = table((paragraph(run("kept")), paragraph(run("too"))), (paragraph(run("struck")), paragraph(run("out"))))
    rows = rows.replace("<w:tr><w:tc><w:p><w:pPr></w:pPr><w:r><w:t xml:space=\"preserve\">struck",
                        "<w:tr><w:trPr><w:del/></w:trPr><w:tc><w:p><w:pPr></w:pPr><w:r><w:t>struck")  # fmt: skip
    comments = part("comments", f'<w:comment w:id="1">{paragraph(run("why so late?"))}</w:comment>')
    parsed = read(paragraph(run("new clause"), deleted) + rows, comments=comments)
    assert texts(parsed) == ["new clause", "kept | too"]
    assert [(one.reason, one.preview) for one in parsed.removed] == [
        ("deleted text (tracked change)", "the old clause"),
        ("deleted row (tracked change)", "struck | out"),
        ("comment", "why so late?"),
    ]


def test_a_deleted_paragraph_mark_joins_two_paragraphs(read) -> None:
    body = paragraph(run("The pump "), properties="<w:rPr><w:del/></w:rPr>") + paragraph(run("is off."))
    assert texts(read(body)) == ["The pump is off."]
    inserted = paragraph(run("A."), properties="<w:rPr><w:ins/></w:rPr>") + paragraph(run("B."))
    assert texts(read(inserted)) == ["A.", "B."]


def test_content_controls_around_paragraphs_rows_and_cells(read) -> None:
    def control(content: str) -> str:
        return f"<w:sdt><w:sdtPr><w:id w:val='1'/></w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"

    cells = "".join(control(f"<w:tc>{paragraph(run(text))}</w:tc>") for text in ("red", "stop"))
    body = control(paragraph(run("first"))) + "<w:tbl>" + control(f"<w:tr>{cells}</w:tr>") + "</w:tbl>"
    assert texts(read(control(body))) == ["first", "red | stop"]


def test_nested_tables_keep_rows_and_order(read) -> None:
    inner = table((paragraph(run("severe")), paragraph(run("two hours"))),
                  (paragraph(run("minor")), paragraph(run("next day"))))  # fmt: skip
    outer = table((paragraph(run("class")), paragraph(run("time"))),
                  (paragraph(run("by fault")), inner + paragraph()),
                  (paragraph(run("parts")), paragraph(run("a week"))))  # fmt: skip
    assert texts(read(outer)) == [
        "class | time", "by fault", "severe | two hours\nminor | next day", "parts | a week"
    ]  # fmt: skip


def test_a_table_that_only_arranges_the_page_is_text(read) -> None:
    body = table((paragraph(run("The whole letter."), style="Heading1") + paragraph(run("stands in a cell.")),))
    assert texts(read(body)) == ["The whole letter.", "stands in a cell."]


BOX = "<w:txbxContent>{}</w:txbxContent>"


@pytest.mark.parametrize(
    "box",
    [
        f"<w:r><w:pict><v:shape><v:textbox>{BOX}</v:textbox></v:shape></w:pict></w:r>",
        f"<w:r><mc:AlternateContent><mc:Choice Requires='wps'><wps:txbx>{BOX}</wps:txbx></mc:Choice>"
        "</mc:AlternateContent></w:r>",
        f"<w:r><mc:AlternateContent><mc:Choice Requires='wps'><wps:txbx>{BOX}</wps:txbx></mc:Choice>"
        f"<mc:Fallback><w:pict><v:textbox>{BOX}</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r>",
        "<w:r><mc:AlternateContent><mc:Choice Requires='new'><wps:unknown/></mc:Choice><mc:Fallback><v:textbox>"
        f"{BOX}</v:textbox></mc:Fallback></mc:AlternateContent></w:r>",
    ],
)
def test_text_boxes_are_read_once_after_their_paragraph(read, box: str) -> None:
    content = paragraph(run("In an emergency dial 4477.")) + paragraph(run("Shut the red valve."))
    body = paragraph(run("See "), box.replace("{}", content), run("the box.")) + paragraph(run("The end."))
    assert texts(read(body)) == ["See the box.", "In an emergency dial 4477.", "Shut the red valve.", "The end."]


def test_notes_follow_their_paragraph_and_none_is_lost(read) -> None:
    def note(kind: str, number: int, text: str, extra: str = "") -> str:
        return f'<w:{kind} w:id="{number}" {extra}>{paragraph(run(text))}</w:{kind}>'

    body = (
        paragraph(run("Rent is due"), '<w:r><w:footnoteReference w:id="2"/></w:r>', run(" monthly."))
        + table((paragraph(run("a"), '<w:r><w:endnoteReference w:id="1"/></w:r>'), paragraph(run("b"))))
        + paragraph(run("Last."))
    )
    separator = note("footnote", 0, "line", 'w:type="separator"')
    parsed = read(
        body,
        footnotes=part("footnotes", separator + note("footnote", 2, "On the third.") + note("footnote", 3, "Alone.")),
        endnotes=part("endnotes", note("endnote", 1, "Of 2024.")),
    )
    assert texts(parsed) == ["Rent is due monthly.", "On the third.", "a Of 2024. | b", "Last.", "Alone."]


def test_headers_and_footers_are_read_once(read) -> None:
    parts = {
        f"header{number}": part("hdr", paragraph(run("Acme Ltd, Oslo")) + paragraph(run(str(number))))
        for number in (1, 2)
    }
    footer = part("ftr", paragraph(run("Page 3 of 10")) + paragraph(run("Call 555-0100 for help")))
    assert texts(read(paragraph(run("Body.")), footer1=footer, **parts)) == [
        "Acme Ltd, Oslo", "Body.", "Call 555-0100 for help"
    ]  # fmt: skip


def test_headings_by_style_parent_and_outline_level(read) -> None:
    styles = part(
        "styles",
        '<w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Mine"><w:name w:val="Mine"/><w:basedOn w:val="berschrift1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Deep"><w:name w:val="Deep"/><w:pPr><w:outlineLvl w:val="2"/></w:pPr>'
        '</w:style><w:style w:type="paragraph" w:styleId="T"><w:name w:val="Title"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="V1"><w:name w:val="toc 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Loop"><w:name w:val="Loop"/><w:basedOn w:val="Loop"/></w:style>',
    )
    body = (
        paragraph(run("Manual"), style="T")
        + paragraph(run("Pump 3"), style="V1")
        + paragraph(run("One"), style="berschrift1")
        + paragraph(run("Two"), style="Mine")
        + paragraph(run("Three"), style="Deep")
        + paragraph(run("Four"), properties='<w:outlineLvl w:val="1"/>')
        + paragraph(run("five"), style="Mine", properties='<w:outlineLvl w:val="9"/>')
        + paragraph(run("six"), style="Loop")
        + paragraph(run("seven"), style="undefined")
        + paragraph(run("Eight " * 100), style="Mine")
    )
    parsed = read(body, styles=styles)
    assert [(block.kind, block.level, block.text) for block in parsed.blocks[:8]] == [
        ("heading", 1, "Manual"), ("heading", 2, "One"), ("heading", 2, "Two"), ("heading", 4, "Three"),
        ("heading", 3, "Four"), ("text", 0, "five"), ("text", 0, "six"), ("text", 0, "seven"),
    ]  # fmt: skip
    assert parsed.blocks[8].kind == "text"
    assert [one.reason for one in parsed.removed] == ["table of contents"]


def test_list_labels(read) -> None:
    def level(number: int, form: str, text: str, more: str = "") -> str:
        return (
            f'<w:lvl w:ilvl="{number}"><w:start w:val="1"/><w:numFmt w:val="{form}"/>{more}'
            f'<w:lvlText w:val="{text}"/></w:lvl>'
        )

    numbering = part(
        "numbering",
        '<w:abstractNum w:abstractNumId="5">'
        + level(0, "decimal", "%1.")
        + level(1, "lowerLetter", "(%2)")
        + level(2, "upperRoman", "%1.%3")
        + '</w:abstractNum><w:abstractNum w:abstractNumId="6">'
        + level(0, "bullet", "\uf0b7")
        + "</w:abstractNum>"
        '<w:num w:numId="1"><w:abstractNumId w:val="5"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="6"/></w:num>'
        '<w:num w:numId="3"><w:abstractNumId w:val="5"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/>'
        "</w:lvlOverride></w:num>",
    )

    def item(text: str, number: int, depth: int = 0, style: str = "") -> str:
        where = f'<w:numPr><w:ilvl w:val="{depth}"/><w:numId w:val="{number}"/></w:numPr>'
        return paragraph(run(text), style=style, properties=where)

    body = "".join((
        item("a", 1), item("b", 1, 1), item("c", 1, 1), item("d", 1), item("e", 1, 1), item("f", 1, 2), item("g", 2),
        item("h", 3), item("i", 3), item("Head", 1, style="Heading1"), item("j", 9), item("k", 0),
    ))  # fmt: skip
    parsed = read(body, numbering=numbering)
    assert texts(parsed) == [
        "1. a", "(a) b", "(b) c", "2. d", "(a) e", "2.I f", "• g", "7. h", "8. i", "9. Head", "• j", "k"
    ]  # fmt: skip
    assert [block.kind for block in parsed.blocks] == [*["item"] * 9, "heading", "item", "text"]


def test_embedded_pages_charts_and_files(read, tmp_path: Path) -> None:
    body = paragraph(run("Before.")) + '<w:altChunk r:id="h"/><w:altChunk r:id="x"/>' + paragraph(
        "<w:r><c:chart r:id='c'/></w:r>", run("Figure.")
    )  # fmt: skip
    path = build(tmp_path / "b.docx", body)
    relations = "".join(
        f'<Relationship Id="{key}" Type="{_TRANSITIONAL["r"]}/{kind}" Target="{name}"/>'
        for key, kind, name in (
            ("h", "aFChunk", "a.html"), ("x", "aFChunk", "b.rtf"), ("c", "chart", "chart.xml"),
            ("e", "package", "b.xlsx"),
        )
    )  # fmt: skip
    source = zipfile.ZipFile(path)
    with zipfile.ZipFile(tmp_path / "c.docx", "w") as archive:
        for name in source.namelist():
            if not name.endswith("document.xml.rels"):
                archive.writestr(name, source.read(name))
        archive.writestr(
            "word/_rels/document.xml.rels", f'<Relationships xmlns="{_RELATIONS}">{relations}</Relationships>'
        )
        archive.writestr("word/a.html", "<p>A page inside.</p>")
        chart = part("chart", "<a:p><a:r><a:t>Sales by town</a:t></a:r></a:p><c:val><c:pt><c:v>7</c:v></c:pt></c:val>")
        archive.writestr("word/chart.xml", chart)
    parsed = read_docx(tmp_path / "c.docx")
    assert texts(parsed) == ["Before.", "A page inside.", "Figure.", "Sales by town"]
    assert parsed.note == "the inserted file b.rtf is not read; 1 embedded file not read"


def test_macros_templates_and_odd_member_names(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("Readable.")
    stream = io.BytesIO()
    document.save(stream)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("../../etc/passwd", "x")
        archive.writestr("word/\x1b[2J\u202e.bin", "x")
        archive.writestr("a" * 5000, "x")
    (tmp_path / "a.docm").write_bytes(stream.getvalue())
    assert texts(read_docx(tmp_path / "a.docm")) == ["Readable."]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<w:p/>" * 30_000, "more than 20,000 elements"),
        (paragraph(run("x" * 400_000)), "more than 300,000 characters"),
        (f"<!-- {'x' * 3_000_000} -->", "unpacks to more than 2 MiB"),
        ("".join(f"<w:a{number}/>" for number in range(100)), "more than 50 names"),
        ("<w:p>", "is damaged"),
    ],
)
def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str) -> None:
    # The limits are lowered, so that the files and the test are small.
    for name, value in (
        ("MAX_BYTES", 2 << 20),
        ("MAX_ELEMENTS", 20_000),
        ("MAX_CHARACTERS", 300_000),
        ("_MAX_NAMES", 50),
    ):
        monkeypatch.setattr(package, name, value)
    with pytest.raises(UnreadableDocument, match=reason):
        read_docx(build(tmp_path / "a.docx", body))


def test_entities_are_refused_and_spans_cost_nothing(tmp_path: Path) -> None:
    path = build(
        tmp_path / "a.docx", table((f'<w:tcPr><w:gridSpan w:val="{2 * 10**9}"/></w:tcPr>{paragraph(run("x"))}',))
    )
    assert texts(read_docx(path)) == ["x"]
    entity = '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + part(
        "document", f"<w:body>{paragraph('&e;')}</w:body>"
    )
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("word/document.xml", entity)
    with pytest.raises(UnreadableDocument, match="entities"):
        read_docx(path)


@pytest.fixture(scope="module")
def whole() -> bytes:
    document = docx.Document()
    document.add_heading("The Manual", 0)
    for number in range(40):
        document.add_paragraph(f"Sentence {number} of the manual.", style="List Number")
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_listed_with_a_reason(tmp_path_factory: pytest.TempPathFactory, whole: bytes, data) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.docx"
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:place] + data.draw(st.binary(min_size=1, max_size=8)) + whole[place + 8 :]
    path.write_bytes(damaged)
    try:
        read_docx(path)
    except UnreadableDocument as error:
        assert str(error)


@pytest.mark.slow
def test_real_bombs_end_within_the_limits(tmp_path: Path) -> None:
    with ReadingProcess(Limits(seconds=30, seconds_per_mib=0, wall=20, memory=1024)) as process:
        path = build(tmp_path / "a.docx", "<w:p/>" * 50_000_000)
        with pytest.raises(UnreadableDocument, match="more than 3,000,000 elements"):
            process.read(readers()["docx"], path)
        path = build(tmp_path / "b.docx", paragraph(run("x" * 200_000_000)))
        with pytest.raises(UnreadableDocument, match="more than 32,000,000 characters"):
            process.read(readers()["docx"], path)
