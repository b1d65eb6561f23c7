r"""Standard output and standard error, with texts that can always be shown and never command the terminal.

Names of files, titles, queries and replies of models may hold escape sequences, which move the cursor, change the
title or rewrite earlier output. They are shown spelt out (`\x1b[2J`), on terminals and in pipes. A character
that the output's encoding lacks becomes a question mark.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from embedfit.errors import EmbedfitError

#: Control characters except line end and tab, and characters that change the direction of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def visible(text: str) -> str:
    r"""The text with control characters spelt out: "\x1b" for an escape, "\r" for a carriage return."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def shown(text: str) -> str:
    """The text for a place where rich reads markup, such as a table's cell: as it is, control characters spelt out."""
    return escape(visible(text))


class SafeConsole(Console):
    """rich's console, whose texts can't command the terminal; its own colours and cursor movements can."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of a renderable, control characters of their texts spelt out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - rich's own signature
        """Print as rich does. Raises EmbedfitError if the output can't be written."""
        with _written():
            super().print(*objects, **options)


def console(
    stream: TextIO | None = None,
    *,
    stderr: bool = False,
    unbroken: bool = False,
    highlight: bool = True,
    width: int | None = None,
) -> Console:
    """A console on a stream; without one, on standard output or standard error.

    unbroken: lines are not broken to the terminal's width. highlight: numbers and paths get colours. width: in
    characters; default: the terminal's.
    """
    return SafeConsole(file=stream, stderr=stderr, soft_wrap=unbroken, highlight=highlight, width=width)


def say(text: str) -> None:
    """Write a line to standard output."""
    write_line(sys.stdout, text)


def write_line(stream: TextIO, text: str) -> None:
    """Write a line at once; a character that the stream's encoding lacks becomes a question mark."""
    line = visible(text) + "\n"
    with _written():
        try:
            stream.write(line)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(line.encode(encoding, "replace").decode(encoding))
        stream.flush()


def say_json(value: object) -> None:
    """Write a value to standard output as JSON, every character escaped that can't be shown."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, default=str)
    with _written():
        sys.stdout.write(_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def prepare() -> None:
    """Make the standard streams usable: closed ones go nowhere, and characters that an encoding lacks are replaced."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")


def flush() -> None:
    """Write out the buffered text, so that a failure shows now. Raises BrokenPipeError if the reader is gone."""
    with _written():
        sys.stdout.flush()


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Turn a full disk under the output into an error for people; a reader that is gone stays BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise EmbedfitError(f"The output can't be written: {error.strerror or error}.") from error


def drop_output() -> None:
    """Drop the buffered text, which can't be written and has no reader."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT):
                raise
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
