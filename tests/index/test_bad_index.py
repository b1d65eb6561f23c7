"""Index folders that are damaged, replaced, in the wrong place, or of other passages than the run's."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.commands.indexing import index_documents, load, load_or_build, update_index
from embedfit.errors import EmbedfitError, InputError
from embedfit.index import retriever as retrievers
from embedfit.index.build import Source, build
from embedfit.index.search import Index
from embedfit.index.store import folder as index_folder
from embedfit.index.store.folder import Origin, write
from embedfit.index.store.manifest import MANIFEST, Identity
from embedfit.models.local import local_model
from embedfit.path.artefacts import Passage
from embedfit.path.workspace import Workspace
from embedfit.progress import Silent
from embedfit.runtime import Runtime
from tests.said import Said

ROWS = {"tv": "Press the mute button of the tv to turn its sound off, and once more to hear it again. " * 3,
        "lamp": "The lamp in the hall has a switch at its base and takes bulbs of forty watts. " * 3}  # fmt: skip


def corpus(path, rows):
    path.write_text("".join(json.dumps({"_id": key, "title": "", "text": text}) + "\n" for key, text in rows.items()))
    return path


@pytest.fixture
def run(tmp_path, tiny_bert):
    index_documents(corpus(tmp_path / "c.jsonl", ROWS), folder=tmp_path / "ix", model=str(tiny_bert))
    return tmp_path / "ix"


def all_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_an_error_for_people(data, run):
    """Any file, cut, changed in one byte, or gone: opening says which one."""
    path = data.draw(st.sampled_from([path for path in all_files(run / "index") if path.stat().st_size]))
    whole = path.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "gone", "empty", "changed"]))
    place = data.draw(st.integers(0, max(0, len(whole) - 1)))
    if kind == "gone":
        path.unlink()
    else:
        changed = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        path.write_bytes({"cut": whole[:place], "changed": changed, "empty": b""}[kind])
    try:
        with pytest.raises(EmbedfitError) as error:
            load(run).search("mute", 2)
        assert "embedfit index" in str(error.value.remedy)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["one.npy", "windows.npy", "tokens.npy", "passages.starts.npy"])
def test_a_large_file_with_a_damaged_head_is_no_traceback(name, run, monkeypatch):
    """Files that are too large to hash are mapped; what numpy can't map is said."""
    monkeypatch.setattr(index_folder, "CHECKED_BYTES", -1)
    path = run / "index" / name
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(InputError, match="damaged"):
        load(run)


def test_what_is_damaged_is_built_again(run, tmp_path, tiny_bert):
    (run / "index" / "one.npy").write_bytes(b"")
    index = index_documents(tmp_path / "c.jsonl", folder=run, model=str(tiny_bert), force=True)
    assert index.search("mute the tv", 1)[0].passage_id == "tv"


def test_who_has_an_index_open_goes_on_with_it_while_it_is_replaced(run, tmp_path):
    """A server: every hit comes from the index that it opened. What is opened after that is the new one."""
    served = load(run)
    before = served.search("mute the tv", 5), served.base.search("lamp", 5)
    update_index(run, add=[corpus(tmp_path / "d.jsonl", {"kite": "A kite needs wind and a long line. " * 3})])
    assert (served.search("mute the tv", 5), served.base.search("lamp", 5)) == before
    assert len(served) == 2 and len(load(run)) == 3
    assert load(run).search("wind for the kite", 1)[0].passage_id == "kite"


def test_passages_that_changed_after_the_index_was_built_are_said(run):
    workspace = Workspace(run)
    passages = workspace.read(Passage)
    lines = Said()
    load_or_build(run, Runtime(report=lines))
    assert not lines.lines
    workspace.write(Passage, passages[:1])
    index = load_or_build(run, Runtime(report=lines))
    assert len(index) == 2 and f"embedfit index --run {run}" in lines.lines[0]


def test_a_full_disk_leaves_the_old_index(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    more = corpus(tmp_path / "d.jsonl", {"kite": "A kite needs wind and a long line. " * 3})
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(EmbedfitError, match="full"):
        update_index(run, add=[more])
    monkeypatch.undo()
    assert len(load(run)) == 2
    assert len(update_index(run, add=[more])) == 3


def test_an_index_that_may_not_be_written_is_searched(run, monkeypatch):
    files = {path: path.stat().st_mtime_ns for path in all_files(run / "index")}
    for path in files:
        path.chmod(0o444)
    (run / "index").chmod(0o555)
    assert load(run).search("mute the tv", 2)
    assert {path: path.stat().st_mtime_ns for path in all_files(run / "index")} == files
    (run / "index").chmod(0o755)


def test_words_are_marked_where_queries_lie_beside_them(tmp_path, tiny_bert):
    """Such an index counts words of passages and queries together, and has no other words."""
    source = Source(contents=list(ROWS.values()), queries=[("sound off",), ("hall light",)])
    model = local_model("m", str(tiny_bert))
    built = build(source, model, retrievers.EXPANDED.without_tokens(), Runtime().vectors, Silent())
    passages = [Passage(passage_id=key, document_id=key, title="", text=text) for key, text in ROWS.items()]
    write(tmp_path / "x", built, passages, Origin(model=Identity(name=str(tiny_bert), key=model.key, instruction="")))
    assert Index.open(tmp_path / "x").marked("muted", "the mute button") == [(4, 8)]
    assert json.loads((tmp_path / "x" / MANIFEST).read_text())["retriever"]["name"] == "expanded"
