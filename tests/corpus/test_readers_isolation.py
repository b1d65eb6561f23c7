"""Whatever a reader does, the run goes on: it hangs, dies, fills the memory, talks, raises."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedfit.corpus.blocks import Block, ParsedDocument, UnreadableDocument
from embedfit.corpus.readers.isolation import Limits, ReadingProcess
from embedfit.corpus.readers.registry import Reader
from embedfit.errors import EmbedfitError
from embedfit.plugins import Registered

#: Readers that do what no reader should, by name.
MODULE = """
import ctypes, os, sys, time
from embedfit.corpus.blocks import Block, ParsedDocument, Removed, UnreadableDocument
from embedfit.corpus.readers.registry import Reader

DOCUMENT = ParsedDocument(
    blocks=(Block(kind="heading", text="A", level=1, page=1), Block(kind="text", text="\\ud800 é", breaks=((1, 2),))),
    pages=2, note="one page is damaged", removed=(Removed(page=1, reason="a footer", preview="p. 1"),),
)

def good(path, progress):
    return DOCUMENT

def spins(path, progress):
    while True:
        pass

def sleeps(path, progress):
    time.sleep(1000)

def grows(path, progress):
    held = []
    while True:
        held.append(bytearray(1 << 24))

def recurses(path, progress):
    return recurses(path, progress)

def crashes(path, progress):
    os.abort()

def leaves(path, progress):
    raise SystemExit(3)

def refuses(path, progress):
    raise UnreadableDocument("a good reason")

def fails(path, progress):
    raise KeyError("no such part\\nand more")

def lacks(path, progress):
    import a_package_that_nobody_has

def is_missing(path, progress):
    path.with_name("nothing").read_bytes()

def says_much(path, progress):
    print("{" * 10)
    os.write(1, b"[not json]\\n")
    os.write(2, b"x" * 1_000_000)
    return DOCUMENT

def writes_a_library(path, progress):
    return ParsedDocument(blocks=(Block(kind="text", text="x" * 200_000_001),))

def names(path, progress):
    return ParsedDocument(blocks=(Block(kind="text", text=os.fsencode(path.name).hex()),))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("readers")
    code = MODULE + "\n" + "\n".join(
        f'{name.upper()} = Reader(kind="odd", extensions=(".odd",), read={name}, extra="formats")'
        for name in [line.split("(")[0][4:] for line in MODULE.split("\n") if line.startswith("def ")]
    )  # fmt: skip
    (place / "odd_readers.py").write_text(code)
    (place / "a.odd").write_text("content")
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))


@pytest.fixture(scope="module")
def process(folder: Path) -> Iterator[ReadingProcess]:
    with ReadingProcess(Limits(seconds=1, wall=2, memory=512)) as process:
        yield process


def read(process: ReadingProcess, folder: Path, name: str, file: str = "a.odd") -> ParsedDocument:
    unused = Reader(kind="odd", extensions=(".odd",), read=lambda path, progress: ParsedDocument(blocks=()))
    return process.read(Registered(unused, f"odd_readers:{name.upper()}"), folder / file)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("spins", r"takes more than 1 seconds \(ingest.max_seconds\)"),
        ("sleeps", r"takes more than 1 seconds \(ingest.max_seconds\)"),
        ("grows", r"takes more than 512 MiB of memory \(ingest.max_memory_mb\)"),
        ("recurses", "nested too deeply"),
        ("crashes", r"its reader crashed \(SIGABRT\)"),
        ("leaves", r"its reader crashed \(exit code 3\)"),
        ("refuses", "^a good reason$"),
        ("fails", "the reader of odd fails: KeyError: 'no such part"),
        ("lacks", r"odd needs an extra: pip install 'embedfit\[formats\]'"),
        ("is_missing", "can't be read: No such file"),
        ("writes_a_library", "holds more than 200,000,000 characters"),
    ],
)
def test_a_document_that_misbehaves_is_unreadable_and_the_next_is_read(
    process: ReadingProcess, folder: Path, name: str, reason: str
) -> None:
    with pytest.raises(UnreadableDocument, match=reason):
        read(process, folder, name)
    assert read(process, folder, "good").pages == 2


def test_a_document_comes_over_whole(process: ReadingProcess, folder: Path) -> None:
    from odd_readers import DOCUMENT  # type: ignore[import-not-found]

    assert read(process, folder, "good") == DOCUMENT
    assert DOCUMENT.blocks[1] == Block(kind="text", text="\ud800 é", breaks=((1, 2),))


def test_what_a_reader_prints_is_no_answer(process: ReadingProcess, folder: Path) -> None:
    assert read(process, folder, "says_much") == read(process, folder, "good")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_any_file_name(process: ReadingProcess, folder: Path) -> None:
    name = b"caf\xe9 \n\x1b[2J \xf0\x9f\x98\x80.odd"
    with open(os.path.join(os.fsencode(folder), name), "w"):
        pass
    assert read(process, folder, "names", os.fsdecode(name)).blocks[0].text == name.hex()


def test_one_process_reads_them_all(process: ReadingProcess, folder: Path) -> None:
    read(process, folder, "good")
    first = process._process
    for _ in range(3):
        read(process, folder, "good")
    assert process._process is first


def test_a_process_that_was_killed_meanwhile_costs_no_document(process: ReadingProcess, folder: Path) -> None:
    read(process, folder, "good")
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    assert read(process, folder, "good").pages == 2


def test_an_interrupt_leaves_no_half_answer(process: ReadingProcess, folder: Path) -> None:
    unused = Reader(kind="odd", extensions=(".odd",), read=lambda path, progress: ParsedDocument(blocks=()))

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (folder / "odd_progress.py").write_text(
        "from embedfit.corpus.readers.registry import Reader\n"
        "def read(path, progress):\n    progress(1, 2)\n    progress(2, 2)\n"
        'READER = Reader(kind="odd", extensions=(".odd",), read=read)\n'
    )
    with pytest.raises(KeyboardInterrupt):
        process.read(Registered(unused, "odd_progress:READER"), folder / "a.odd", interrupted)
    assert read(process, folder, "good").pages == 2


def test_the_working_directory_adds_no_modules(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the folder of the documents was imported from')")
    monkeypatch.chdir(tmp_path)
    with ReadingProcess() as process:
        assert read(process, folder, "good").pages == 2


def test_limits_grow_with_the_file() -> None:
    assert Limits(seconds=60, seconds_per_mib=10).seconds_for(5 << 20) == 110


def test_a_reading_process_that_cannot_start_is_no_fault_of_the_document(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("words")
    monkeypatch.setattr(sys, "executable", str(path))  # which is no program
    with ReadingProcess() as process, pytest.raises(EmbedfitError, match="can't be started: Permission denied"):
        read(process, folder, "good")
