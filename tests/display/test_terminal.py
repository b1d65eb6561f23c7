"""What reaches the terminal: no command of a document's, no exception for a character, no complaint when it is gone."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

import embedfit
from embedfit.display import terminal
from embedfit.display.terminal import console, say_json, shown, visible, write_line
from embedfit.progress import LogLines, reporter_for

EVIL = "a\x1b[2J\x1b]0;title\x07\rb\x9b31m\u202ec\x08\x7f"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\rb\x9b31m\u202ec\x08\x7f"
#: Characters that may stand in what is written: a terminal obeys none of them.
HARMLESS = set("\n\t")


class Tty(io.StringIO):
    """A terminal that keeps what it gets."""

    def isatty(self) -> bool:
        return True


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "embedfit", *arguments],
        capture_output=True, timeout=120, check=False, env={**os.environ, **settings},
    )  # fmt: skip


def test_controls_are_spelt_out() -> None:
    assert visible(EVIL) == SHOWN
    assert visible("plain → é\n\tß 割草机 😀") == "plain → é\n\tß 割草机 😀"


@given(text=st.text())
def test_no_text_commands_the_terminal(text: str) -> None:
    assert not any((char < " " or "\x7f" <= char <= "\x9f") and char not in HARMLESS for char in visible(text))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\n")
    write_line(stream, text)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO) and stream.buffer.getvalue().endswith(b"\n")


@pytest.mark.parametrize("stream", [io.StringIO, Tty])
def test_logs_and_tasks_show_what_would_command(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    out = stream()
    report = reporter_for(out)
    report.log(f"skipped: {EVIL}")
    assert SHOWN in out.getvalue() and "\x1b[2J" not in out.getvalue()
    with report.task(f"[/nothing] {EVIL}", 2, "[x]{y}") as task:
        task.advance(2, note=f"{EVIL} [red]")
    text = out.getvalue()
    assert not {"\x07", "\x9b", "\u202e", "\x7f"} & set(text) and "\x1b[2J" not in text and "\x1b]0" not in text
    if stream is Tty:
        assert r"[/nothing] a\x1b[2J" in text


def test_tables_show_it_too() -> None:
    out = io.StringIO()
    table = Table(EVIL)
    table.add_row(shown(f"[red]{EVIL}[/nothing]"))
    console(out).print(table)
    console(out).print(EVIL, markup=False, highlight=False, soft_wrap=True)
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(out.getvalue())
    assert f"[red]{SHOWN}[/nothing]" in out.getvalue() and out.getvalue().count(r"a\x1b[2J") == 3


def test_json_stays_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"é→": [EVIL, "割 😀", "half \ud83d"]}
    for encoding in ("utf-8", "ascii", "cp1252"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", stream)
        say_json(value)
        stream.flush()
        data = stream.buffer.getvalue()  # type: ignore[attr-defined]
        monkeypatch.undo()
        assert json.loads(data.decode(encoding)) == value
        assert b"\x1b" not in data and b"\x9b" not in data and b"\xc2\x9b" not in data


def test_a_stream_that_lacks_a_character_gets_another() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    LogLines(stream).log("a → b")
    assert stream.buffer.getvalue() == b"a ? b\n"  # type: ignore[attr-defined]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    path = tmp_path / "odd \x1b[2J → rows.jsonl"
    path.write_text('{"query": "q", "pos": ["a"]}\n', "utf-8")
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONIOENCODING": "cp1252"},
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"PYTHONIOENCODING": "utf-8"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: next(iter(value)) + next(iter(value.values())),
)
def test_commands_end_well_in_any_encoding(beir: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    done = run("convert", str(beir), str(tmp_path / "odd →.json"), **settings)
    assert done.returncode == 0 and b"LlamaIndex" in done.stdout and b"Traceback" not in done.stderr
    done = run("convert", str(tmp_path / "none \x1b[2J é→"), str(tmp_path / "x.json"), **settings)
    assert done.returncode == 1 and b"Error:" in done.stderr and b"Traceback" not in done.stderr
    assert b"\x1b[2J" not in done.stderr and rb"\x1b[2J" in done.stderr
    done = run("ledger", "list", "--json", "--ledger", str(tmp_path / "l.sqlite"), **settings)
    assert done.returncode == 0 and json.loads(done.stdout) == []


def test_names_that_are_no_text_are_shown(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    done = run("convert", name, str(tmp_path / "x.json"))
    assert done.returncode == 1 and b"is not there" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["--help", "doctor --json", "--version"])
def test_a_reader_that_goes_away_is_no_error(command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m embedfit {command} | true; exit 0', sys.executable],
        capture_output=True, timeout=120, check=False, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_closed_and_full_outputs(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m embedfit --version >&- 2>&- <&-', sys.executable], timeout=120, check=False
    )
    assert done.returncode == 0
    if Path("/dev/full").exists():
        done = subprocess.run(
            ["bash", "-c", '"$0" -m embedfit --version >/dev/full', sys.executable],
            capture_output=True, timeout=120, check=False, text=True,
        )  # fmt: skip
        assert done.returncode == 1 and "can't be written" in done.stderr and "Traceback" not in done.stderr


def test_nothing_writes_past_the_terminal() -> None:
    """A second way out would let escape sequences and missing characters through."""
    past = ("print", "typer.echo", "click.echo", "sys.stdout.write", "sys.stderr.write", "Console")
    for path in Path(embedfit.__file__).parent.rglob("*.py"):
        if path == Path(terminal.__file__) or path.parent.name == "testing":  # servers for tests, which nobody watches
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in past, f"{path}, line {node.lineno}: use embedfit.display.terminal"
