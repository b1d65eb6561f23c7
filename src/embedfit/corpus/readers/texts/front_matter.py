"""The front matter of a text file: YAML between lines of "---", TOML between lines of "+++"."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from embedfit.corpus.cleaning import clean_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FENCES = {"---": ("---", "..."), "+++": ("+++",)}
#: A line of front matter: a key, an item of a list, a comment, a bracket; lines set in belong to the key before.
_LINE = re.compile(r"(?:[\w\"'][\w.\"' -]{0,80}[ \t]*[:=](?:\s|$)|[-\]})\[{#]|[ \t]|$)")
_KEY = re.compile(r"[\w\"'][\w.\"' -]{0,80}[ \t]*[:=](?:\s|$)|\[")
_MAX_LINES = 1000
#: Longer front matter is not parsed: PyYAML takes a second for a megabyte.
_MAX_CHARACTERS = 100_000
_MAX_DEPTH = 20
_TITLE = re.compile(r"title[ \t]*[:=][ \t]*", re.I)
_FOLDED = re.compile(r"[|>][+-]?\d?")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})?(?:\.[0-9]{1,40})?(?:[eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontMatter:
    """The fields that stand before a text.

    title: as it is written. others: the other lines, joined. fields: by name, without the title. problem: the reason
    why it can't be parsed, or ""; with a problem, `lines` are the other lines, which count as text.
    """

    title: str = ""
    others: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""
    lines: tuple[str, ...] = ()


def front_matter(text: str) -> tuple[FrontMatter, str]:
    """(front matter, the text behind it). Text between two rules is no front matter."""
    first, _, rest = text.partition("\n")
    ends = _FENCES.get(first.rstrip())
    lines: list[str] = []
    at = 0
    while ends and at < len(rest) and len(lines) <= _MAX_LINES:
        end = rest.find("\n", at) + 1 or len(rest)
        line = rest[at:end].rstrip("\n")
        at = end
        if line.rstrip() in ends:
            keys = any(map(_KEY.match, lines))
            if lines and not (lines[0].strip() and keys and all(map(_LINE.match, lines))):
                break
            return _read(lines, is_toml=ends == _FENCES["+++"]), rest[at:]
        lines.append(line)
    return FrontMatter(), text


def _read(lines: list[str], *, is_toml: bool) -> FrontMatter:
    title, others = _title_of(lines)
    name = "TOML" if is_toml else "YAML"
    source = "\n".join(lines)
    try:
        if len(source) > _MAX_CHARACTERS:
            raise ValueError(f"it has more than {_MAX_CHARACTERS:,} characters")
        value = tomllib.loads(source) if is_toml else _yaml(source)
        if not isinstance(value, dict):
            raise ValueError("it is no list of fields")
    except RecursionError:
        problem = f"its front matter is kept as text, for it is no {name} that can be read: it is nested too deeply"
    except ValueError as error:
        problem = f"its front matter is kept as text, for it is no {name} that can be read: {error}"
    else:
        fields = {key: one for key, one in value.items() if str(key).lower() != "title"}
        return FrontMatter(title=title, others=clean_line(" ".join(others)), fields=fields)
    return FrontMatter(title=title, problem=problem, lines=tuple(others))


def _yaml(source: str) -> object:
    """The value of a YAML text: texts, numbers, true, false, null, lists and objects. Raises ValueError.

    As in YAML 1.2, `no` and `on` are words, and a date is a text. Aliases, by which a short file becomes something very
    large, and tags, which name types of a programming language, are refused.
    """
    import yaml  # only the reading process needs it

    found: list[object] = []
    open_ones: list[list[object]] = [found]
    try:
        for event in yaml.parse(source, Loader=yaml.SafeLoader):
            where = f"line {event.start_mark.line + 1}"
            if getattr(event, "anchor", None):
                raise ValueError(f"{where}: anchors and aliases are not read")
            if getattr(event, "tag", None):
                raise ValueError(f"{where}: tags are not read")
            if len(open_ones) > _MAX_DEPTH:
                raise ValueError(f"{where}: it is nested too deeply")
            if isinstance(event, yaml.ScalarEvent):
                open_ones[-1].append(event.value if event.style is not None else _scalar(event.value))
            elif isinstance(event, yaml.CollectionStartEvent):
                open_ones.append([])
            elif isinstance(event, yaml.CollectionEndEvent):
                items = open_ones.pop()
                is_list = isinstance(event, yaml.SequenceEndEvent)
                open_ones[-1].append(items if is_list else dict(zip(map(str, items[::2]), items[1::2], strict=True)))
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    if len(found) > 1:
        raise ValueError("it is more than one document")
    return found[0] if found and found[0] is not None else {}


def _scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar's value, as YAML 1.2's core schema has it."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    if any(char.isdigit() for char in text) and _NUMBER.fullmatch(text):
        return float(text)
    return text


def _title_of(lines: list[str]) -> tuple[str, list[str]]:
    """(the title, the other lines)."""
    title, is_title = "", False
    others: list[str] = []
    for line in lines:
        key = None if title else _TITLE.match(line)
        if key:
            value = line[key.end() :].strip()
            title, is_title = ("", True) if _FOLDED.fullmatch(value) else (clean_line(value.strip("\"'")), False)
        elif is_title and line[:1].isspace():
            title = clean_line(f"{title} {line}")
        else:
            is_title = False
            others.append(line)
    return title, others
