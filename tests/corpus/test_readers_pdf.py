"""PDFs that are made by hand: forms, comments, turned pages, damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.readers.pdf import reader as pdf
from embedfit.corpus.readers.pdf.reader import read_pdf

LINES = (
    "The crane of the harbour lifts twelve tonnes at most, and the wind",
    "must stay below forty knots while it works at night.",
    "Its brakes are tested by the foreman at the start of each shift.",
)


def build(contents: Sequence[bytes], annotations: Sequence[str] = (), *, rotate: int = 0, count: int = 0) -> bytes:
    """A PDF of pages with these content streams. annotations: of the first page; fields have a /FT.

    count: how many pages it claims to have, 0 for the truth.
    """
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    objects = [b"", b"", font, *(text.encode("latin-1") for text in annotations)]
    listed = " ".join(f"{4 + index} 0 R" for index in range(len(annotations)))
    fields = " ".join(f"{4 + index} 0 R" for index, text in enumerate(annotations) if "/FT" in text)
    kids = []
    for content in contents:
        objects.append(b"<</Length %d>>stream\n%b\nendstream" % (len(content), content))
        page = (
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Rotate {rotate}/Contents {len(objects)} 0 R"
            f"/Resources<</Font<</F 3 0 R>>>>/Annots[{'' if kids else listed}]>>"
        )
        objects.append(page.encode())
        kids.append(f"{len(objects)} 0 R")
    form = f"/AcroForm<</Fields[{fields}]/DR<</Font<</F 3 0 R>>>>/DA(/F 11 Tf)>>" if fields else ""
    objects[0] = f"<</Type/Catalog/Pages 2 0 R{form}>>".encode()
    objects[1] = f"<</Type/Pages/Kids[{' '.join(kids)}]/Count {count or len(kids)}>>".encode()
    data = b"%PDF-1.7\n"
    places = []
    for number, one in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    trailer = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(data))
    return data + head + table + trailer


def text_at(x: float, y: float, text: str, matrix: str = "1 0 0 1", size: int = 12) -> bytes:
    return f"BT /F {size} Tf {matrix} {x} {y} Tm ({text}) Tj ET\n".encode()


def page(*lines: str) -> bytes:
    return b"".join(text_at(60, 700 - 15 * number, line) for number, line in enumerate(lines))


def read(path: Path, data: bytes) -> ParsedDocument:
    path = path / "a.pdf"
    path.write_bytes(data)
    return read_pdf(path)


def joined(parsed: ParsedDocument) -> str:
    return "\n".join(block.text for block in parsed.blocks)


#: By quarter turns counter-clockwise: the text matrix, where line n begins, and where a word x points on begins.
_TURNS = {
    0: ("1 0 0 1", lambda n: (60, 700 - 15 * n), (1, 0)),
    90: ("0 1 -1 0", lambda n: (100 + 15 * n, 60), (0, 1)),
    180: ("-1 0 0 -1", lambda n: (550, 60 + 15 * n), (-1, 0)),
    270: ("0 -1 1 0", lambda n: (500 - 15 * n, 730), (0, -1)),
}


@pytest.mark.parametrize("turned_page", [True, False])
@pytest.mark.parametrize("word_by_word", [True, False])
@pytest.mark.parametrize("turn", sorted(_TURNS))
def test_turned_text_comes_out_as_sentences(tmp_path: Path, turn: int, word_by_word: bool, turned_page: bool) -> None:
    matrix, start, (right, up) = _TURNS[turn]
    content = b""
    for number, line in enumerate(LINES):
        x, y = start(number)
        for word in line.split() if word_by_word else [line]:
            content += text_at(x, y, word, matrix)
            step = 6.2 * len(word) + 4
            x, y = x + step * right, y + step * up
    parsed = read(tmp_path, build([content], rotate=turn if turned_page else 0))
    assert joined(parsed) == " ".join(LINES)


def test_a_turned_table_beside_upright_text(tmp_path: Path) -> None:
    upright = b"".join(text_at(60, 700 - 15 * number, line) for number, line in enumerate(LINES))
    turned = b"".join(
        text_at(480 + 15 * number, 100, line, "0 1 -1 0")
        for number, line in enumerate(("Turned words are", "one text."))
    )
    text = joined(read(tmp_path, build([upright + turned])))
    assert " ".join(LINES) in text
    assert "Turned words are one text." in text


def widget(kind: str, value: str, box: str, more: str = "") -> str:
    return f"<</Type/Annot/Subtype/Widget/FT/{kind}/T(f{abs(hash((value, box)))}){value}/Rect[{box}]/F 4{more}>>"


def test_typed_values_stand_where_they_were_typed(tmp_path: Path) -> None:
    data = build(
        [
            page(
                "Inspection report of the lift in house number nine.",
                "Tenant:",
                "Floor:",
                "The lift is safe",
                "Signed.",
            )
        ],
        [
            widget("Tx", "/V(Rosalind Achterberg)", "120 680 300 697"),
            widget("Ch", "/V(3)/Opt[[(2)(second floor)][(3)(third floor)]]/Ff 131072", "120 665 300 682"),
            widget("Btn", "/V/Yes/AS/Yes", "160 650 172 664", "/AP<</N<</Yes 3 0 R/Off 3 0 R>>>>"),
            widget(
                "Tx",
                "/V(The rope shows three broken strands.\\rIt must be replaced.)",
                "60 500 300 560",
                "/TU(Finding)",
            ),
            widget("Tx", "/V(hunter2)/Ff 8192", "60 400 300 420"),
            widget("Tx", "/V()", "60 300 300 320"),
        ],
    )
    parsed = read(tmp_path, data)
    text = joined(parsed)
    assert "Tenant: Rosalind Achterberg" in text
    assert "Floor: third floor" in text
    assert "☒ The lift is safe" in text
    assert "Finding: The rope shows three broken strands. It must be replaced." in text
    assert "hunter2" not in text
    order = [text.index(word) for word in ("nine", "Rosalind", "third", "safe", "Signed", "rope", "replaced")]
    assert order == sorted(order)


def test_a_field_shown_twice_is_read_once(tmp_path: Path) -> None:
    shared = "<</Type/Annot/Subtype/Widget/FT/Tx/T(name)/V(Rosalind)/Rect[{} 680 300 697]/F 4>>"
    data = build([page("Inspection report of the lift.")], [shared.format(100), shared.format(200)])
    assert joined(read(tmp_path, data)).count("Rosalind") == 1


def test_a_form_without_any_other_text_is_read(tmp_path: Path) -> None:
    value = widget("Tx", "/V(The governor rope shows three broken strands.)", "60 500 300 560")
    assert joined(read(tmp_path, build([b""], [value]))) == "The governor rope shows three broken strands."


def test_text_boxes_are_read_and_comments_are_listed(tmp_path: Path) -> None:
    boxes = [
        "<</Type/Annot/Subtype/FreeText/Contents(Beware of the dog.)/Rect[60 600 200 620]/DA(/F 11 Tf)>>",
        "<</Type/Annot/Subtype/Text/Contents(Is this true?)/Rect[300 600 320 620]>>",
        "<</Type/Annot/Subtype/FreeText/Contents(Unseen.)/Rect[60 500 200 520]/DA(/F 11 Tf)/F 2>>",
    ]
    parsed = read(tmp_path, build([page(*LINES)], boxes))
    assert "Beware of the dog." in joined(parsed)
    assert "Unseen" not in joined(parsed)
    assert [(one.reason, one.preview, one.page) for one in parsed.removed] == [("comment", "Is this true?", 1)]


def test_scans_are_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match=r"no text layer \(scanned\): no text in its 2 pages"):
        read(tmp_path, build([b"0 0 100 100 re f", b""]))


def test_a_wrong_cross_reference_table_is_mended(tmp_path: Path) -> None:
    data = build([page(*LINES)])
    assert joined(read(tmp_path, data.replace(b"startxref\n", b"startxref\n9"))) == " ".join(LINES)
    assert joined(read(tmp_path, b"\n\n" + data)) == " ".join(LINES)


def test_pages_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_MAX_DAMAGED", 5)
    text = joined(read(tmp_path, build([page(*LINES)], count=2**31 - 1)))
    assert text == " ".join(LINES)
    monkeypatch.setattr(pdf, "_MAX_PAGES", 2)
    parsed = read(tmp_path, build([page(*LINES)] * 3))
    assert parsed.note == "only the first 2 of 3 pages were read"


WHOLE = build([page(*LINES)] * 2, [widget("Tx", "/V(Rosalind)", "60 500 300 560")])


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_files_are_listed_with_a_reason(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        damaged = WHOLE[: data.draw(st.integers(0, len(WHOLE) - 1))]
    else:
        place = data.draw(st.integers(0, len(WHOLE) - 1))
        damaged = WHOLE[:place] + data.draw(st.binary(min_size=1, max_size=12)) + WHOLE[place + 12 :]
    try:
        read(tmp_path_factory.getbasetemp(), damaged)
    except UnreadableDocument as error:
        assert str(error)
