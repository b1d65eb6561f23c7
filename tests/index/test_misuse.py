"""What people get wrong with `index` and `search`: each has an error that says it, and nothing is changed by it."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import date

import numpy as np
import pytest
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents, load, update_index
from embedfit.commands.runs import stored_config
from embedfit.errors import ArtifactMissing, EmbedfitError, InputError, UsageError
from embedfit.index.search import Index
from embedfit.index.store.filters import filter_of
from embedfit.index.store.manifest import MANIFEST
from embedfit.path.workspace import Workspace

TEXTS = {
    "tv": "Press the mute button to turn the sound of the tv off. Press it again to hear the tv.",
    "lamp": "The lamp in the hall has a switch at its base. A new bulb must have forty watts at most.",
    "oven": "Heat the oven for ten minutes before the bread goes in. The bread is done when it sounds hollow.",
}


@pytest.fixture(scope="module")
def made(tiny_bert, tmp_path_factory):
    """Documents and their index, built once for all tests of this file."""
    root = tmp_path_factory.mktemp("misuse")
    (root / "docs").mkdir()
    for name, text in TEXTS.items():
        (root / "docs" / f"{name}.md").write_text(f"# About the {name}\n\n{text}\n")
    index_documents(root / "docs", folder=root / "ix", model=str(tiny_bert))
    return root


@pytest.fixture
def docs(made, tmp_path):
    return shutil.copytree(made / "docs", tmp_path / "docs")


@pytest.fixture
def folder(made, docs, tmp_path):
    copy = shutil.copytree(made / "ix", tmp_path / "ix")
    settings = copy / "embedfit.toml"
    settings.write_text(settings.read_text().replace(str(made), str(tmp_path)))
    return copy


def documents(folder):
    return sorted({one.document_id for one in load(folder).passages()})


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_a_command_that_fails_leaves_the_folder_as_it_was(folder, tmp_path):
    settings = (folder / "embedfit.toml").read_bytes()
    for wrong in ({"add": [tmp_path / "nope.md"]}, {"docs": [tmp_path / "nope"]}, {"model": "no-such-model"}):
        with pytest.raises(EmbedfitError):
            (update_index if "add" in wrong else index_documents)(folder=folder, **wrong)
        assert (folder / "embedfit.toml").read_bytes() == settings
    update_index(folder, remove=["tv.md"])
    assert documents(folder) == ["lamp.md", "oven.md"]


def test_documents_that_are_added_twice_are_named_once(folder, docs):
    for _ in range(2):
        update_index(folder, add=[docs, docs / "tv.md"])
    assert documents(folder) == ["lamp.md", "oven.md", "tv.md"]
    assert len(stored_config(Workspace(folder)).docs) == 2


def test_a_document_can_be_taken_out_whose_files_are_gone(folder, docs):
    docs.rename(docs.with_name("elsewhere"))
    update_index(folder, remove=["tv.md"])
    assert documents(folder) == ["lamp.md", "oven.md"]


def test_a_folder_without_an_index_and_the_inside_of_one_are_named(folder, docs, tiny_bert, tmp_path):
    for wrong in ({"add": [docs]}, {"remove": ["x"]}, {}):
        with pytest.raises(UsageError, match="holds no index yet") as error:
            (update_index if wrong else index_documents)(folder=tmp_path / "new", **wrong)
        assert "embedfit index DOCS" in str(error.value.remedy)
    with pytest.raises(UsageError, match="the index itself"):
        index_documents(docs, folder=folder / "index", model=str(tiny_bert))
    assert not (folder / "index" / "embedfit.toml").exists()


def test_what_was_removed_is_said_to_be_back_where_the_manifest_is_damaged(folder, docs, tiny_bert):
    run("index", "--to-folder", folder, "--remove", "tv.md")
    (folder / "index" / MANIFEST).write_text("{")
    result = run("index", "--to-folder", folder)
    assert result.exit_code == 0 and "Remove them again with --remove" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("passages", 10**12), ("passages", -1), ("passages", 2), ("passages", True), ("files", {}),
        ("files", {"../../secret": {"bytes": 1, "sha256": "x"}}), ("files", {"/dev/zero": {"bytes": 0, "sha256": ""}}),
        ("files", {"x" * 300: {"bytes": 1, "sha256": ""}}), ("model", {"name": 5, "key": "x", "instruction": ""}),
        ("retriever", {"name": "x", "parts": [{"name": "one", "weight": "much"}]}), ("fields", []), ("made_of", None),
        ("retriever", {"name": "x", "parts": [{"name": "one", "weight": 1, "deviation": 0}]}), ("written", 1),
    ],
)  # fmt: skip
def test_a_manifest_that_was_edited_is_refused_and_built_again(name, value, folder):
    path = folder / "index" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(InputError, match="has changed since the index was built") as error:
        load(folder)
    assert "embedfit index" in str(error.value.remedy)
    assert index_documents(folder=folder, force=True).search("the lamp", 1)


def test_a_manifest_that_is_no_file_or_nested_too_deep_is_no_traceback(folder):
    path = folder / "index" / MANIFEST
    path.write_text("[" * 200_000)
    with pytest.raises(InputError, match="is not an index' manifest"):
        load(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactMissing):
        load(folder)


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None, float("nan")])
def test_a_k_that_is_no_number_of_passages_is_refused(k, folder):
    with pytest.raises(InputError, match="k is"):
        load(folder).search("lamp", k=k)


def test_numbers_of_numpy_and_dates_are_read(folder):
    assert len(load(folder).search("lamp", k=np.int64(2))) == 2
    assert filter_of({"year": np.int32(2030), "day": {">=": date(2024, 5, 1)}}) == filter_of(
        {"year": 2030, "day": {">=": "2024-05-01"}}
    )


@pytest.mark.parametrize("query", [None, 5, b"lamp", ["lamp", "tv"], ("lamp",)])
def test_a_query_that_is_no_text_is_refused(query, folder):
    with pytest.raises(InputError, match="A query is a text"):
        load(folder).search(query)


def test_one_text_is_no_list_of_queries(folder):
    with pytest.raises(InputError, match="takes a list"):
        list(load(folder).search_all("lamp"))


def test_more_passages_than_a_query_may_find_are_an_error_and_not_cut(folder, monkeypatch):
    monkeypatch.setattr("embedfit.index.search.MOST_RESULTS", 2)
    with pytest.raises(InputError, match="at most 2 passages"):
        load(folder).search("lamp", k=1_000_000)
    monkeypatch.setattr("embedfit.index.search.MOST_RESULTS", 3)
    assert len(load(folder).search("lamp", k=1_000_000)) == 3


def test_threads_that_search_at_once_load_the_model_once_and_find_the_same(folder, monkeypatch):
    queries = ["mute the tv", "forty watts", "bread", "button", "switch", "hollow", "hall", "sound"]
    alone = {query: load(folder).search(query, 3) for query in queries}
    loads = []
    plain = Index.open(folder / "index")
    from embedfit.models.encoder import Encoder

    original = Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda *args, **named: loads.append(1) or original(*args, **named))
    found, start = {}, threading.Barrier(len(queries))

    def search(query):
        start.wait()
        found[query] = plain.search(query, 3)

    threads = [threading.Thread(target=search, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone and len(loads) == 1


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"_id": "a b", "text": "mute"}\n{"_id": null, "text": "lamp"}\n{"_id": " ", "text": "oven"}\n')
    return path


def test_an_id_of_a_query_with_spaces_is_said_and_one_that_is_missing_is_the_line(folder, questions, tmp_path):
    result = run("search", "--index", folder, "--queries", questions, "--trec", tmp_path / "o" / "run.trec", "-k", "1")
    assert result.exit_code == 0, result.output
    assert "'a b' is written as 'a_b'" in " ".join(result.stderr.split())
    lines = (tmp_path / "o" / "run.trec").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["a_b", "2", "3"]


@pytest.mark.parametrize("rows", [["a b", "a_b"], ["a  b", "a b"], ["x\ty", "x y"]])
def test_two_ids_that_a_trec_run_would_make_one_are_refused(rows, folder, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"_id": one, "text": "mute"}) + "\n" for one in rows))
    result = run("search", "--index", folder, "--queries", path, "--trec", tmp_path / "o.trec")
    assert "would be one query" in str(result.exception) and not (tmp_path / "o.trec").exists()


@pytest.mark.parametrize("identifier", [["a"], {"a": 1}, True, 1.5])
def test_an_id_that_is_no_text_names_its_line(identifier, folder, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"_id": identifier, "text": "mute"}) + "\n")
    result = run("search", "--index", folder, "--queries", path, "--trec", tmp_path / "o.trec")
    assert "line 1: its _id is neither" in str(result.exception)


@pytest.mark.parametrize("k", ["0", "-1"])
def test_a_k_below_one_is_refused_and_not_the_default(k, folder, questions, tmp_path):
    for what in (["mute"], ["--queries", questions, "--trec", tmp_path / "o.trec"]):
        result = run("search", "--index", folder, *what, "-k", k)
        assert result.exit_code != 0 and f"-k is {k}" in str(result.exception)


def test_options_that_do_not_fit_are_said(folder, questions, tmp_path):
    trec, search = tmp_path / "o.trec", ("search", "--index", folder)
    cases = {
        "is for a file of queries": ["mute", "--trec", trec],
        "prints no JSON": ["--queries", questions, "--trec", trec, "--json"],
        "would overwrite": ["--queries", questions, "--trec", questions],
    }
    before = questions.read_bytes()
    for words, arguments in cases.items():
        result = run(*search, *arguments)
        assert result.exit_code != 0 and words in str(result.exception)
    assert questions.read_bytes() == before and not trec.exists()


@pytest.mark.parametrize("target", ["a folder", "/proc/none", "below a file", "long name"])
def test_a_place_where_no_trec_run_can_be_is_no_traceback(target, folder, questions, tmp_path):
    path = {
        "a folder": tmp_path, "below a file": questions / "x.trec", "long name": tmp_path / ("x" * 300),
    }.get(target, target)  # fmt: skip
    result = run("search", "--index", folder, "--queries", questions, "--trec", path)
    assert isinstance(result.exception, EmbedfitError) and "can't be written" in str(result.exception)


def test_a_colon_on_a_text_names_the_sign_that_is_meant(folder):
    with pytest.raises(InputError, match="does not fit") as error:
        load(folder).search("lamp", where="document:lamp.md")
    assert "document=…" in str(error.value.remedy) and "There are: document" in str(error.value.remedy)
