"""Markdown, text, HTML, Word and PowerPoint; encodings."""

from __future__ import annotations

import zipfile
from pathlib import Path

import docx
import pptx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.corpus.blocks import Block, UnreadableDocument
from embedfit.corpus.readers.decoding import decode
from embedfit.corpus.readers.office.docx import read_docx
from embedfit.corpus.readers.office.pptx import read_pptx
from embedfit.corpus.readers.texts import html, markdown
from embedfit.corpus.readers.texts import plain as text


def flat(blocks: object) -> list[tuple[str, int, str]]:
    return [(block.kind, block.level, block.text) for block in blocks]  # type: ignore[attr-defined]


def test_markdown() -> None:
    source = """---
title: "The Manual"
---
# Remote *control*

A paragraph over
two lines with a [link](http://x.y/z) and `code`.<br>Next.

- first item
- second **item**
  with more

| key | use |
|-----|-----|
| mute | no sound |

```sh
mute --now
```

Setext
------
<!-- hidden --><p>shown</p>
"""
    assert flat(markdown.blocks_of(source)) == [
        ("heading", 1, "The Manual"),
        ("heading", 1, "Remote control"),
        ("text", 0, "A paragraph over two lines with a link and code. Next."),
        ("item", 0, "• first item"),
        ("item", 0, "• second item with more"),
        ("table", 0, "key | use\nmute | no sound"),
        ("code", 0, "mute --now"),
        ("heading", 2, "Setext"),
        ("text", 0, "shown"),
    ]


def test_text() -> None:
    source = """The Manual
==========

This paragraph is wrap-
ped over lines and speaks of wrapped
things.

* first item
  goes on
* second item

1.2 Sound

OTHER MATTERS

    name      value
    volume    11
    bass      3
"""
    assert flat(text.blocks_of(source)) == [
        ("heading", 2, "The Manual"),
        ("text", 0, "This paragraph is wrapped over lines and speaks of wrapped things."),
        ("item", 0, "* first item goes on"),
        ("item", 0, "* second item"),
        ("heading", 3, "1.2 Sound"),
        ("heading", 3, "OTHER MATTERS"),
        ("table", 0, "name value\nvolume 11\nbass 3"),
    ]


def test_form_feeds_are_pages() -> None:
    assert [(block.page, block.text) for block in text.blocks_of("one\fto page two")] == [
        (1, "one"),
        (2, "to page two"),
    ]


def test_html() -> None:
    source = """<!doctype html><html><head><title>T &amp; V</title><style>p {color: red}</style></head>
<body><nav><a href=x>Home</a></nav><div role="navigation">menu</div>
<h2>Sound</h2><p>Press <b>mute</b>,<br>then wait.
<p>Another&nbsp;paragraph
<ul><li>one</li><li>two <i>three</i></ul>
<table><tr><th>key</th><th>use</th></tr><tr><td>mute</td><td>no <br>sound</td></tr></table>
<pre>line 1
  line 2</pre>
<script>var x = "<p>not text</p>";</script><footer>imprint</footer></body></html>"""
    assert flat(html.blocks_of(source)) == [
        ("heading", 1, "T & V"),
        ("heading", 2, "Sound"),
        ("text", 0, "Press mute, then wait."),
        ("text", 0, "Another paragraph"),
        ("item", 0, "• one"),
        ("item", 0, "• two three"),
        ("table", 0, "key | use\nmute | no sound"),
        ("code", 0, "line 1\n  line 2"),
    ]


def test_html_without_a_closed_head_or_anything() -> None:
    assert flat(html.blocks_of("<head><meta charset=x><body><p>seen")) == [("text", 0, "seen")]
    assert flat(html.blocks_of("just words & more")) == [("text", 0, "just words & more")]


@given(st.text("<>/pdivh1tablercs =\"'&;!-\n ab", max_size=300))
def test_broken_html_and_markdown_never_fail(source: str) -> None:
    for block in (*html.blocks_of(source), *markdown.blocks_of(source), *text.blocks_of(source)):
        assert isinstance(block, Block)


def test_docx(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("The Manual", 0)
    document.add_heading("Sound", 1)
    document.add_paragraph("Press mute.")
    document.add_paragraph("an item", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, (("key", "use"), ("mute", "no sound")), strict=True):
        for cell, value in zip(row.cells, cells, strict=True):
            cell.text = value
    document.sections[0].header.paragraphs[0].text = "running header"
    document.save(str(tmp_path / "a.docx"))
    assert flat(read_docx(tmp_path / "a.docx").blocks) == [
        ("text", 0, "running header"),
        ("heading", 1, "The Manual"),
        ("heading", 2, "Sound"),
        ("text", 0, "Press mute."),
        ("item", 0, "• an item"),
        ("table", 0, "key | use\nmute | no sound"),
    ]


def test_pptx(tmp_path: Path) -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Sound"
    slide.placeholders[1].text = "Press mute\nor lower the volume"
    slide.notes_slide.notes_text_frame.text = "Show the remote."
    deck.save(str(tmp_path / "a.pptx"))
    parsed = read_pptx(tmp_path / "a.pptx")
    assert parsed.pages == 1
    assert flat(parsed.blocks) == [
        ("heading", 1, "Sound"),
        ("item", 0, "• Press mute"),
        ("item", 0, "• or lower the volume"),
        ("text", 0, "Show the remote."),
    ]


@pytest.mark.parametrize("reader", [read_docx, read_pptx])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04 cut short", "damaged or cut short"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old", "protected by a password, or in the format of Office before 2007"),
    ],
)
def test_damaged_office_files(tmp_path: Path, reader: object, content: bytes, reason: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(UnreadableDocument, match=reason):
        reader(path)  # type: ignore[operator]


def test_another_archive_is_no_word_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UnreadableDocument, match="not a readable Word file"):
        read_docx(tmp_path / "a.docx")


GERMAN = "Drücken Sie die Taste für größere Lautstärke. Über die Menüs können Sie weitere Töne wählen. " * 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_encodings(encoding: str) -> None:
    assert decode(GERMAN.encode(encoding)) == (GERMAN, "")


def test_other_alphabets() -> None:
    russian = "Нажмите кнопку, чтобы выключить звук телевизора. " * 20
    assert decode(russian.encode("cp1251"))[0] == russian


def test_nuls_and_broken_utf8_are_noted() -> None:
    data = GERMAN.encode().replace(b"Taste", b"Ta\x00ste").replace("Menüs".encode(), b"Men\xc3s")
    decoded, note = decode(data)
    assert "Taste" in decoded and "\x00" not in decoded
    assert note == "5 NUL characters removed; 5 characters could not be decoded"


@pytest.mark.parametrize("data", [bytes(range(256)) * 40, b"\x00" * 5000, b"\x7fELF" + bytes(range(32)) * 100])
def test_binary(data: bytes) -> None:
    with pytest.raises(UnreadableDocument, match="binary"):
        decode(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        decoded, _ = decode(data)
    except UnreadableDocument:
        return
    assert "\x00" not in decoded and "\r" not in decoded
