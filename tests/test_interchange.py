"""The formats of others, read and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.interchange import (
    Entry,
    RetrievalData,
    convert,
    data_of,
    format_of,
    read_beir,
    read_corpus,
    read_flagembedding,
    read_llamaindex,
    read_qrels,
    rows_of,
    write_beir,
    write_flagembedding,
    write_llamaindex,
)
from embedfit.records import TrainRow

DATA = RetrievalData(
    corpus={"d1": Entry("press mute", "Sound"), "d2": Entry("press power"), "d3": Entry("no one asks")},
    queries={"q1": "how to mute", "q2": "turn off"},
    qrels={"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}},
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_beir_round_trip(tmp_path: Path) -> None:
    write_beir(tmp_path / "beir", DATA)
    assert read_beir(tmp_path / "beir") == DATA
    assert (tmp_path / "beir" / "qrels" / "test.tsv").read_text().startswith("query-id\tcorpus-id\tscore\nq1\td1\t1\n")


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(str.strip)
_ID = st.text("abc-_.: é0189#", min_size=1, max_size=8).filter(lambda text: text == text.strip())


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    corpus=st.dictionaries(_ID, st.tuples(_TEXT, st.text(max_size=5)), min_size=1, max_size=4),
    queries=st.dictionaries(_ID, _TEXT, min_size=1, max_size=4),
)
def test_beir_round_trip_of_any_text(tmp_path_factory: pytest.TempPathFactory, corpus: dict, queries: dict) -> None:
    data = RetrievalData(
        corpus={key: Entry(*value) for key, value in corpus.items()},
        queries=queries,
        qrels={query: dict.fromkeys(corpus, 1) for query in queries},
    )
    folder = tmp_path_factory.mktemp("beir") / "x"
    write_beir(folder, data)
    assert read_beir(folder) == data


def test_ids_with_tabs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tab"):
        write_beir(tmp_path / "x", RetrievalData(corpus={"a\tb": Entry("t")}, queries={}, qrels={}))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object"),
        ('{"text": "x"}', "line 2: _id is missing"),
        ('{"_id": "d1", "text": "x"}', "line 2: the _id 'd1' occurs twice"),
        ('{"_id": "d2", "text": 5}', "line 2: text is missing or not a text"),
        ('{"_id": true, "text": "x"}', "line 2: _id is missing"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "corpus.jsonl", '{"_id": "d1", "text": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match=message) as caught:
        list(read_corpus(path))
    assert str(path) in caught.value.message


def test_bad_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"_id": "d1", "text": "x"}\n{"_id": "d2", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match="not UTF-8") as caught:
        list(read_corpus(path))
    assert "iconv" in str(caught.value.remedy)


def test_lenient_about_what_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"_id": 7, "text": "x", "title": null, "metadata": {}}\r\n\r\n')
    assert list(read_corpus(path)) == [("7", Entry("x"))]


@pytest.mark.parametrize(
    "text",
    ["query-id\tcorpus-id\tscore\nq1\td1\t1\n", "q1\td1\t1", "q1 0 d1 1\n", "\nq1\td1\t1.0\n"],
)
def test_forms_of_qrels(tmp_path: Path, text: str) -> None:
    assert read_qrels(write(tmp_path / "test.tsv", text)) == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("text", "message"), [("q1\td1\t1\nq2\td2\tx\n", "line 2: the score 'x'"), ("a\tb\n", "line 1")]
)
def test_bad_qrels(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_qrels(write(tmp_path / "test.tsv", text))


def test_beir_folders_that_do_not_fit_together(tmp_path: Path) -> None:
    write_beir(tmp_path / "x", DATA)
    write(tmp_path / "x" / "qrels" / "test.tsv", "q1\tunknown\t1\n")
    with pytest.raises(InputError, match=r"no query .* has a relevant passage"):
        read_beir(tmp_path / "x")
    with pytest.raises(InputError, match="is not a BEIR folder"):
        read_beir(tmp_path / "none")
    (tmp_path / "x" / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"queries\.jsonl is missing"):
        read_beir(tmp_path / "x")


def test_flagembedding_round_trip(tmp_path: Path) -> None:
    rows = [
        TrainRow(query="q", pos=("a", "b"), neg=("c",), pos_scores=(1.0, 0.5), neg_scores=(-0.25,), prompt="find: "),
        TrainRow(query="é", pos=("x",)),
    ]
    write_flagembedding(tmp_path / "t.jsonl", rows)
    assert read_flagembedding(tmp_path / "t.jsonl") == rows
    second = json.loads((tmp_path / "t.jsonl").read_text("utf-8").splitlines()[1])
    assert second == {"query": "é", "pos": ["x"], "neg": []}


def test_flagembedding_as_its_own_tools_write_it(tmp_path: Path) -> None:
    line = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": None, "neg_scores": None, "prompt": None,
            "type": "normal", "pos_id": ["1"]}  # fmt: skip
    path = write(tmp_path / "t.jsonl", json.dumps(line) + "\n")
    assert read_flagembedding(path) == [TrainRow(query="q", pos=("a",), neg=("b",))]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"pos": ["a"]}, "query must be a text"),
        ({"query": "q", "pos": []}, "pos must be a list of at least one"),
        ({"query": "q", "pos": "a"}, "pos must be a list"),
        ({"query": "q", "pos": ["a"], "neg": "b"}, "neg must be a list"),
        ({"query": "q", "pos": ["a", ""]}, "not empty"),
        ({"query": "q", "pos": ["a"], "pos_scores": [1, 2]}, "pos_scores must hold one number for each text, 1"),
        ({"query": "q", "pos": ["a"], "pos_scores": ["x"]}, "pos_scores must hold numbers"),
        ({"query": "q", "pos": ["a"], "prompt": 5}, "prompt must be a text"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, record: dict, message: str) -> None:
    path = write(tmp_path / "t.jsonl", json.dumps(record) + "\n")
    with pytest.raises(InputError, match=message) as caught:
        read_flagembedding(path)
    assert f"{path}, line 1" in caught.value.message


def test_llamaindex_round_trip(tmp_path: Path) -> None:
    write_llamaindex(tmp_path / "d.json", DATA)
    value = json.loads((tmp_path / "d.json").read_text())
    assert value["corpus"]["d1"] == "Sound press mute" and value["mode"] == "text"
    assert value["relevant_docs"] == {"q1": ["d1"], "q2": ["d2"]}
    back = read_llamaindex(tmp_path / "d.json")
    assert back.queries == DATA.queries and back.relevant("q2") == {"d2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "queries is missing"),
        ('{"queries": {"a": 1}, "corpus": {}, "relevant_docs": {}}', "not a text"),
    ],
)
def test_bad_llamaindex(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_llamaindex(write(tmp_path / "d.json", text))


def test_rows_and_back() -> None:
    rows = rows_of(DATA)
    assert rows == [
        TrainRow(query="how to mute", pos=("Sound press mute",)),
        TrainRow(query="turn off", pos=("press power",)),
    ]
    data = data_of([TrainRow(query="q", pos=("a",), neg=("b", "a")), TrainRow(query="q", pos=("c",), neg=("b",))])
    assert data.qrels == {"q0": {"p0": 1, "p2": 1}} and data.negatives == {"q0": ("p1",)}
    assert rows_of(data) == [TrainRow(query="q", pos=("a", "c"), neg=("b",))]


def test_convert_between_all_three(tmp_path: Path) -> None:
    write_beir(tmp_path / "beir", DATA)
    assert str(convert(tmp_path / "beir", tmp_path / "d.json")) == (
        "a BEIR folder → LlamaIndex EmbeddingQAFinetuneDataset JSON: 2 queries, 3 passages"
    )
    done = convert(tmp_path / "d.json", tmp_path / "t.jsonl")
    assert done.lost == ("ids", "1 passages that answer no query")
    assert convert(tmp_path / "t.jsonl", tmp_path / "again").lost == ()
    again = read_beir(tmp_path / "again")
    assert sorted(again.queries.values()) == ["how to mute", "turn off"]
    assert [entry.text for entry in again.corpus.values()] == ["Sound press mute", "press power"]


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    write_flagembedding(
        tmp_path / "t.jsonl",
        [TrainRow(query="q", pos=("a",), neg=("b",), pos_scores=(1.0,), neg_scores=(0.1,), prompt="p ")],
    )
    done = convert(tmp_path / "t.jsonl", tmp_path / "beir")
    assert done.lost == ("which passages are negatives of which query", "scores", "prompts")
    assert set(read_beir(tmp_path / "beir").corpus) == {"p0", "p1"}


def test_convert_refuses_what_it_should(tmp_path: Path) -> None:
    write_beir(tmp_path / "beir", DATA)
    for source, target, message in (
        (tmp_path / "none", tmp_path / "x.json", "is not there"),
        (tmp_path / "beir", tmp_path / "x.parquet", "not known"),
        (tmp_path / "beir", tmp_path / "beir", "by itself"),
        (tmp_path / "beir" / "corpus.jsonl", tmp_path / "x.json", "one file of a BEIR folder"),
        (tmp_path, tmp_path / "x.json", "without corpus.jsonl"),
    ):
        with pytest.raises(EmbedfitError, match=message):
            convert(source, target)
    write_llamaindex(tmp_path / "d.json", DATA)
    with pytest.raises(InputError, match="nothing was overwritten"):
        convert(tmp_path / "d.json", tmp_path / "beir")
    with pytest.raises(UsageError):
        convert(tmp_path / "d.json", tmp_path / "d.json")


def test_format_by_content_not_by_name(tmp_path: Path) -> None:
    assert format_of(write(tmp_path / "rows.json", '{"query": "q", "pos": ["a"]}\n')) == "flagembedding"
    assert format_of(write(tmp_path / "set.txt", '{\n"queries": {}}')) == "llamaindex"
    with pytest.raises(InputError, match="neither"):
        format_of(write(tmp_path / "a.txt", "hello"))


def test_published_datasets(data_dir: Path, tmp_path: Path) -> None:
    data = read_llamaindex(data_dir / "10k_published" / "val_dataset.json")
    assert (len(data.corpus), len(data.queries)) == (395, 790)
    assert all(len(data.relevant(query_id)) == 1 for query_id in data.queries)
    assert convert(data_dir / "10k_published" / "val_dataset.json", tmp_path / "beir").passages == 395
    for name, passages, queries in (("emanual", 710, 711), ("covid_qa", 2164, 1380), ("stackfaq", 719, 1374)):
        beir = read_beir(data_dir / name)
        assert (len(beir.corpus), len(beir.queries)) == (passages, queries)
