"""No document can hang, exhaust or end a run: each reader on hostile input and on ten times as much of it.

Reading happens in a process that may take 20 s of processor time and 1 GB of memory, and that is killed otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.corpus.blocks import Block, UnreadableDocument
from embedfit.corpus.readers.isolation import Limits, ReadingProcess
from embedfit.corpus.readers.registry import Reader, readers
from embedfit.plugins import Registered

SENTENCE = "The circulation pump of the heater is vented through the brass screw before the first start. "
LINE = "2024-01-01 12:00:01 pump 17 started with a pressure of 3 bar and no warning"

#: What has hung readers of text and of markup: a name, and the text for a size of about n characters.
TEXTS: dict[str, Callable[[int], str]] = {
    "sentences": lambda n: SENTENCE * (n // 90),
    "paragraphs": lambda n: (SENTENCE + "\n\n") * (n // 90),
    "log lines": lambda n: f"{LINE}\n" * (n // 75),
    "hyphens at line ends": lambda n: "abc-\n" * (n // 5),
    "hyphens now and then": lambda n: ("some words of it\n" * 9 + "and inter-\n") * (n // 164),
    "one word": lambda n: "x" * n,
    "spaces": lambda n: "a" + " " * n + "b",
    "tabs": lambda n: "a\t" * (n // 2),
    "blank lines": lambda n: "a\n \t\n" * (n // 5),
    "underlines": lambda n: "====\n" * (n // 5),
    "headings": lambda n: "A\n====\n" * (n // 7),
    "bullets": lambda n: "- a\n" * (n // 4),
    "form feeds": lambda n: "a\f" * (n // 2),
    "front matter": lambda n: "---\ntitle: a" + " " * n + "b\n---\ntext",
    "front matter without end": lambda n: "---\n" * (n // 4),
    "brackets": lambda n: "[" * n,
    "links": lambda n: "[a](" * (n // 4),
    "images": lambda n: "![[]()" * (n // 6),
    "quotes": lambda n: "> " * (n // 2) + "a",
    "emphasis": lambda n: "*a **b _c " * (n // 10),
    "backticks": lambda n: "".join("e" + "`" * length for length in range(int((2 * n) ** 0.5))),
    "pipes": lambda n: "|" * (n // 4) + "\n" + "|-" * (n // 4) + "|\na\n",
    "table": lambda n: "|a|b|\n|-|-|\n" + "|x|y|\n" * (n // 6),
    "references": lambda n: "[a]: b\n" * (n // 10) + "[a]" * (n // 10),
    "lists in lists": lambda n: "- " * (n // 2) + "a",
}
MARKUP: dict[str, Callable[[int], str]] = {
    "comments": lambda n: "<!--" * (n // 4),
    "comments in text": lambda n: "x <!--" * (n // 6),
    "declarations": lambda n: "<![foo[x]]>" * (n // 11),
    "sections": lambda n: "a <![CDATA[" * (n // 11),
    "attributes": lambda n: "<a b=" * (n // 5),
    "open quotes": lambda n: '<a "' * (n // 4),
    "many attributes": lambda n: "<a " + " ".join(f"a{number}=1" for number in range(n // 8)) + ">w",
    "ends": lambda n: "</" * (n // 2),
    "instructions": lambda n: "<?" * (n // 2),
    "angles": lambda n: "<" * n,
    "references": lambda n: "&#" + "9" * n + ";" + "&amp" * (n // 4),
    "depth": lambda n: "<div>" * (n // 5) + "deep words",
    "wrong ends": lambda n: "<div>" * (n // 12) + "</p></i>" * (n // 12),
    "ends below": lambda n: "<span>" * (n // 16) + "<div>" + "<b>" * (n // 16) + "</span>" * (n // 16),
    "formatting": lambda n: "".join(f"<font a={number}>" for number in range(n // 20)) + "<p>w" * (n // 20),
    "tables in tables": lambda n: "<table><tr><td>" * (n // 15) + "w",
    "lists": lambda n: "<ul><li>x" * (n // 9),
    "cells": lambda n: "<table>" + "<tr><td>a<td>b" * (n // 14),
    "forms": lambda n: "<form><p>w" * (n // 10),
    "scripts": lambda n: "<script>" + "<!--<script>" * (n // 12),
    "templates": lambda n: "<template>" * (n // 10) + "w",
    "drawings": lambda n: "<svg><title>w" * (n // 13),
    "frames": lambda n: "<iframe srcdoc='" * (n // 16) + "<p>w",
    "line breaks": lambda n: "w<br>" * (n // 5),
}
SIZE = 100_000
CASES = [
    *((kind, name, make) for kind in ("text", "markdown") for name, make in TEXTS.items()),
    *((kind, f"{name} of HTML", make) for kind in ("html", "markdown") for name, make in MARKUP.items()),
]


@pytest.fixture(scope="module")
def process() -> Iterator[ReadingProcess]:
    with ReadingProcess(Limits(seconds=20, seconds_per_mib=0, wall=10, memory=1000)) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "make"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_readers_read_ten_times_as_much(
    process: ReadingProcess, tmp_path: Path, kind: str, name: str, make: Callable[[int], str]
) -> None:
    reader = readers()[kind]
    for size in (SIZE // 10, SIZE):
        path = tmp_path / f"a{reader.record.extensions[0]}"
        path.write_text(SENTENCE + "\n\n" + make(size), "utf-8")
        parsed = process.read(reader, path)
        assert SENTENCE.strip() in " ".join(block.text for block in parsed.blocks)


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
def test_readers_read_megabytes_in_one_line(process: ReadingProcess, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text(SENTENCE * 33_000, "utf-8")
    parsed = process.read(readers()[kind], path)
    assert sum(len(block.text) for block in parsed.blocks) == len(SENTENCE * 33_000) - 1


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
def test_readers_read_three_megabytes_of_log_lines(process: ReadingProcess, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text(f"{LINE}\n" * 40_000, "utf-8")
    assert sum(block.text.count("pressure") for block in process.read(readers()[kind], path).blocks) == 40_000


FUZZED = [pytest.param(registered, id=kind) for kind, registered in readers().items()]
_PIECES = st.sampled_from(
    [b"PK\x03\x04", b"%PDF-1.7\n", b"<html>", b"<p>", b"{\\rtf1", b"\x00", b"\xff\xfe", b"\n\n", b"---\n", b"<!--",
     b"From: a@b.c\n", b"a,b\n", b'{"cells": [', b"\xe9", b"words of it "]
)  # fmt: skip


@pytest.mark.parametrize("registered", FUZZED)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.one_of(st.binary(max_size=300), st.lists(_PIECES, max_size=12).map(b"".join)))
def test_readers_give_a_document_or_a_reason_for_any_bytes(
    registered: Registered[Reader], tmp_path: Path, process: ReadingProcess, data: bytes
) -> None:
    path = tmp_path / f"a{registered.record.extensions[0]}"
    path.write_bytes(data)
    try:
        parsed = process.read(registered, path)
    except UnreadableDocument as refused:
        reason = str(refused)
        assert reason and "\n" not in reason
        assert "fails" not in reason and "crashed" not in reason  # a reader knows its format's ways to be broken
        return
    assert all(isinstance(block, Block) and block.text for block in parsed.blocks)
