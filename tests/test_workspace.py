"""Run folders: whole files or none, clear errors, one run at a time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.errors import ArtifactMissing, EmbedfitError, InputError, SchemaMismatch
from embedfit.files.atomic import atomic_file, atomic_folder, disk_errors
from embedfit.path.artefacts import Manifest, Passage, Query, TrainRow
from embedfit.path.workspace import Workspace, encode_record, read_jsonl, sha256_json, sha256_json_list


def passage(text: str = "words") -> Passage:
    return Passage(passage_id="p", document_id="d", title="t", text=text)


@given(text=st.text(), title=st.text())
def test_records_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, text: str, title: str
) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("run"))
    record = Passage(passage_id="p", document_id="d", title=title, text=text, page=3, split="dev")
    workspace.write(Passage, [record])
    assert workspace.read(Passage) == [record]


def test_tuples_and_none_survive(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    row = TrainRow(query="q", pos=("a", "b"), neg=(), prompt=None)
    workspace.write(TrainRow, [row])
    assert workspace.read(TrainRow) == [row]


def test_surrogates_do_not_reach_a_file() -> None:
    assert "?" in encode_record(passage("half a pair: \ud800"))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text(encode_record(passage()) + "\n{not json\n")
    with pytest.raises(InputError, match=r"passages\.jsonl, line 2"):
        list(read_jsonl(path, Passage))


def test_a_wrong_type_is_named_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text(json.dumps({"passage_id": "p", "document_id": "d", "title": "t", "text": ["no"]}) + "\n")
    with pytest.raises(InputError, match="line 1: text"):
        list(read_jsonl(path, Passage))


def test_a_missing_artefact_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match=r"embedfit generate --run"):
        Workspace(tmp_path).read(Query)


def test_a_file_that_failed_half_way_does_not_appear(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(target) as file:
        file.write("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_folder_that_failed_half_way_does_not_appear(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as folder:
        (folder / "b").write_text("2")
        raise ZeroDivisionError
    assert os.listdir(target) == ["a"]
    assert os.listdir(tmp_path) == ["model"]
    with atomic_folder(target) as folder:
        (folder / "c").write_text("3")
    assert os.listdir(target) == ["c"]


def test_nan_is_refused_in_json(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ValueError, match="Out of range float"):
        workspace.write_json("x.json", {"value": float("nan")})
    assert not workspace.path("x.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_in_words(tmp_path: Path, number: int) -> None:
    with pytest.raises(EmbedfitError, match=r"is full .* free\)") as caught, disk_errors(tmp_path / "no" / "such"):
        raise OSError(number, "full")
    assert caught.value.remedy is not None and "same command again" in caught.value.remedy


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_json("ingest.manifest.json", {"stage": "ingest", "schema": 99})
    with pytest.raises(SchemaMismatch, match="schema version 99"):
        workspace.read_manifest("ingest")


def test_a_damaged_manifest_means_run_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_text("ingest.manifest.json", "{half")
    assert workspace.read_manifest("ingest") is None
    manifest = Manifest(stage="ingest", schema=1, code="1", seed=1, config="c")
    workspace.write_manifest(manifest)
    assert workspace.read_manifest("ingest") == manifest


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with Workspace(tmp_path).lock(), pytest.raises(EmbedfitError, match="Another embedfit"), Workspace(tmp_path).lock():
        pass
    with Workspace(tmp_path).lock():
        pass


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=3))))
def test_the_hash_of_a_list_is_the_same_piece_by_piece(values: list[object]) -> None:
    assert sha256_json_list(iter(values)) == sha256_json(values)
