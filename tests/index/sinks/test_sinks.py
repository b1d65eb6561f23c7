"""Where an index goes: whole, in bounded batches, by a door that strangers' sinks use too."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from embedfit import plugins
from embedfit.cli.main import app
from embedfit.errors import MissingDependency, UsageError
from embedfit.files.textfiles import toml_of
from embedfit.index.search import Index
from embedfit.index.sinks.handover import IndexHandover, export
from embedfit.index.sinks.questions import Questions
from embedfit.index.sinks.sink import GROUP, Row, Sink, kind_of, read_about, shown
from embedfit.models.local import LocalModel
from embedfit.progress import Silent
from tests.index.sinks.corpora import QUERIES, documents_index, expanded_index
from tests.index.sinks.ranking import first_stage
from tests.plug_in import install

SINKS = pytest.mark.parametrize("name", ["jsonl", "parquet"])


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("sinks"), tiny_bert, count=10, odd=False)


def open_sink(url: str) -> Sink:
    return kind_of(url).open(url)


def exported(name: str, folder: Path) -> list[dict[str, object]]:
    if name == "jsonl":
        return [json.loads(line) for line in (folder / "passages.jsonl").read_text("utf-8").splitlines()]
    rows = pq.read_table(folder / "passages.parquet").to_pylist()
    return [{**row, "metadata": json.loads(row["metadata"])} for row in rows]


@SINKS
def test_a_sink_holds_what_the_index_holds(index: Index, tiny_bert: Path, tmp_path: Path, name: str) -> None:
    about = export(index, open_sink(f"{name}:{tmp_path / 'out'}"), Silent(), batch_rows=3)
    rows = exported(name, tmp_path / "out")
    assert [row["id"] for row in rows] == [f"p{n:03}" for n in range(10)]
    model = LocalModel("tiny", tiny_bert)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["fingerprint"] == about.fingerprint == model.key and manifest["passages"] == 10
    assert read_about(json.dumps(manifest), "x") == about
    assert manifest["dimensions"] == 32 and manifest["instruction"] == "query: "
    expected = model.embed([passage.content for passage in index.passages()], is_query=False)
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-3)
    starts = index.parts.windows.starts
    for number, (row, passage) in enumerate(zip(rows, index.passages(), strict=True)):
        assert (row["text"], row["title"], row["document"]) == (passage.text, passage.title, passage.document_id)
        assert row["metadata"]["year"] == 2000 + number
        assert row["metadata"]["tags"] == (["a", "b'; --"] if number % 2 else ["c"])
        own = index.parts.windows.vectors[starts[number] : starts[number + 1]]
        np.testing.assert_array_equal(row["windows"], own if len(own) else [row["vector"]])
    assert len(rows[0]["windows"]) > 1 == len(rows[1]["windows"])


def test_a_parquet_file_says_what_made_it_and_comes_in_row_groups(index: Index, tmp_path: Path) -> None:
    about = export(index, open_sink(f"parquet:{tmp_path / 'out'}"), Silent(), batch_rows=4)
    file = pq.ParquetFile(tmp_path / "out" / "passages.parquet")
    assert read_about(file.schema_arrow.metadata[b"embedfit"].decode(), "x") == about
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 4, 2]
    assert str(file.schema_arrow.field("vector").type).startswith("fixed_size_list")


class Breaking(IndexHandover):
    """A hand-over that is interrupted after some batches of two rows."""

    def __init__(self, index: Index, after: int) -> None:
        super().__init__(index, Silent(), batch_rows=2)
        self.after = after

    def batches(self, start: int = 0):
        for number, batch in enumerate(super().batches(start)):
            if number == self.after:
                raise KeyboardInterrupt
            yield batch


@SINKS
def test_what_breaks_off_leaves_the_export_of_before(index: Index, tmp_path: Path, name: str) -> None:
    sink = open_sink(f"{name}:{tmp_path / 'out'}")
    export(index, sink, Silent())
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    with pytest.raises(KeyboardInterrupt):
        sink.write(Breaking(index, 1))
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


@pytest.mark.parametrize("spec", ["oracle://x", "parquet", "", "C:\\out"])
def test_an_unknown_place_names_the_known_ones_and_the_extra(spec: str) -> None:
    with pytest.raises(UsageError, match="names no place for an index") as caught:
        open_sink(spec)
    assert "jsonl:DIR, lancedb://DIR (needs pip install 'embedfit[stores]')" in str(caught.value)


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
    def write(self, handover):
        SEEN.append((handover.about, [row for batch in handover.batches() for row in batch]))


SINK = SinkKind(form="memory:NAME", open=lambda url: Memory())
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


def test_the_rows_and_the_questions_say_what_the_retriever_says(tiny_bert: Path, tmp_path: Path) -> None:
    """A database that adds weight × raw / deviation over the rows gets the index' own first stage."""
    queries = [(f"how to clean {n}", f"note {n} please") if n % 3 else () for n in range(12)]
    for index in (
        documents_index(tmp_path / "plain", tiny_bert, count=20),
        expanded_index(tmp_path / "expanded", tiny_bert, queries=queries),
    ):
        handover = IndexHandover(index, Silent(), batch_rows=3)
        rows = [row for batch in handover.batches() for row in batch]
        assert [row.number for row in rows] == list(range(len(index)))
        assert next(iter(handover.batches(7)))[0].number == 7
        questions = Questions(handover.about, handover.questions, LocalModel("tiny", tiny_bert))
        for query in QUERIES:
            question, _ = questions.ask(query)
            expected = {hit.passage_id: hit.score for hit in first_stage(index).search(query, len(index))}
            for row in rows:
                raw = {"one": row.vector @ question.vector}
                if row.windows is not None:
                    raw["windows"] = (row.windows @ question.vector).max()
                if row.queries is not None:
                    raw["queries"] = (row.queries @ question.vector).max()
                for part, own in row.words.items():
                    weights = dict(zip(own.numbers.tolist(), own.values.tolist(), strict=True))
                    asked = question.words[part]
                    both = zip(asked.numbers.tolist(), asked.values.tolist(), strict=True)
                    raw[part] = min(1.0, sum(value * weights.get(number, 0.0) for number, value in both))
                score = sum(part.weight * raw[part.name] / part.deviation for part in index.retriever.parts)
                assert score == pytest.approx(expected[row.id], abs=1e-4)
        assert set(handover.about.holds) == {part.name for part in index.retriever.parts} | {"tokens", "one"}


def test_other_contents_have_another_name(index: Index, tiny_bert: Path, tmp_path: Path) -> None:
    same = documents_index(tmp_path / "same", tiny_bert, count=10, odd=False)
    more = documents_index(tmp_path / "more", tiny_bert, count=11, odd=False)
    names = [IndexHandover(one, Silent()).about.content for one in (index, same, more, first_stage(index))]
    assert names[0] == names[1] and len(set(names)) == 3


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://me:s3cret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:p@ss/w?rd#@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://host/db?user=me&password=s3cret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("qdrant://host?api_key=s3cret", "qdrant://host?api_key=***"),
        ("lancedb://runs/em", "lancedb://runs/em"),
        ("oops", "oops"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_an_error_never_shows_a_password() -> None:
    with pytest.raises(UsageError) as caught:
        kind_of("oracle://me:s3cret@host/db")
    assert "s3cret" not in str(caught.value) and "me:***@host" in str(caught.value)
