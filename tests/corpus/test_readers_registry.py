"""Formats are a table: ours and a stranger's enter it by the same door."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedfit.corpus.readers import registry
from embedfit.corpus.readers.isolation import ReadingProcess
from embedfit.corpus.sources.kinds import kind_of, kind_of_bytes
from embedfit.errors import InputError
from tests.plug_in import install

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PLUG_IN = """
from embedfit.corpus.blocks import Block, ParsedDocument
from embedfit.corpus.readers.registry import Reader


def read(path, progress):
    if progress:
        progress(1, 1)
    return ParsedDocument(blocks=(Block(kind="text", text=path.read_text("utf-8").upper()),))


READER = Reader(kind="shout", extensions=(".shout",), read=read, sniff=lambda head: head.startswith(b"%SHOUT"))
"""


def test_ours_come_in_by_the_door_that_others_use() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][registry.GROUP]
    assert {kind: registered.place for kind, registered in registry.readers().items()} == listed


def test_every_reader_is_named_by_its_kind_and_has_extensions_of_its_own() -> None:
    seen: set[str] = set()
    for kind, registered in registry.readers().items():
        assert registered.record.kind == kind
        assert registered.record.extensions and not seen & set(registered.record.extensions)
        assert all(name.startswith(".") and name == name.lower() for name in registered.record.extensions)
        seen |= set(registered.record.extensions)


def test_the_table_is_made_without_the_packages_of_the_extra() -> None:
    code = (
        "import sys; from embedfit.corpus.readers.registry import readers; readers(); "
        "print([name for name in ('torch', 'docx', 'pptx', 'lxml', 'mammoth', 'openpyxl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plug_in_reads_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, PLUG_IN, "shout = stranger:READER", monkeypatch, group=registry.GROUP)
    document = tmp_path / "a.shout"
    document.write_text("quiet words")
    assert kind_of(document) == ("shout", "")
    assert kind_of_bytes(b"%SHOUT and more", ".bin") == ("shout", "")
    told = []
    with ReadingProcess() as process:
        parsed = process.read(registry.readers()["shout"], document, lambda *done: told.append(done))
    assert [block.text for block in parsed.blocks] == ["QUIET WORDS"]
    assert told == [(1, 1)]


def test_a_plug_in_replaces_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = PLUG_IN.replace('"shout"', '"text"').replace('".shout"', '".txt", ".md"')
    install(tmp_path, code, "text = stranger:READER", monkeypatch, group=registry.GROUP)
    assert registry.readers()["text"].place == "stranger:READER"
    assert registry.by_extension()[".md"] == "text"


def test_what_an_older_install_of_ours_says_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "", "text = embedfit.gone:READER", monkeypatch, group=registry.GROUP, name="embedfit")
    assert registry.readers()["text"].place == "embedfit.corpus.readers.texts.plain:READER"


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise ValueError('no luck')", "can't be loaded: ValueError: no luck"), ("READER = 1", "is no Reader")],
)
def test_a_broken_plug_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    install(tmp_path, code, "broken = stranger:READER", monkeypatch, group=registry.GROUP)
    with pytest.raises(InputError, match=message) as raised:
        registry.readers()
    assert "stranger:READER" in raised.value.message


@pytest.mark.parametrize(
    ("head", "extension", "expected"),
    [
        (b"%PDF-1.7 ...", ".txt", ("pdf", "")),  # what the bytes surely are goes before the extension
        (b"<!DOCTYPE html><p>", ".aspx", ("html", "")),
        (b"<p>a piece of a page", ".htm", ("html", "")),
        (b"Read me first.", "", ("text", "")),
        (b"\xff\xfeR\x00e\x00a\x00d\x00", "", ("text", "")),
        (b"12:01:03 started", ".log", ("text", "")),
        (b"import sys", ".py", ("unsupported", "the format .py is not supported")),
        (b"key: value", ".yaml", ("unsupported", "the format .yaml is not supported")),
        (b'{"a": [1, 2]}', "", ("unsupported", "JSON, which is not supported")),
        (b'<?xml version="1.0"?><feed/>', "", ("unsupported", "XML, which is not supported")),
        (b"#!/bin/sh\necho", "", ("unsupported", "a script, which is not supported")),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", "", ("unsupported", "a key or certificate, which is not supported")),
        (b"\x7fELF\x02\x01\x01\x00", "", ("unsupported", "unknown format: a program")),
        (b"MZ was the name of the ship.", "", ("text", "")),
        (b"{braces} in a text", "", ("text", "")),
        (bytes(range(256)) * 16, "", ("unsupported", "unknown format: neither text nor a supported document")),
    ],
)
def test_kinds_by_bytes(head: bytes, extension: str, expected: tuple[str, str]) -> None:
    assert kind_of_bytes(head, extension) == expected


@pytest.mark.parametrize("name", ["README", "Vol. 2", "notes.1", "LICENSE.2024"])
def test_a_number_is_no_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("plain words")
    assert kind_of(tmp_path / name) == ("text", "")
