"""A LanceDB folder finds what the index finds, holds the old rows or the new ones, and never touches others' files."""

from __future__ import annotations

import shutil
from pathlib import Path

import lancedb
import pytest
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import update_index
from embedfit.errors import EmbedfitError, InputError, ModelError, UsageError
from embedfit.index.search import Index
from embedfit.index.sinks import lancedb as lance
from embedfit.index.sinks.client import Connected, connect
from embedfit.index.sinks.handover import IndexHandover, export
from embedfit.index.sinks.sink import kind_of
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Value
from embedfit.progress import Silent
from embedfit.runtime import Runtime
from tests.index.sinks.corpora import LONG, QUERIES, documents_index, expanded_index
from tests.index.sinks.ranking import assert_ranks_as
from tests.index.sinks.test_sinks import Breaking

FILTERS = (
    ["year=2003"], ["tags:a"], ["day>=2024-01-15"], ["year<2010", "even=true"], {"tags": "b'; --"},
    {"year": {"exists": False}}, {"document": "it's"}, {"document": "a;DROP TABLE x;--"},
    ["document>=2024-01"], ["document<2024"],
)  # fmt: skip


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("lance"), tiny_bert)


def handed(index: Index, folder: Path) -> str:
    url = f"lancedb://{folder}"
    export(index, kind_of(url).open(url), Silent(), batch_rows=7)
    return url


@pytest.fixture(scope="module")
def store(index: Index, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Connected:
    return connect(handed(index, tmp_path_factory.mktemp("lance") / "db"), tiny_bert)


def test_it_ranks_as_the_index(index: Index, store: Connected) -> None:
    assert_ranks_as(index, store, QUERIES)


@pytest.mark.parametrize("where", FILTERS, ids=str)
def test_it_filters_as_the_index(index: Index, store: Connected, where: dict[str, Value] | list[str]) -> None:
    assert_ranks_as(index, store, QUERIES[:2], where)


def test_a_field_that_is_not_there_is_an_error(store: Connected) -> None:
    with pytest.raises(InputError, match="There is no field"):
        store.search("pump", where={"x' OR 1=1 --": 1})


def test_written_queries_count_too(tiny_bert: Path, tmp_path: Path) -> None:
    queries = [(f"how to clean {n}", f"note {n} please") if n % 3 else () for n in range(12)]
    index = expanded_index(tmp_path, tiny_bert, queries=queries)
    assert_ranks_as(index, connect(handed(index, tmp_path / "db"), tiny_bert), QUERIES)


@pytest.mark.parametrize("first", [1, 5, 20])
def test_few_vectors_are_compared_and_the_best_are_still_found(
    index: Index, store: Connected, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(lance, "_FIRST", first)
    question = store.ask("clean the pump filter")
    found = [(one.id, one.score) for one in store.candidates(question, 3)]
    assert found == [(one.id, pytest.approx(one.score)) for one in store.candidates(question, 40)[:3]]


def test_another_model_is_refused(store: Connected, other_bert: Path, tmp_path: Path) -> None:
    url = f"lancedb://{store.store._link}"
    with pytest.raises(ModelError, match="can't be compared"):
        connect(url, other_bert)
    with pytest.raises(ModelError, match="can't be compared"):
        question = store.ask("pump")
        store.candidates(type(question)(fingerprint="other", vector=question.vector, words=question.words), 3)


def test_an_interrupted_load_goes_on_and_is_not_seen(index: Index, tiny_bert: Path, tmp_path: Path) -> None:
    small = documents_index(tmp_path / "small", tiny_bert, count=9)
    url = handed(small, tmp_path / "db")
    opened = connect(url, tiny_bert)
    sink = kind_of(url).open(url)
    with pytest.raises(KeyboardInterrupt):
        sink.write(Breaking(index, 3))
    assert_ranks_as(small, opened, QUERIES[:2])
    assert_ranks_as(small, connect(url, tiny_bert), QUERIES[:2])

    class Counting(IndexHandover):
        starts: list[int]

        def batches(self, start: int = 0):
            self.starts = [start]
            return super().batches(start)

    handover = Counting(index, Silent(), batch_rows=7)
    sink.write(handover)
    assert handover.starts == [6]
    assert_ranks_as(index, connect(url, tiny_bert), QUERIES)
    assert_ranks_as(index, opened, QUERIES[:2])  # one that was opened before sees the new rows too
    assert len([path for path in (tmp_path / "db").iterdir() if path.is_dir() and not path.is_symlink()]) == 1


def test_added_and_removed_documents_follow(tiny_bert: Path, tmp_path: Path) -> None:
    index = documents_index(tmp_path, tiny_bert, count=12)
    url = handed(index, tmp_path / "db")
    opened = connect(url, tiny_bert)
    (tmp_path / "more.md").write_text(f"A kettle boils water. {LONG}")
    runtime = Runtime(vectors=VectorStore(tmp_path / "vectors"))
    changed = update_index(tmp_path / "ix", add=[tmp_path / "more.md"], remove=["it's"], runtime=runtime)
    handed(changed, tmp_path / "db")
    assert_ranks_as(changed, opened, ["kettle", *QUERIES])
    assert any(hit.text.startswith("A kettle") for hit in opened.search("kettle", 13))
    assert "it's" not in {hit.document for hit in opened.search("note", 13)}


def test_the_same_rows_are_not_written_again(index: Index, tmp_path: Path) -> None:
    url = handed(index, tmp_path / "db")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "db" / "current").rglob("*") if path.is_file()}
    handed(index, tmp_path / "db")
    assert files == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "db" / "current").rglob("*") if path.is_file()
    }
    assert url


def test_others_tables_are_not_touched(tmp_path: Path) -> None:
    lancedb.connect(tmp_path / "db").create_table("passages", [{"mine": 1}])
    with pytest.raises(UsageError, match="is not replaced"):
        kind_of("lancedb://x").open(f"lancedb://{tmp_path / 'db'}")
    with pytest.raises(UsageError, match="names no folder"):
        kind_of("lancedb://x").open("lancedb://")
    with pytest.raises(UsageError, match="holds no index"):
        connect(f"lancedb://{tmp_path / 'nothing'}")


def test_a_full_disk_is_a_clear_error_and_the_old_rows_stay(
    index: Index, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = documents_index(tmp_path / "small", tiny_bert, count=9)
    url = handed(small, tmp_path / "db")

    def full(*_: object) -> None:
        raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")

    monkeypatch.setattr(lance, "_passages", full)
    with pytest.raises(EmbedfitError, match="is full"):
        handed(index, tmp_path / "db")
    assert_ranks_as(small, connect(url, tiny_bert), QUERIES[:1])


def test_a_damaged_folder_is_an_error_for_people(index: Index, tiny_bert: Path, tmp_path: Path) -> None:
    url = handed(index, tmp_path / "db")
    opened = connect(url, tiny_bert)
    shutil.rmtree(tmp_path / "db" / "current" / "words.lance")
    with pytest.raises(EmbedfitError, match="could not use"):
        opened.search("pump")
    (tmp_path / "db" / "current" / "questions.npz").unlink()
    with pytest.raises(EmbedfitError, match="could not use"):
        connect(url, tiny_bert)
    (tmp_path / "db" / "current" / "index.json").write_text("{}")
    with pytest.raises(InputError, match="can read"):
        connect(url, tiny_bert)


def test_the_command_hands_over_and_says_how_to_search(index: Index, tmp_path: Path) -> None:
    folder = str(index.stored.folder.parent)
    done = CliRunner().invoke(app, ["index", "--to-folder", folder, "--to", f"lancedb://{tmp_path / 'db'}"])
    assert done.exit_code == 0, done.output
    assert "40 passages" in done.output and f"lancedb://{tmp_path / 'db'}" in done.output
