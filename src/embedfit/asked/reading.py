"""The reader of files of questions for all commands. A line is a plain text or a JSON object.

    how do I mute the tv
    {"query": "how do I mute the tv", "positives": ["manual.pdf#0012", "remote.md"]}
    {"_id": "q1", "text": "how do I mute the tv"}

The lines of one file may differ in form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedfit.errors import InputError
from embedfit.files.textfiles import lines_of, parsed_json

#: Control characters, byte order marks inside a text, and the line ends of Unicode.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufeff\u2028\u2029]+")
NO_TEXT = "the query has no text"
#: Members of a JSON object that may hold the question; the first one present is read.
_TEXTS = ("text", "query", "question")
#: Ends of the names of tables, whose lines hold more than a question.
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a file of questions that is not blank.

    number: the line's, from 1. identifier: its _id or query_id, or else the line's number. positives: ids of passages
    or names of documents that the file gives as answers. problem: why the line holds no question, and then text is
    empty; it never quotes the line, because people's questions must not get into logs.
    """

    number: int
    text: str = ""
    identifier: str = ""
    positives: tuple[str, ...] = ()
    problem: str = ""


def rows_of(path: Path) -> Iterator[Row]:
    """The lines of a file that are not blank, streamed. Raises InputError if it is missing or is no text.

    A line that begins with a brace but is no JSON counts as a question, unless the file had JSON before it.
    """
    is_json, between = False, _TABLES.get(path.suffix.lower())
    for number, line in lines_of(path):
        stripped = line.strip()
        if between is not None and between in stripped and not is_json and stripped[0] != "{":
            raise InputError(
                f"{path}, line {number}: this is a table, and which column holds the question is not known.",
                remedy="Save the questions alone, one a line, as a file that ends in .txt, or as JSONL.",
            )
        if not stripped:
            continue
        if stripped[0] != "{":
            yield _row(number, {"text": stripped})
            continue
        try:
            value = parsed_json(stripped, "")
        except InputError:
            yield Row(number=number, problem="it is not JSON") if is_json else _row(number, {"text": stripped})
            continue
        is_json = True
        assert isinstance(value, dict)  # it begins with "{"
        yield _row(number, value)


def _row(number: int, value: Mapping[str, object]) -> Row:
    text = next((value[name] for name in _TEXTS if name in value), None)
    shown = cleaned(text) if isinstance(text, str) else ""
    if not shown:
        return Row(number=number, problem=NO_TEXT)
    positives = value.get("positives") or ()
    if isinstance(positives, str):
        positives = (positives,)
    if not isinstance(positives, (list, tuple)) or not all(isinstance(one, str | int) for one in positives):
        return Row(number=number, problem="its positives are no list of ids")
    identifier = value.get("_id", value.get("query_id"))
    if isinstance(identifier, bool) or not isinstance(identifier, str | int | None):
        return Row(number=number, problem="its _id is neither a text nor a whole number")
    return Row(
        number=number,
        text=shown,
        identifier=str(number if identifier is None else identifier).strip() or str(number),
        positives=tuple(map(str, positives)),
    )


def cleaned(text: str) -> str:
    """A text in one line, without control characters."""
    return " ".join(_CONTROL.sub(" ", text).split())


def read_queries(path: Path) -> list[tuple[str, str]]:
    """(id, text) of every question of a file. Raises InputError with file and line for a line without a question.

    The id of a question without one is its line's number.
    """
    found: dict[str, str] = {}
    for row in rows_of(path):
        if row.problem:
            raise InputError(
                f"{path}, line {row.number}: {row.problem}.",
                remedy='For example: {"_id": "q1", "text": "how do I …"}',
            )
        if row.identifier in found:
            raise InputError(f"{path}, line {row.number}: the _id {row.identifier!r} occurs twice.")
        found[row.identifier] = row.text
    if not found:
        raise InputError(f"{path} holds no query.", remedy="One query a line, or JSONL with _id and text.")
    return list(found.items())
