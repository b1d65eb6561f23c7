"""Which files are read, and their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embedfit.corpus.sources.discover import discover, unique_ids
from embedfit.corpus.sources.kinds import kind_of
from embedfit.errors import InputError


def write(path: Path, content: str | bytes = "some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_folders_are_searched_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.html", ".hidden.txt", ".git/config.txt", "~$lock.docx", "__MACOSX/x.txt"):
        write(tmp_path / name)
    found = discover([str(tmp_path)])
    assert [(source.document_id, source.kind) for source in found] == [
        ("a.md", "markdown"),
        ("b.txt", "text"),
        ("sub/c.html", "html"),
    ]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "a.txt")
    os.symlink(tmp_path / "docs", tmp_path / "docs" / "again")
    os.symlink(tmp_path / "docs" / "a.txt", tmp_path / "docs" / "b.txt")
    os.symlink(tmp_path / "nowhere", tmp_path / "docs" / "broken.txt")
    found = discover([str(tmp_path / "docs")])
    assert {source.document_id: source.problem for source in found} == {
        "a.txt": "",
        "b.txt": "a link to a file that is read under its own name",
        "broken.txt": "a link to a file that is not there",
        "again": "a link to a folder that is read under its own name",
    }


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert kind_of(tmp_path / "pipe.txt") == ("unsupported", "not a regular file")


def test_run_folders_are_no_documents(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    for name in ("embedfit.toml", ".lock", "eval/corpus.jsonl", "report.html"):
        write(tmp_path / "runs" / "x" / name)
    assert [source.document_id for source in discover([str(tmp_path)])] == ["a.txt"]


def test_the_same_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    assert len(discover([str(path), str(tmp_path), str(path)])) == 1


def test_ids_are_unique_and_without_spaces(tmp_path: Path) -> None:
    first, second = write(tmp_path / "x" / "my file.txt"), write(tmp_path / "y" / "my file.txt")
    assert [source.document_id for source in discover([str(first), str(second)])] == ["x/my_file.txt", "y/my_file.txt"]
    assert unique_ids([Path("/a/b c"), Path("/a/b_c")], ["b c", "b_c"]) == ["a/b_c", "a/b_c~2"]
    assert unique_ids([Path("/a/b")], ["b"], taken=["b", "a/b"]) == ["a/b~2"]


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        discover([str(tmp_path / "nothing")])


@pytest.mark.parametrize(
    ("name", "content", "kind", "problem"),
    [
        ("a.txt", b"", "text", "the file is empty (zero bytes)"),
        ("a.pdf", b"%PDF-1.7", "pdf", ""),
        ("report", b"%PDF-1.7 ...", "pdf", ""),
        ("page", b"\n<!DOCTYPE html><p>", "html", ""),
        ("README", b"plain words", "text", ""),
        ("a.png", b"\x89PNG\r\n\x1a\n", "unsupported", "unknown format: a PNG image"),
        ("a.csv", b"a,b\n1,2\n", "csv", ""),
        (
            "a.XLS",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            "unsupported",
            "the format .xls is not supported: save it as .xlsx",
        ),
        ("corpus.jsonl", b"{broken", "beir", ""),
        ("any.jsonl", b'{"_id": "1", "text": "x"}', "beir", ""),
        ("any.jsonl", b'{"query": "q"}', "unsupported", "JSONL without the fields _id and text of a BEIR corpus"),
        (
            "queries.jsonl",
            b'{"_id": "1", "text": "x"}',
            "unsupported",
            "BEIR queries are for evaluation only (--eval-beir)",
        ),
        ("qrels/test.tsv", b"q\td\t1\n", "unsupported", "BEIR judgements are for evaluation only (--eval-beir)"),
    ],
)
def test_kinds(tmp_path: Path, name: str, content: bytes, kind: str, problem: str) -> None:
    assert kind_of(write(tmp_path / name, content)) == (kind, problem)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    path.chmod(0)
    assert "can't be read" in kind_of(path)[1]
