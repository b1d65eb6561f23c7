"""Where an index goes: whole, in bounded batches, by a door that strangers' sinks use too."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from embedfit import plugins
from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents
from embedfit.errors import MissingDependency, UsageError
from embedfit.files.textfiles import toml_of
from embedfit.index.search import Index
from embedfit.index.sinks.sink import GROUP, Row, export, open_sink
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Silent
from embedfit.runtime import Runtime
from tests.plug_in import install

SINKS = pytest.mark.parametrize("name", ["jsonl", "parquet"])
LONG = "The pump has a filter, and each spring the filter must be cleaned before the pump is started again. " * 12


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("sinks")
    rows = [
        {"_id": f"p{n}", "title": "Pümp \ud83d\ude00", "text": f"Note {n} about the pump. {LONG if n % 3 == 0 else ''}",
         "year": 2000 + n, "tags": ["a", "b"] if n % 2 else ["c"]} for n in range(10)
    ]  # fmt: skip
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runtime = Runtime(vectors=VectorStore(folder / "vectors"))
    return index_documents(folder / "corpus.jsonl", folder=folder / "ix", model=str(tiny_bert), runtime=runtime)


def exported(name: str, folder: Path) -> list[dict[str, object]]:
    if name == "jsonl":
        return [json.loads(line) for line in (folder / "passages.jsonl").read_text("utf-8").splitlines()]
    rows = pq.read_table(folder / "passages.parquet").to_pylist()
    return [{**row, "metadata": json.loads(row["metadata"])} for row in rows]


@SINKS
def test_a_sink_holds_what_the_index_holds(index: Index, tiny_bert: Path, tmp_path: Path, name: str) -> None:
    about = export(index, open_sink(f"{name}:{tmp_path / 'out'}"), Silent(), batch_rows=3)
    rows = exported(name, tmp_path / "out")
    assert [row["id"] for row in rows] == [f"p{n}" for n in range(10)]
    model = LocalModel("tiny", tiny_bert)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["fingerprint"] == about.fingerprint == model.key and manifest["passages"] == 10
    assert manifest["dimensions"] == 32 and manifest["instruction"] == "query: "
    expected = model.embed([passage.content for passage in index.passages()], is_query=False)
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-3)
    starts = index.parts.windows.starts
    for number, (row, passage) in enumerate(zip(rows, index.passages(), strict=True)):
        assert (row["text"], row["title"], row["document"]) == (passage.text, passage.title, passage.document_id)
        assert row["metadata"]["year"] == 2000 + number
        assert row["metadata"]["tags"] == (["a", "b"] if number % 2 else ["c"])
        own = index.parts.windows.vectors[starts[number] : starts[number + 1]]
        np.testing.assert_array_equal(row["windows"], own if len(own) else [row["vector"]])
    assert len(rows[0]["windows"]) > 1 == len(rows[1]["windows"])


def test_a_parquet_file_says_what_made_it_and_comes_in_row_groups(index: Index, tmp_path: Path) -> None:
    about = export(index, open_sink(f"parquet:{tmp_path / 'out'}"), Silent(), batch_rows=4)
    file = pq.ParquetFile(tmp_path / "out" / "passages.parquet")
    assert json.loads(file.schema_arrow.metadata[b"embedfit"]) == asdict(about)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 4, 2]
    assert str(file.schema_arrow.field("vector").type).startswith("fixed_size_list")


@SINKS
def test_what_breaks_off_leaves_the_export_of_before(index: Index, tmp_path: Path, name: str) -> None:
    sink = open_sink(f"{name}:{tmp_path / 'out'}")
    export(index, sink, Silent())
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def breaks(about, batches, write=sink.write):
        def some():
            yield next(batches)
            raise KeyboardInterrupt

        write(about, some())

    breaking = type("Breaking", (), {"write": staticmethod(breaks)})()
    with pytest.raises(KeyboardInterrupt):
        export(index, breaking, Silent(), batch_rows=2)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    export(index, sink, Silent())  # it may be replaced
    assert len(exported(name, tmp_path / "out")) == 10


@SINKS
def test_somebody_s_folder_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    open_sink(f"{name}:{tmp_path / 'mine'}")  # it is empty
    (tmp_path / "mine" / "manifest.json").write_text("[1]")
    with pytest.raises(UsageError, match="is not replaced"):
        open_sink(f"{name}:{tmp_path / 'mine'}")
    with pytest.raises(UsageError, match="names no folder"):
        open_sink(f"{name}:")


@pytest.mark.parametrize("spec", ["lancedb://x", "parquet", "", "C:\\out"])
def test_an_unknown_place_names_the_known_ones_and_the_extra(spec: str) -> None:
    with pytest.raises(UsageError, match="names no place for an index") as caught:
        open_sink(spec)
    assert "jsonl:DIR, parquet:DIR (needs pip install 'embedfit[stores]')" in str(caught.value)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"pip install 'embedfit\[stores\]'"):
        open_sink(f"parquet:{tmp_path / 'out'}")


def test_ours_come_in_by_the_door_that_others_use() -> None:
    listed = toml_of(Path(__file__).parents[3] / "pyproject.toml")["project"]["entry-points"][GROUP]
    assert plugins.places(GROUP) == listed


PLUG_IN = """
from embedfit.index.sinks.sink import SinkKind

SEEN = []


class Memory:
    def write(self, about, batches):
        SEEN.append((about, [row for batch in batches for row in batch]))


SINK = SinkKind(form="memory:NAME", open=lambda rest: Memory())
"""


def test_a_plug_in_takes_an_index(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, PLUG_IN, "memory = stranger:SINK", monkeypatch, group=GROUP)
    folder = str(index.stored.folder.parent)
    done = CliRunner().invoke(app, ["index", "--to-folder", folder, "--to", "memory:a"])
    assert done.exit_code == 0, done.output
    ((about, rows),) = sys.modules["stranger"].SEEN
    assert about.passages == len(rows) == 10 and all(isinstance(row, Row) for row in rows)


def test_the_command_checks_the_place_before_it_works(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["index", str(tmp_path), "--to-folder", str(tmp_path / "ix"), "--to", "nowhere"])
    assert done.exit_code != 0 and not (tmp_path / "ix").exists()
