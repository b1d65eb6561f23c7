"""One list of the user's documents: links, loops, pipes, odd names and what nobody may read never end a run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.corpus.sources.walking import files_of
from embedfit.errors import InputError


def write(path: Path, text: str = "some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def listed(*documents: Path, follow_links: bool = False) -> dict[str, str]:
    return {one.name: one.problem for one in files_of(documents, follow_links=follow_links)}


def test_readers_of_documents_and_freshness_get_every_file_once(tmp_path: Path) -> None:
    for name in ("README.md", "losses.jsonl", "sub/README.md", ".git/config", "~$lock.docx", "__MACOSX/x", "b.bin"):
        write(tmp_path / name)
    for name in ("embedfit.toml", "ingest.manifest.json", "passages.jsonl"):
        write(tmp_path / "runs" / "x" / name)
    assert listed(tmp_path) == {"README.md": "", "losses.jsonl": "", "b.bin": "", "sub/README.md": ""}


def test_links_out_of_the_documents_are_listed_and_followed_when_asked(tmp_path: Path) -> None:
    secret, more = write(tmp_path / "out" / "secret.txt"), write(tmp_path / "out" / "more" / "x.txt")
    docs = write(tmp_path / "docs" / "a.txt").parent
    (docs / "file.txt").symlink_to(secret)
    (docs / "folder").symlink_to(more.parent)
    found = listed(docs)
    assert list(found) == ["a.txt", "file.txt", "folder"]
    assert f"a link out of the documents, to {secret}" in found["file.txt"] and "--follow-links" in found["folder"]
    assert listed(docs, follow_links=True) == {"a.txt": "", "file.txt": "", "folder/x.txt": ""}


def test_a_link_out_is_told_by_what_it_says_and_not_by_where_it_leads_now(tmp_path: Path) -> None:
    """/proc/self is another folder for every process, and a folder that is moved has other folders around it."""
    docs = write(tmp_path / "one" / "docs" / "a.txt").parent
    (docs / "up").symlink_to("..")
    (docs / "self").symlink_to("/proc/self/status")
    before = listed(docs)
    (tmp_path / "one").rename(tmp_path / "two")
    assert listed(tmp_path / "two" / "docs") == before
    assert "to ..;" in before["up"] and "to /proc/self/status;" in before["self"]


def test_a_link_that_was_named_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "out" / "a.txt")
    (tmp_path / "docs").symlink_to(tmp_path / "out")
    (tmp_path / "b.txt").symlink_to(tmp_path / "out" / "a.txt")
    assert listed(tmp_path / "docs") == {"a.txt": ""}
    assert listed(tmp_path / "b.txt") == {"b.txt": ""}


def test_links_inside_the_documents_are_read_under_one_name(tmp_path: Path) -> None:
    """A volume of Kubernetes shows each file as a link into a hidden folder beside it."""
    write(tmp_path / "..data" / "conf.txt")
    (tmp_path / "conf.txt").symlink_to(Path("..data") / "conf.txt")
    write(tmp_path / "z.txt")
    (tmp_path / "a.txt").symlink_to("z.txt")
    assert listed(tmp_path) == {
        "a.txt": "a link to a file that is read under its own name",
        "conf.txt": "",
        "z.txt": "",
    }


@pytest.mark.parametrize("follow_links", [False, True])
def test_loops_end_and_are_listed(tmp_path: Path, follow_links: bool) -> None:
    write(tmp_path / "sub" / "a.txt")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    assert listed(tmp_path, follow_links=follow_links) == {
        "gone.txt": "a link to a file that is not there",
        "loop": "a link that leads back to itself",
        "sub/a.txt": "",
        "sub/up": "a link to a folder that is read under its own name",
    }


def test_what_is_no_file_is_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # the name of a socket may have a hundred bytes at most
        try:
            server.bind("socket.txt")
        finally:
            os.chdir(here)
        found = listed(tmp_path, follow_links=True)
    assert found == dict.fromkeys(("pipe.txt", "socket.txt", "zero.txt"), "not a regular file")
    assert listed(tmp_path / "pipe.txt") == {"pipe.txt": "not a regular file"}


def test_what_nobody_may_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt")
    shut = write(tmp_path / "shut" / "b.txt").parent
    scandir = os.scandir

    def refuse(path: Path) -> object:  # root may read everything, and tests may run as root
        if Path(path) == shut:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "a.txt")
    refused = "can't be read: Permission denied"
    assert listed(tmp_path) == {"a.txt": refused, "shut": refused}


@given(name=st.binary(min_size=1, max_size=12).filter(lambda raw: not set(raw) & {0, 47} and raw[:1] not in b".~_"))
def test_any_name_of_a_file_is_listed_as_text(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    folder = tmp_path_factory.mktemp("names")
    with open(os.path.join(os.fsencode(folder), name), "wb") as file:
        file.write(b"text")
    (found,) = files_of([folder])
    found.name.encode("utf-8")
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        assert found.problem == "its name is not UTF-8"
    else:
        assert (found.name, found.problem) == (name.decode("utf-8"), "")


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        files_of([tmp_path / "nothing"])
