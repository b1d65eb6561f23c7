"""Styles and lists of a Word file, which tell the kind of a paragraph; and the characters of its symbol fonts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from embedfit.corpus.readers.walker import Attributes, Walker

_HEADING_NAME = re.compile(r"heading (\d)", re.I)
_MAX_INHERITANCE = 20
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"),
          (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip
#: The characters that the font Symbol shows for the codes 0x41 to 0x5A, 0x61 to 0x7A and a few others.
_SYMBOLS = {
    **dict(zip(range(0x41, 0x5B), "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ", strict=True)),
    **dict(zip(range(0x61, 0x7B), "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", strict=True)),
    **dict(zip((0xA3, 0xA5, 0xAE, 0xB0, 0xB1, 0xB3, 0xB4, 0xB7, 0xB9, 0xBB, 0xD7, 0xE5), "≤∞→°±≥×•≠≈⋅∑", strict=True)),
}
_WINGDINGS = dict(zip((0x6F, 0xA8, 0xFB, 0xFC, 0xFD, 0xFE, 0xE0, 0xA7, 0xD8), "☐☐✗✓☒☑→•➢", strict=True))


def symbol(font: str, code: str) -> str:
    """The character of a <w:sym>. code: hexadecimal, in Unicode's private area or not."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,6}", code):
        return ""
    number = int(code, 16)
    low = number & 0xFF if 0xF000 <= number <= 0xF0FF else number
    table = _WINGDINGS if "wingdings" in font.lower() else _SYMBOLS if font.lower() == "symbol" else {}
    if low in table:
        return table[low]
    private = 0xE000 <= number <= 0xF8FF
    return (
        ""
        if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF
        else chr(low if private and 0x20 <= low < 0x7F else number)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """A paragraph style. outline: 0 for the highest headings, None for text. list_id, list_level: its numbering."""

    name: str = ""
    parent: str = ""
    outline: int | None = None
    list_id: str = ""
    list_level: int | None = None

    @property
    def is_title(self) -> bool:
        """Whether the style is that of the whole document's title."""
        return self.name.lower() == "title"

    @property
    def is_contents(self) -> bool:
        """Whether the style is that of lines of the table of contents."""
        return self.name.lower().startswith("toc")

    @property
    def is_list(self) -> bool:
        """Whether the style's paragraphs are list items even without numbering."""
        return self.name.lower().startswith("list") and not self.name.lower().startswith("list paragraph")


class Styles(Walker):
    """The styles of a document by their ids, once a part was walked."""

    def __init__(self) -> None:
        super().__init__()
        self._styles: dict[str, Style] = {}
        self._resolved: dict[str, Style] = {}
        self._id = ""
        self._style = Style()
        self.opens |= {
            "w:style": self._open,
            "w:name": lambda a: self._set(name=a.get("w:val", "")),
            "w:basedOn": lambda a: self._set(parent=a.get("w:val", "")),
            "w:outlineLvl": lambda a: self._set(outline=number(a)),
            "w:numId": lambda a: self._set(list_id=a.get("w:val", "")),
            "w:ilvl": lambda a: self._set(list_level=number(a)),
        }
        self.closes["w:style"] = lambda: self._styles.update({self._id: self._style})

    def _open(self, attributes: Attributes) -> None:
        self._id, self._style = attributes.get("w:styleId", ""), Style()

    def _set(self, **values: object) -> None:
        self._style = replace(self._style, **values)  # type: ignore[arg-type]

    def get(self, identifier: str) -> Style:
        """A style with its inherited properties. An undefined id is taken for the style's name."""
        if identifier not in self._resolved:
            self._resolved[identifier] = self._resolve(identifier)
        return self._resolved[identifier]

    def _resolve(self, identifier: str) -> Style:
        style = result = self._styles.get(identifier, Style(name=re.sub(r"(?<=\D)(?=\d$)", " ", identifier)))
        for _ in range(_MAX_INHERITANCE):
            match = _HEADING_NAME.fullmatch(style.name)
            if result.outline is None:
                result = replace(result, outline=int(match[1]) - 1 if match else style.outline)
            if not result.list_id:
                result = replace(result, list_id=style.list_id)
            if result.list_level is None:
                result = replace(result, list_level=style.list_level)
            if not style.parent or style.parent not in self._styles:
                break
            style = self._styles[style.parent]
        return result


@dataclass(slots=True)
class _Level:
    """A level of a list. text: its label, with %1 for the number of the first level."""

    start: int = 1
    form: str = "decimal"
    text: str = ""
    style: str = ""


@dataclass(slots=True)
class _List:
    levels: dict[int, _Level] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


class Numbering(Walker):
    """The labels of list items and numbered headings, which Word computes and does not store."""

    def __init__(self) -> None:
        super().__init__()
        self._lists: dict[str, _List] = {}
        self._of_number: dict[str, str] = {}
        self._started: dict[str, dict[int, int]] = {}
        self._list = _List()
        self._level = _Level()
        self._number = ""
        self._override = 0
        self.opens |= {
            "w:abstractNum": self._open_list,
            "w:lvl": self._open_level,
            "w:start": lambda a: setattr(self._level, "start", number(a) or 0),
            "w:numFmt": lambda a: setattr(self._level, "form", a.get("w:val", "decimal")),
            "w:lvlText": lambda a: setattr(self._level, "text", a.get("w:val", "")[:60]),
            "w:pStyle": lambda a: setattr(self._level, "style", a.get("w:val", "")),
            "w:num": lambda a: setattr(self, "_number", a.get("w:numId", "")),
            "w:abstractNumId": lambda a: self._of_number.update({self._number: a.get("w:val", "")}),
            "w:lvlOverride": lambda a: setattr(self, "_override", number(a, "w:ilvl") or 0),
            "w:startOverride": lambda a: self._started.setdefault(self._number, {}).update(
                {self._override: number(a) or 0}
            ),
        }

    def _open_list(self, attributes: Attributes) -> None:
        self._list = self._lists[attributes.get("w:abstractNumId", "")] = _List()

    def _open_level(self, attributes: Attributes) -> None:
        self._level = _Level()
        if not self._number:  # levels after the first <w:num> are overrides of single lists
            self._list.levels[number(attributes, "w:ilvl") or 0] = self._level

    def label(self, list_id: str, level: int | None, style: str) -> str:
        """The label of the next paragraph of a list: "•", "3.", "(b)", "2.1"; "" for a paragraph outside lists."""
        found = self._lists.get(self._of_number.get(list_id, ""))
        if not list_id or list_id == "0":
            return ""
        if found is None:
            return "•"
        if level is None:
            level = next((depth for depth, one in found.levels.items() if style and one.style == style), 0)
        here = found.levels.get(level)
        if here is None or here.form in ("bullet", "none") or not here.text:
            return "•" if here is None or here.form == "bullet" else ""
        override = self._started.get(list_id, {}).pop(level, None)
        if override is not None:
            found.counts[level] = override
        else:
            found.counts[level] = found.counts.get(level, here.start - 1) + 1
        for deeper in [depth for depth in found.counts if depth > level]:
            del found.counts[deeper]

        def shown(match: re.Match[str]) -> str:
            depth = int(match[1]) - 1
            one = found.levels.get(depth, _Level())
            return _written(found.counts.get(depth, one.start), one.form)

        return re.sub(r"%(\d)", shown, here.text).strip()


def _written(number: int, form: str) -> str:
    if form in ("lowerLetter", "upperLetter") and number > 0:
        letters = chr(ord("a") + (number - 1) % 26) * min((number - 1) // 26 + 1, 10)
        return letters.upper() if form == "upperLetter" else letters
    if form in ("lowerRoman", "upperRoman") and 0 < number < 4000:
        digits = ""
        for value, sign in _ROMAN:
            digits += sign * (number // value)
            number %= value
        return digits.upper() if form == "upperRoman" else digits
    return f"{number:02d}" if form == "decimalZero" else str(number)


def number(attributes: Attributes, name: str = "w:val") -> int | None:
    """The whole number in an attribute, None for none."""
    value = attributes.get(name, "")
    return int(value) if re.fullmatch(r"\d{1,6}", value) else None
