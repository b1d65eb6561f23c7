"""RTF, e-mail, EPUB, notebooks and OpenDocument: every planted sentence is read, in order and once."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.readers.office.opendocument import read_opendocument
from embedfit.corpus.readers.texts.epub import read_epub
from embedfit.corpus.readers.texts.mail import read_mail, read_mailbox
from embedfit.corpus.readers.texts.notebook import read_notebook
from embedfit.corpus.readers.texts.rtf import read_rtf
from embedfit.corpus.sources.kinds import kind_of


def texts(parsed: ParsedDocument) -> list[str]:
    return [block.text for block in parsed.blocks]


def removed(parsed: ParsedDocument) -> list[tuple[str, str]]:
    return [(one.reason, one.preview) for one in parsed.removed]


# --- RTF


def rtf(tmp_path: Path, body: str) -> ParsedDocument:
    path = tmp_path / "a.rtf"
    path.write_bytes(body.encode("latin-1"))
    assert kind_of(path) == ("rtf", "")
    return read_rtf(path)


HEAD = (
    r"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0 Times;}{\f1\fcharset204 Cyr;}{\f2\fcharset128 Jap;}}{\colortbl;\red1;}"
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (r"\pard one {\b bold} two\par three\par", ["one bold two", "three"]),
        (r"caf\'e9 \u8364?5 \uc2\u945\'61\'61 \u-10179?\u-8704?", ["café €5 α 😀"]),
        (r"{\f1 \'cf\'f0\'e8\'e2\'e5\'f2} and {\f2 \'93\'fa\'96\'7b}", ["Привет and 日本"]),
        (r"a\emdash b\~c \lquote d\rquote  \{e\} f\_g\line h\tab i", ["a—b c ‘d’ {e} f-g h i"]),
        ("split \nword\r\ns go on\\\nnext", ["split words go on", "next"]),
        (r"{\field{\*\fldinst HYPERLINK x}{\fldrslt the link}} text", ["the link text"]),
        (r"{\pict\pngblip 89504e47}{\*\objdata 0102}{\object{\result shown}} text", ["shown text"]),
        (r"{\*\unknown hidden}{\info{\title No}}seen", ["seen"]),
        (r"{\upr{old}{\*\ud{new}}} form", ["new form"]),
        (r"{\listtext 1.\tab}Press mute.\par", ["1. Press mute."]),
        ("a\\bin4 {}\\'x b", ["ax b"]),
        (r"The rent{\footnote{\super 1} Paid monthly.} is due.\par Next.\par",
         ["The rent is due.", "1 Paid monthly.", "Next."]),
        (r"{\header Acme Ltd\par}Body.\par", ["Body.", "Acme Ltd"]),
        (r"{\shp{\*\shpinst{\shptxt In the box.\par}}}Beside.\par", ["Beside.", "In the box."]),
        (
            r"\trowd\cellx1\intbl key\cell\intbl use\cell\row"
            r"\trowd\intbl mute\cell\intbl no sound\cell\row\pard After.\par",
            ["key | use\nmute | no sound", "After."],
        ),
    ],
)  # fmt: skip
def test_rtf(tmp_path: Path, body: str, expected: list[str]) -> None:
    assert texts(rtf(tmp_path, HEAD + body + "}")) == expected


def test_rtf_headings_deletions_and_comments(tmp_path: Path) -> None:
    styles = r"{\stylesheet{\s0 Normal;}{\s1\b heading 1;}{\s5\outlinelevel2 Mine;}}"
    body = (
        r"\pard\s1 One\par\pard\s5 Two\par\pard\outlinelevel0 Three\par\pard kept {\deleted gone} too"
        r"{\*\annotation really?}\par"
    )
    parsed = rtf(tmp_path, HEAD + styles + body + "}")
    assert [(block.level, block.text) for block in parsed.blocks] == [
        (1, "One"), (3, "Two"), (1, "Three"), (0, "kept too")
    ]  # fmt: skip
    assert removed(parsed) == [("deleted text (tracked change)", "gone"), ("comment", "really?")]


def test_rtf_cut_short_deep_and_trailing(tmp_path: Path) -> None:
    assert rtf(tmp_path, r"{\rtf1 one\par {two").note == "the file is cut short"
    assert texts(rtf(tmp_path, r"{\rtf1 one} {\rtf1 junk}")) == ["one"]
    with pytest.raises(UnreadableDocument, match="nested"):
        rtf(tmp_path, r"{\rtf1 " + "{" * 20_000)


# --- e-mail


def mail(tmp_path: Path, message: EmailMessage) -> ParsedDocument:
    path = tmp_path / "a.eml"
    path.write_bytes(bytes(message))
    return read_mail(path)


def message(subject: str = "Delivery of the lathe") -> EmailMessage:
    result = EmailMessage()
    result["Subject"] = subject
    result["From"] = "Ann <a@example.org>"
    result["To"] = "b@example.org"
    result["Date"] = "Thu, 26 Nov 2026 09:00:00 +0000"
    return result


HEADERS = "From: Ann <a@example.org>\nTo: b@example.org\nDate: Thu, 26 Nov 2026 09:00:00 +0000"


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-15", "cp1252"])
def test_mail_encodings(tmp_path: Path, encoding: str, charset: str) -> None:
    one = message("Über die Drehbank – 5 €")
    one.set_content("Die Drehbank kommt früh. Kräne kosten 5 €.", charset=charset, cte=encoding)
    assert texts(mail(tmp_path, one)) == [
        "Über die Drehbank – 5 €",
        HEADERS,
        "Die Drehbank kommt früh. Kräne kosten 5 €.",
    ]


def test_mail_with_a_wrong_charset(tmp_path: Path) -> None:
    for charset in ("us-ascii", "x-unknown", "iso-8859-1"):
        data = f"Subject: s\nContent-Type: text/plain; charset={charset}\n\n"
        data += "Die Drehbank kommt früh am Morgen, der Kran später.\n"
        (tmp_path / "a.eml").write_bytes(data.encode())
        assert texts(read_mail(tmp_path / "a.eml"))[-1] == "Die Drehbank kommt früh am Morgen, der Kran später."


def test_mail_html_attachments_and_alternatives(tmp_path: Path) -> None:
    one = message()
    one.set_content("See the other form.")
    one.add_alternative("<p>The lathe arrives on Thursday.</p><ul><li>Clear the bay.</li></ul>", subtype="html")
    one.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Prüfung.pdf")
    one.add_attachment("plain words", filename="notes.txt")
    parsed = mail(tmp_path, one)
    assert texts(parsed) == ["Delivery of the lathe", HEADERS, "The lathe arrives on Thursday.", "• Clear the bay."]
    assert parsed.note == "2 attachments not read: Prüfung.pdf, notes.txt"
    both = message()
    both.set_content("The lathe arrives on Thursday at nine.")
    both.add_alternative("<p>The lathe arrives on Thursday at nine.</p>", subtype="html")
    assert texts(mail(tmp_path, both))[2:] == ["The lathe arrives on Thursday at nine."]


def test_forwarded_mail_is_read(tmp_path: Path) -> None:
    inner, outer = message("The old order"), message("Fwd: The old order")
    inner.set_content("Two tonnes of sand.")
    outer.set_content("Please see below.")
    outer.add_attachment(inner)
    found = texts(mail(tmp_path, outer))
    assert found == [
        "Fwd: The old order",
        HEADERS,
        "Please see below.",
        "The old order",
        HEADERS,
        "Two tonnes of sand.",
    ]


def test_mail_that_is_nested_for_ever(tmp_path: Path) -> None:
    data = b"Subject: s\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(1500)
    )
    (tmp_path / "a.eml").write_bytes(data + b"\nend")
    try:
        parsed = read_mail(tmp_path / "a.eml")
    except UnreadableDocument as error:
        assert "nested" in str(error)
    else:
        assert "nested" in parsed.note


def test_mailbox(tmp_path: Path) -> None:
    box = b""
    for subject in ("First", "Second"):
        one = message(subject)
        one.set_content(f"{subject} body.\n>From the crane.\n")
        box += b"From ann Thu Nov 26 09:00:00 2026\n" + bytes(one) + b"\n"
    (tmp_path / "a.mbox").write_bytes(box)
    assert kind_of(tmp_path / "a.mbox") == ("mailbox", "")
    assert texts(read_mailbox(tmp_path / "a.mbox")) == [
        "First", HEADERS, "First body. From the crane.", "Second", HEADERS, "Second body. From the crane."
    ]  # fmt: skip


# --- EPUB


def epub(path: Path, chapters: dict[str, str], *, encrypted: str = "") -> Path:
    items = "".join(
        f'<item id="i{n}" href="text/{name}" media-type="application/xhtml+xml" '
        f'properties="{"nav" if "nav" in name else ""}"/>'
        for n, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="i{n}"/>' for n in reversed(range(len(chapters))))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OEBPS/book.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
            f"<dc:title>The Crane</dc:title><dc:title>Other</dc:title></metadata><manifest>{items}</manifest>"
            f"<spine>{spine}</spine></package>",
        )
        if encrypted:
            archive.writestr(
                "META-INF/encryption.xml",
                '<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:CipherReference '
                f'URI="{encrypted}"/></encryption>',
            )
        for name, content in chapters.items():
            archive.writestr(f"OEBPS/text/{name.replace('%20', ' ')}", content)
    return path


def test_epub_follows_the_spine(tmp_path: Path) -> None:
    page = "<html><head><title>The Crane</title></head><body><h2>{}</h2><p>{}</p></body></html>"
    path = epub(
        tmp_path / "a.epub",
        {"b%20b.xhtml": page.format("Two", "It lifts twelve tonnes."),
         "a.xhtml": page.format("One", "It stands in a harbour."),
         "nav.xhtml": "<nav>One, Two</nav>"},
    )  # fmt: skip
    assert kind_of(path) == ("epub", "")
    parsed = read_epub(path)
    assert texts(parsed) == ["The Crane", "One", "It stands in a harbour.", "Two", "It lifts twelve tonnes."]
    assert parsed.removed[0].reason == "table of contents"
    with pytest.raises(UnreadableDocument, match="DRM"):
        read_epub(epub(tmp_path / "b.epub", {"a.xhtml": "x"}, encrypted="OEBPS/text/a.xhtml"))


# --- notebooks


def notebook(tmp_path: Path, content: object) -> ParsedDocument:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(content))
    return read_notebook(path)


def test_notebook_of_format_4(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "text": ["3 thermo", "couples\n"]},
        {"output_type": "display_data", "data": {"image/png": "iVBOR", "text/plain": "<Figure>"}},
        {"output_type": "execute_result", "data": {"text/plain": "420"}},
        {"output_type": "error", "ename": "ValueError", "evalue": "too hot", "traceback": ["\x1b[31mx"]},
        {"output_type": "stream", "text": "log\n" * 5000},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Calibration\n", "\n", "The oven is calibrated."]},
        {"cell_type": "code", "source": "print(oven)", "outputs": outputs},
        {"cell_type": "raw", "source": "raw words"},
    ]
    parsed = notebook(tmp_path, {"cells": cells, "nbformat": 4})
    assert [(block.kind, block.text) for block in parsed.blocks] == [
        ("heading", "Calibration"), ("text", "The oven is calibrated."), ("code", "print(oven)"),
        ("code", "3 thermocouples"), ("code", "420"), ("code", "ValueError: too hot"), ("code", "raw words"),
    ]  # fmt: skip
    assert [one.reason for one in parsed.removed] == ["long output of a cell"]


def test_notebook_of_format_3(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Oven"]},
        {"cell_type": "code", "input": ["x = 1"], "outputs": [{"output_type": "pyout", "text": ["1"]}]},
    ]
    parsed = notebook(tmp_path, {"worksheets": [{"cells": cells}], "nbformat": 3})
    assert [(block.kind, block.level, block.text) for block in parsed.blocks] == [
        ("heading", 2, "Oven"), ("code", 0, "x = 1"), ("code", 0, "1")
    ]  # fmt: skip


@pytest.mark.parametrize("content", [[], {}, {"cells": 3}, {"cells": [1, None]}, "x", {"worksheets": [[]]}])
def test_json_that_is_no_notebook(tmp_path: Path, content: object) -> None:
    with pytest.raises(UnreadableDocument, match="no cells"):
        notebook(tmp_path, content)


def test_deep_and_large_json(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text("[" * 100_000)
    with pytest.raises(UnreadableDocument, match="no whole JSON"):
        read_notebook(path)
    path.write_text("[" + "[]," * 1_500_000)
    with pytest.raises(UnreadableDocument, match="more than 2,000,000 values"):
        read_notebook(path)


# --- OpenDocument

_ODF = "urn:oasis:names:tc:opendocument:xmlns"


def opendocument(tmp_path: Path, body: str, *, kind: str = "text") -> ParsedDocument:
    path = tmp_path / "a.odt"
    spaces = " ".join(f'xmlns:{name}="{_ODF}:{name}:1.0"' for name in ("office", "text", "table"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        archive.writestr(
            "content.xml",
            f'<office:document-content {spaces} xmlns:draw="{_ODF}:drawing:1.0"><office:body><office:{kind}>{body}'
            f"</office:{kind}></office:body></office:document-content>",
        )
    assert kind_of(path) == ("opendocument", "")
    return read_opendocument(path)


def test_opendocument_text(tmp_path: Path) -> None:
    body = (
        "<text:tracked-changes><text:p>gone</text:p></text:tracked-changes>"
        '<text:h text:outline-level="2">The <text:span>oven</text:span></text:h>\n'
        '<text:p>It has<text:s text:c="2000000000"/>three<text:note><text:note-citation>1</text:note-citation>'
        "<text:note-body><text:p>Since 2024.</text:p></text:note-body></text:note> wires"
        "<office:annotation><text:p>why?</text:p></office:annotation>.</text:p><text:list><text:list-item><text:p>first</text:p></text:list-item></text:list>"
        "<text:p>See<draw:frame><draw:text-box><text:p>the box</text:p></draw:text-box></draw:frame></text:p>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell>"
        "<text:p>b</text:p></table:table-cell></table:table-row></table:table>"
    )
    parsed = opendocument(tmp_path, body)
    assert texts(parsed) == ["The oven", "It has three wires.", "Since 2024.", "• first", "See", "the box", "a | b"]
    assert parsed.blocks[0].level == 2
    assert removed(parsed) == [("deleted text (tracked change)", "gone"), ("comment", "why?")]


def test_opendocument_sheets(tmp_path: Path) -> None:
    def row(*cells: str) -> str:
        return "<table:table-row>" + "".join(cells) + "</table:table-row>"

    def cell(text: str, repeated: int = 1) -> str:
        inside = f"<text:p>{text}</text:p>" if text else ""
        return f'<table:table-cell table:number-columns-repeated="{repeated}">{inside}</table:table-cell>'

    body = (
        '<table:table table:name="Spares">'
        + row(cell("part"), cell("price"), cell("shop"), cell("", 16_000))
        + row(cell("pump"), cell("", 1), cell("Oslo"), cell("", 2 * 10**9 // 10))
        + '</table:table><table:table table:name="Empty"/>'
    )
    assert texts(opendocument(tmp_path, body, kind="spreadsheet")) == ["Spares", "part: pump; shop: Oslo"]


# --- damage


def samples(folder: Path) -> dict[str, tuple[Callable[[Path], ParsedDocument], bytes]]:
    one = message()
    one.set_content("words")
    one.add_attachment(b"x", maintype="application", subtype="pdf", filename="a.pdf")
    book = epub(folder / "whole.epub", {"a.xhtml": "<p>words</p>"}).read_bytes()
    opendocument(folder, "<text:p>words</text:p>")
    return {
        "rtf": (read_rtf, (HEAD + r"\trowd a\cell\row{\footnote b}\u8364?\'e9\bin3 abc}").encode()),
        "eml": (read_mail, bytes(one)),
        "mbox": (read_mailbox, b"From a\n" + bytes(one) + b"\nFrom b\n" + bytes(one)),
        "epub": (read_epub, book),
        "ipynb": (read_notebook, b'{"cells": [{"cell_type": "code", "source": "x", "outputs": [{"text": "y"}]}]}'),
        "odt": (read_opendocument, (folder / "a.odt").read_bytes()),
    }


@given(data=st.data(), kind=st.sampled_from(["rtf", "eml", "mbox", "epub", "ipynb", "odt"]))
@settings(max_examples=200, deadline=None)
def test_damaged_files_are_listed_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    read, whole = samples(folder)[kind]
    place = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.just(b"") | st.binary(min_size=1, max_size=8).map(lambda noise: noise + whole[place + 4 :]))
    path = folder / f"damaged.{kind}"
    path.write_bytes(whole[:place] + new)
    try:
        read(path)
    except UnreadableDocument as error:
        assert str(error)


_HEAD = b"Subject: Pumps\nFrom: a@b.c\nMIME-Version: 1.0\n"
_LETTER = base64.encodebytes(b"Subject: Inner\nFrom: d@e.f\n\nVent the pump.\n")


@pytest.mark.parametrize(
    "message",
    [
        b"Content-Type: text/markdown\n\nVent the *pump*.\n",
        b"Content-Type: text/enriched\n\nVent the <bold>pump</bold>.\n",
        b"Content-Type: multipart/mixed\n\nVent the pump.\n",
        b"Content-Type: multipart/mixed; boundary=nowhere\n\nVent the pump.\n",
        b"Content-Transfer-Encoding: base64\n\nVent the pump.\n",
        b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(b"Vent the pump.") + b"--\nSent to a list.\n",
        b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n" + _LETTER,
        b"Content-Type: text/plain; a=" + b"b;" * 100_000 + b"\n\nVent the pump.\n",
    ],
)
def test_mail_of_programs_that_break_the_rules(tmp_path: Path, message: bytes) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(_HEAD + message)
    parsed = read_mail(path)
    assert "Vent the pump." in " ".join(texts(parsed)) and not parsed.note
    assert ("Sent to a list." in " ".join(texts(parsed))) == (b"Sent to" in message)


def test_what_a_notebook_shows_as_a_page_is_read(tmp_path: Path) -> None:
    outputs = [
        {"data": {"text/html": ["<p>Vent</p>"], "text/plain": "<IPython.core.display.HTML object>"}},
        {"data": {"text/html": "<table><tr><td>no</table>", "text/plain": "   a\n0  1"}},
        {"data": {"text/markdown": "**the**", "text/plain": "<IPython.core.display.Markdown object>"}},
        {"data": {"text/latex": "$pump$"}},
        {"data": {"image/png": "xx", "text/plain": "<Figure size 640x480 with 1 Axes>"}},
    ]
    parsed = notebook(tmp_path, {"cells": [{"cell_type": "code", "source": "x", "outputs": outputs}]})
    assert texts(parsed) == ["x", "Vent", "   a\n0  1", "the", "$pump$"]


def test_epub_pages_that_no_list_names_and_names_in_another_case(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    items = (
        '<item id="a" href="A.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="notes" href="notes.html" media-type="text/plain"/>'
        '<item id="cover" href="cover.svg" media-type="image/svg+xml"/>'
        '<item id="drawing" href="drawing.svg" media-type="image/svg+xml"/>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "META-INF/container.xml", '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>'
        )
        spine = '<itemref idref="cover"/><itemref idref="a"/>'
        archive.writestr("b.opf", f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>")
        archive.writestr("a.xhtml", "<html><head><title/></head><body><p>Vent <![CDATA[the pump]]></p></body></html>")
        archive.writestr("notes.html", "<p>A note.</p>")
        archive.writestr("cover.svg", "<svg><text>The cover</text></svg>")
        archive.writestr("drawing.svg", "<svg><text>17 mm</text></svg>")
    parsed = read_epub(path)
    assert texts(parsed) == ["The cover", "Vent the pump", "A note."] and not parsed.note
