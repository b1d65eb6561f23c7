"""Rich Text Format → blocks."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from embedfit.corpus.blocks import Block, ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.tables import Table

_TOKEN = re.compile(
    rb"\\(?P<word>[a-zA-Z]{1,32})(?P<number>-?\d{1,10})? ?|\\'(?P<hex>[0-9a-fA-F]{2})|\\(?P<sign>[^a-zA-Z])"
    rb"|(?P<brace>[{}])|(?P<text>[^\\{}\r\n]+)"
)
#: Groups whose content is no text of the document. Groups that begin with \* are left out too, except _KNOWN.
_SKIPPED = frozenset(
    "fonttbl colortbl stylesheet info pict objdata fldinst listtable listoverridetable rsidtbl xmlnstbl themedata "
    "colorschememapping latentstyles datastore generator filetbl revtbl bkmkstart bkmkend xe tc nonshppict "
    "pnseclvl panose falt atnid atnref atntime atndate atnicn mmath template private sp".split()
)
_KNOWN = frozenset(("shpinst", "shptxt", "annotation", "footnote", "ud", "shprslt"))
_CODECS = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}
#: Groups that are paragraphs of their own: they are read after the paragraph that holds them.
_APART = frozenset("footnote header headerl headerr headerf footer footerl footerr footerf annotation shptxt".split())
_CHARACTERS = {
    "tab": " ", "line": " ", "lbr": " ", "emdash": "—", "endash": "–", "bullet": "•", "lquote": "‘", "rquote": "’",
    "ldblquote": "“", "rdblquote": "”", "emspace": " ", "enspace": " ", "qmspace": " ",
    "zwj": "\u200d", "zwnj": "\u200c",
}  # fmt: skip
_SIGNS = {b"~": "\u00a0", b"_": "-", b"\\": "\\", b"{": "{", b"}": "}", b"\t": " "}
#: The code page of a font by its \fcharset. 0 and 1 mean the document's.
_CHARSETS = {
    77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "cp936", 136: "cp950", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
    238: "cp1250", 255: "cp437",
}  # fmt: skip
#: Fonts whose letters are pictures, so that their codes have no meaning as text.
_SYMBOL_CHARSET = 2
_HEADING = re.compile(r"heading (\d)", re.I)
_MAX_HEADING = 350
_MAX_DEPTH = 10_000


def read_rtf(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of an RTF file. Deleted text and comments are listed as removed."""
    data = path.read_bytes()
    if not data.lstrip()[:5] == rb"{\rtf":
        raise UnreadableDocument("not a readable RTF file: it does not begin as one")
    reader = _Rtf(data)
    reader.run()
    note = "the file is cut short" if reader.depth > 0 else ""
    return ParsedDocument(blocks=tuple(reader.blocks), note=note, removed=tuple(reader.removed))


@dataclass(frozen=True, slots=True)
class _State:
    """Settings that hold inside a group. skip: whether its text is left out. group: the group's destination."""

    skip: bool = False
    group: str = ""
    font: int = -1
    fallback: int = 1
    deleted: bool = False
    starred: bool = False
    fresh: bool = True


@dataclass(slots=True)
class _Paragraph:
    parts: list[str] = field(default_factory=list)
    style: int = 0
    level: int = 9
    in_table: bool = False
    after: list[Block] = field(default_factory=list)


class _Rtf:
    """Goes through the tokens of a file once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._codec = "cp1252"
        self._fonts: dict[int, str] = {}
        self._headings: dict[int, int] = {}
        self._entry = 0
        self._style_name: list[str] = []
        self._state = _State()
        self._stack: list[_State] = []
        self._pending = bytearray()
        self._high = 0
        self._unseen = 0
        self._paragraph = _Paragraph()
        #: Paragraphs that wait for a note or box inside them: depth, number of blocks before it, paragraph, table.
        self._outer: list[tuple[int, int, _Paragraph, Table | None]] = []
        self._table: Table | None = None
        self._deleted: list[str] = []
        self.blocks: list[Block] = []
        self.removed: list[Removed] = []

    @property
    def depth(self) -> int:
        """How many groups are open."""
        return len(self._stack)

    def run(self) -> None:
        """Read the whole file."""
        position = 0
        while (match := _TOKEN.search(self._data, position)) is not None:
            position = match.end()
            if match["text"] is not None or match["hex"] is not None:
                self._bytes(match["text"] if match["text"] is not None else bytes.fromhex(match["hex"].decode()))
                continue
            self._flush()
            if match["brace"] == b"{":
                self._open()
            elif match["brace"] == b"}":
                self._close()
                if not self._stack:
                    break
            elif match["word"] is not None:
                number = int(match["number"]) if match["number"] is not None else None
                word = match["word"].decode()
                if word == "bin":
                    position += min(max(number or 0, 0), len(self._data))
                else:
                    self._word(word, number)
            else:
                self._sign(match["sign"])
        self._flush()
        while self._outer:
            self._end_apart()
        self._end_paragraph()
        self._end_table()

    # --- groups

    def _open(self) -> None:
        if len(self._stack) >= _MAX_DEPTH:
            raise UnreadableDocument(f"its groups are nested more than {_MAX_DEPTH:,} deep")
        self._stack.append(self._state)
        # \upr holds the text twice, for old programs and in Unicode; the second one is read.
        is_old_form = self._state.group == "upr"
        self._state = replace(self._state, group="", starred=False, fresh=True, skip=self._state.skip or is_old_form)

    def _close(self) -> None:
        if self._outer and self._outer[-1][0] == len(self._stack):
            self._end_apart()
        self._end_style()
        if self._stack:
            self._state = self._stack.pop()
        if self._deleted and not self._state.deleted:
            self._end_deleted()

    def _end_apart(self) -> None:
        """End a footnote, box or header, which follows the paragraph that holds it, or a comment, which is listed."""
        _, before, outer, table = self._outer.pop()
        self._end_paragraph()
        self._end_table()
        found = self.blocks[before:]
        del self.blocks[before:]
        self._paragraph, self._table = outer, table
        if self._state.group == "annotation":
            text = " ".join(block.text for block in found)
            if text:
                self.removed.append(Removed(page=0, reason="comment", preview=text))
        else:
            outer.after += found

    # --- tokens

    def _word(self, word: str, number: int | None) -> None:
        if word == "u":
            self._unicode(number or 0)
            return
        if not (self._begins_group(word) or self._sets_characters(word, number)):
            if word in ("s", "outlinelevel") and self._in("stylesheet"):
                self._style_word(word, number or 0)
            elif not self._state.skip:
                self._layout(word, number)
        self._state = replace(self._state, fresh=False)

    def _begins_group(self, word: str) -> bool:
        """Handle a word that names the destination of its group. Returns whether it is one."""
        state = self._state
        if word == "upr":
            self._state = replace(state, group=word)
        elif word == "ud" and state.starred and self._stack and self._stack[-1].group == "upr":
            self._state = replace(state, skip=self._stack[-1].skip)
        elif word in _SKIPPED or (state.starred and state.fresh and word not in _KNOWN):
            self._state = replace(state, skip=True, group=word)
        elif word in _APART and state.fresh and not state.skip:
            self._state = replace(state, group=word)
            self._outer.append((len(self._stack), len(self.blocks), self._paragraph, self._table))
            self._paragraph, self._table = _Paragraph(), None
        else:
            return False
        return True

    def _sets_characters(self, word: str, number: int | None) -> bool:
        """Handle a word that decides how bytes become text: font, code page, fallbacks. Returns whether it is one."""
        state = self._state
        if word == "f":
            self._state = replace(state, font=number or 0)
            self._entry = number or 0
        elif word == "fcharset":
            self._fonts[self._entry] = "" if number == _SYMBOL_CHARSET else _CHARSETS.get(number or 0, self._codec)
        elif word == "ansicpg":
            self._codec = _codec(number)
        elif word in _CODECS:
            self._codec = _CODECS[word]
        elif word == "uc":
            self._state = replace(state, fallback=min(max(number or 0, 0), 10))
        elif word == "plain":
            self._state = replace(state, font=-1, deleted=False)
        elif word == "deleted":
            self._state = replace(state, deleted=number != 0)
        else:
            return False
        return True

    def _layout(self, word: str, number: int | None) -> None:
        """Handle a word that begins, ends or describes a paragraph or table."""
        if word in _CHARACTERS:
            self._text(_CHARACTERS[word])
        elif word in ("par", "sect", "page", "column", "softpage"):
            self._end_paragraph()
        elif word == "pard":
            self._paragraph.style, self._paragraph.level, self._paragraph.in_table = 0, 9, False
        elif word == "s":
            self._paragraph.style = number or 0
        elif word == "outlinelevel":
            self._paragraph.level = number or 0
        elif word == "intbl":
            self._paragraph.in_table = True
        elif word in ("cell", "nestcell"):
            self._end_cell()
        elif word in ("row", "nestrow") and self._table is not None:
            self._table.row()

    def _sign(self, sign: bytes) -> None:
        if sign == b"*":
            self._state = replace(self._state, starred=True)
        elif sign in b"\r\n":
            self._layout("par", None)
        elif sign in _SIGNS:
            self._text(_SIGNS[sign])

    def _bytes(self, data: bytes) -> None:
        if self._unseen:
            taken = min(self._unseen, len(data))
            self._unseen -= taken
            data = data[taken:]
        if data and not self._state.skip:
            self._pending += data
        elif data and self._in("stylesheet"):
            self._style_name.append(data.decode("latin-1"))

    def _flush(self) -> None:
        if self._pending:
            codec = self._fonts.get(self._state.font, self._codec) if self._state.font >= 0 else self._codec
            data, self._pending = bytes(self._pending), bytearray()
            if codec:
                self._text(data.decode(codec, "replace"))

    def _unicode(self, number: int) -> None:
        number %= 1 << 16
        self._unseen = self._state.fallback
        if 0xD800 <= number < 0xDC00:
            self._high = number
            return
        if 0xDC00 <= number < 0xE000:
            high, self._high = self._high, 0
            if high:
                self._text(chr(0x10000 + ((high - 0xD800) << 10) + number - 0xDC00))
            return
        self._text(chr(number))

    # --- text

    def _text(self, text: str) -> None:
        if self._state.skip:
            return
        if self._state.deleted:
            self._deleted.append(text)
            return
        if self._deleted:
            self._end_deleted()
        self._paragraph.parts.append(text)

    def _end_deleted(self) -> None:
        text = clean_line("".join(self._deleted))
        self._deleted.clear()
        if text:
            self.removed.append(Removed(page=0, reason="deleted text (tracked change)", preview=text))

    def _paragraph_blocks(self) -> Iterator[Block]:
        paragraph = self._paragraph
        text = clean_line("".join(paragraph.parts))
        level = self._headings.get(paragraph.style, 9) if paragraph.level > 8 else paragraph.level
        if text and 0 <= level <= 8 and len(text) <= _MAX_HEADING:
            yield Block(kind="heading", text=text, level=level + 1)
        elif text.startswith("• "):
            yield Block(kind="item", text=text)
        elif text:
            yield Block(kind="text", text=text)
        yield from paragraph.after
        paragraph.parts, paragraph.after = [], []

    def _end_paragraph(self) -> None:
        found = list(self._paragraph_blocks())
        if self._paragraph.in_table and self._table is not None and self._table.rows and self._table.rows[-1]:
            self._table.rows[-1][-1].extend(found)
            return
        if found and not self._paragraph.in_table:
            self._end_table()
        self.blocks += found

    def _end_cell(self) -> None:
        if self._table is None:
            self._table = Table()
        self._table.cell().extend(self._paragraph_blocks())

    def _end_table(self) -> None:
        if self._table is not None:
            self.blocks += self._table.blocks()
            self._table = None

    # --- styles

    def _in(self, group: str) -> bool:
        return self._state.group == group or any(state.group == group for state in self._stack[-3:])

    def _style_word(self, word: str, number: int) -> None:
        if word == "s":
            self._entry = number
        elif number <= 8:
            self._headings[self._entry] = number

    def _end_style(self) -> None:
        if self._style_name:
            match = _HEADING.match("".join(self._style_name).strip())
            if match:
                self._headings[self._entry] = int(match[1]) - 1
            self._style_name.clear()


def _codec(number: int | None) -> str:
    name = "utf-8" if number == 65001 else f"cp{number}"
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "cp1252"


READER = Reader(kind="rtf", extensions=(".rtf",), read=read_rtf, sniff=lambda head: head.lstrip()[:5] == rb"{\rtf")
