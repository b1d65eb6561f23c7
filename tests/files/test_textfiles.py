"""Lines of files that people and other programs wrote: their ends, their encodings, what is wrong with them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.errors import EmbedfitError, InputError
from embedfit.files import textfiles
from embedfit.files.textfiles import json_lines, json_of, lines_of, parsed_json, text_of, toml_of

#: Characters at which str.splitlines breaks a line and no editor does.
NO_LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
reading = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def texts(path: Path) -> list[str]:
    return [line for _, line in lines_of(path)]


@reading
@given(
    lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0\ufeff")), min_size=1),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    block=st.integers(1, 40),
)
def test_a_line_ends_at_a_newline_alone(tmp_path: Path, lines: list[str], end: str, last: bool, block: int) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes((end.join(lines) + end * last).encode())
    expected = lines if last or lines[-1] else lines[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textfiles, "_BLOCK", block)
        patch.setattr(textfiles, "_SNIFFED", block)
        assert list(lines_of(path)) == list(enumerate(expected, 1))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_that_show_themselves_are_read(tmp_path: Path, encoding: str) -> None:
    records = [{"_id": "1", "text": f"Zähler {NO_LINE_ENDS}"}, {"_id": "2", "text": "割草机的油 \U0001f600"}]
    path = tmp_path / "x.jsonl"
    path.write_bytes("\r\n".join(json.dumps(one, ensure_ascii=False) for one in records).encode(encoding))
    assert [record for _, record in json_lines(path)] == records
    toml = tmp_path / "x.toml"
    toml.write_bytes('name = "ä"\r\nsize = 3\r\n'.encode(encoding))
    assert toml_of(toml) == {"name": "ä", "size": 3}


def test_a_mark_where_two_files_were_put_together_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("a\n".encode("utf-8-sig") + "b\n".encode("utf-8-sig"))
    assert texts(path) == ["a", "b"]


@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1252", "Preis: 40 € für alles"), ("latin-1", "\x81 caf\xe9"), ("cp1252", "“quoted”")]
)
def test_another_encoding_is_refused_with_a_command_that_mends_it(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "it's a file.txt"
    path.write_bytes(b"first\r\n" + text.encode(encoding) + b"\r\n")
    with pytest.raises(InputError, match="line 2: not UTF-8") as caught:
        texts(path)
    assert str(path) in caught.value.message
    command = str(caught.value.remedy).split(": ", 1)[1]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert texts(path) == ["first", text]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\0c\n", "line 2: a zero byte"),
        (b"\xff\xfea\x00\n\x00b", "line 2: not UTF-16-LE"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "line 1: zero bytes and no UTF-8"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        texts(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none", "is missing"),
        (tmp_path, "is a folder"),
        (Path("a\0b"), "can't be read"),
    ):
        with pytest.raises(InputError, match=message):
            texts(path)
        with pytest.raises(InputError, match=message):
            text_of(path)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfiles, "MAX_LINE", 1000)
    monkeypatch.setattr(textfiles, "_BLOCK", 100)
    path = tmp_path / "x.txt"
    path.write_text("short\n" + "x" * 1500)
    with pytest.raises(InputError, match="line 2: the line is longer than 1,000"):
        texts(path)
    monkeypatch.setattr(textfiles, "MAX_DOCUMENT", 1000)
    with pytest.raises(InputError, match="1,506 bytes"):
        json_of(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object"),
        ("null", "line 2: expected a JSON object"),
        ("[" * 100_000, "line 2: not JSON that can be read: it is nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "line 2: not JSON"),
        ('{"a": "\x01"}', "line 2: not JSON"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(InputError, match=message) as caught:
        list(json_lines(path))
    assert str(path) in caught.value.message


def test_half_an_emoji_becomes_a_replacement_character() -> None:
    assert parsed_json(r'{"a": ["x\ud83d", "\ud83d\ude00"], "\uDE00": 1}', "x") == {"a": ["x\ufffd", "😀"], "\ufffd": 1}
    assert parsed_json('"\ud83d"', "x") == "\ufffd"


@reading
@given(
    data=st.binary(max_size=80) | st.text(max_size=40).map(lambda text: text.encode("utf-16", "surrogatepass")),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b'{"a": 1}\n', b'{\0"\0']),
)
def test_any_bytes_are_lines_or_an_error_for_people(tmp_path: Path, data: bytes, mark: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(mark + data)
    for read in (texts, text_of, json_of, toml_of, lambda one: list(json_lines(one))):
        try:
            value = read(path)
        except EmbedfitError as error:
            assert str(path) in error.message
        else:
            json.dumps(value, default=str, ensure_ascii=False).encode()  # no half of a surrogate pair is left
