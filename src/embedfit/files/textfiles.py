r"""Text files of people and of other programs, line by line: encoding, line ends, and errors with the line.

A line ends at "\n", before which one "\r" is dropped. Form feeds, vertical tabs, NEL, U+2028 and U+2029 are text:
`str.splitlines` breaks a line at each of them, and so gives more lines than the file has.

It reads UTF-8, UTF-16 and UTF-32 with a byte order mark, and UTF-16 without one if its zero bytes show it. Any other
encoding is refused, with the line and the command that makes a UTF-8 copy, because bytes don't show which of Latin-1's
dozens of relatives they are written in.
"""

from __future__ import annotations

import codecs
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from embedfit.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: A JSON value as json.loads gives it; its reader checks the content.
Json: TypeAlias = Any
JsonObject: TypeAlias = dict[str, Any]

#: Characters of the longest line, and bytes of the largest file that is read as one value.
MAX_LINE = 1 << 26
MAX_DOCUMENT = 1 << 30
_BLOCK = 1 << 18
_SNIFFED = 4096
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its line end) of every line, streamed.

    Raises InputError, with file and line, for bytes that are no text in the file's encoding, and for a line of more
    than MAX_LINE characters.
    """
    number, parts, size = 1, [""], 0
    for text in _decoded(path):
        *ended, rest = text.split("\n")
        for piece in ended:
            parts.append(piece)
            yield number, _line(parts)
            number, parts, size = number + 1, [""], 0
        parts.append(rest)
        size += len(rest)
        if size > MAX_LINE:
            raise InputError(
                f"{path}, line {number}: the line is longer than {MAX_LINE:,} characters.",
                remedy="Break it into shorter lines; each text or JSON object must be on a line of its own.",
            )
    if any(parts):
        yield number, _line(parts)


def _line(parts: list[str]) -> str:
    # Joining files leaves byte order marks inside; at the start of a line one is never text.
    return "".join(parts).removesuffix("\r").removeprefix("\ufeff")


def text_of(path: Path) -> str:
    """The whole text of a file, with its line ends as they are. Raises InputError as `lines_of` does."""
    with _explained(path):
        size = path.stat().st_size
    if size > MAX_DOCUMENT:
        raise InputError(f"{path} has {size:,} bytes; at most {MAX_DOCUMENT:,} are read as one value.")
    return "".join(_decoded(path)).removeprefix("\ufeff")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """(line number, object) of every line that is not blank. Raises InputError with file and line."""
    for number, line in lines_of(path):
        if line.strip():
            value = parsed_json(line, f"{path}, line {number}")
            if not isinstance(value, dict):
                raise InputError(
                    f"{path}, line {number}: expected a JSON object.",
                    remedy='A JSONL file has one object on each line, such as {"_id": "1", "text": "…"}.',
                )
            yield number, value


def json_of(path: Path) -> object:
    """The value of a file that is one JSON document. Raises InputError with file, line and column."""
    return parsed_json(text_of(path), str(path))


def toml_of(path: Path, remedy: str | None = None) -> JsonObject:
    """The table of a TOML file. Raises InputError with file, and with the line if the parser names it."""
    text = text_of(path)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error or 'it is nested too deeply'}", remedy=remedy) from error


def parsed_json(text: str, where: str) -> object:
    r"""The value of a JSON text. Halves of surrogate pairs ("\ud83d" alone) become U+FFFD: no tokenizer takes them.

    where: the place that the error names, such as "corpus.jsonl, line 3".
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{where}: not JSON that can be read: it is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}).") from error
    return without_surrogates(value) if "\\ud" in text or "\\uD" in text or _SURROGATES.search(text) else value


def without_surrogates(value: Json) -> Json:
    """A JSON value with U+FFFD for every lone surrogate in its texts and keys. Its depth is what json.loads allows."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value


def encoding_of(head: bytes, size: int) -> tuple[str, int]:
    """The encoding that a file's first bytes show, and the number of bytes of its mark; UTF-8 if they show none.

    size: the file's, in bytes.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    even, odd = head[0::2].count(0), head[1::2].count(0)
    for name, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        # ASCII characters have a zero byte on one side there; few characters have one on the other.
        start = head[:2].replace(b"\0", b"")
        enough = start in (b"{", b"[", b'"') or 5 * zeros >= len(head) > 8
        if zeros > 8 * others and enough and size % 2 == 0 and _is_text(head[: len(head) & ~1], name):
            return name, 0
    return "utf-8", 0


def _is_text(head: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(head)
    except UnicodeDecodeError:
        return False
    return not any(char < " " and char not in "\t\n\r\f\v" for char in text)


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file, block by block, without its byte order mark."""
    with _explained(path), path.open("rb") as file:
        head = file.read(_SNIFFED)
        encoding, mark = encoding_of(head, path.stat().st_size)
        yield from _blocks(path, file, head[mark:], encoding)


def _blocks(path: Path, file: IO[bytes], block: bytes, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    line = 1
    while True:
        following = file.read(_BLOCK)
        try:
            text = decoder.decode(block, final=not following)
        except UnicodeDecodeError as error:
            before = bytes(error.object[: error.start]).decode(encoding, "replace")
            raise _not_text(path, line + before.count("\n"), encoding, error) from error
        if "\0" in text:
            line += text[: text.index("\0")].count("\n")
            raise InputError(
                f"{path}, line {line}: a zero byte, which no text has.",
                remedy="Check that it is a text file, and saved as UTF-8.",
            )
        line += text.count("\n")
        yield text
        if not following:
            return
        block = following


def _not_text(path: Path, line: int, encoding: str, error: UnicodeDecodeError) -> InputError:
    if encoding != "utf-8":
        return InputError(
            f"{path}, line {line}: not {encoding.upper()} ({error.reason}), although the file begins as such.",
            remedy="Save it as UTF-8.",
        )
    if b"\0" in error.object:
        return InputError(f"{path}, line {line}: zero bytes and no UTF-8: no text.", remedy="Save it as UTF-8.")
    bad = bytes(error.object[error.start : error.start + 1])
    # Windows' own encoding has letters and quotation marks where Latin-1 has control characters, but not everywhere.
    name = "LATIN1" if bad in b"\x81\x8d\x8f\x90\x9d" else "WINDOWS-1252"
    source, copy = shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
    return InputError(
        f"{path}, line {line}: not UTF-8 ({error.reason}: byte 0x{bad.hex()}).",
        remedy=f"If it is Western European text: iconv -f {name} -t UTF-8 {source} > {copy} && mv {copy} {source}",
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's refusals into errors for people."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing.", remedy="Check the path and its spelling.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, not a file.", remedy="Name a file in it.") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}.") from error
    except ValueError as error:  # a NUL character in the name
        if isinstance(error, UnicodeError):
            raise
        raise InputError(f"{str(path)!r} can't be read: {error}.") from error


def json_line(record: Mapping[str, object]) -> str:
    """A record as a line of JSONL, with its line end. Lone surrogates, which no file takes, become question marks."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", "replace").decode("utf-8") + "\n"
