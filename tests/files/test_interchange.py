"""The formats of others, read and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.evaluation.check import read_pairs
from embedfit.files.beir import read_beir, read_corpus, read_queries, write_beir
from embedfit.files.conversion import convert, data_of, format_of, rows_of
from embedfit.files.flagembedding import read_flagembedding, write_flagembedding
from embedfit.files.llamaindex import read_llamaindex, write_llamaindex
from embedfit.files.qrels import read_qrels
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.models.store.files import read_texts
from embedfit.path.artefacts import TrainRow
from embedfit.queries.ask import user_examples

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
    with pytest.raises(InputError, match="line 2: not UTF-8") as caught:
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


def rows_written(tmp_path: Path, *lines: object) -> list[TrainRow]:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return read_flagembedding(path)


def test_rows_by_hand_and_from_flagembedding(tmp_path: Path) -> None:
    rows = rows_written(
        tmp_path,
        {"query": "a", "pos": ["p"]},
        "",
        {"query": "b", "pos": "p", "neg": None, "type": "normal", "pos_id": [3]},
        {
            "query": "c",
            "pos": ["p", "r"],
            "neg": ["n", " "],
            "pos_scores": [1, 2.5],
            "neg_scores": [0, -1],
            "prompt": "P: ",
        },
        {"query": "d", "pos": ["p"], "neg": [], "pos_scores": [], "neg_scores": []},
        {"query": "e", "pos": ["p"], "neg": ["n"], "pos_scores": None, "neg_scores": None},
    )
    assert [row.query for row in rows] == list("abcde")
    assert rows[1].pos == ("p",) and rows[1].neg == ()
    assert rows[2].neg == ("n",) and rows[2].pos_scores == (1.0, 2.5) and rows[2].neg_scores == (0.0,)
    assert rows[2].prompt == "P: " and rows[0].prompt is None
    assert rows[4].pos_scores == () == rows[4].neg_scores


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "not JSON .Expecting"),
        ("[1]", "expected a JSON object"),
        ({"pos": ["p"]}, "query"),
        ({"query": " ", "pos": ["p"]}, "query"),
        ({"query": "a", "pos": []}, "at least one positive"),
        ({"query": "a", "pos": ["", " "]}, "at least one positive"),
        ({"query": "a", "neg": ["n"]}, "at least one positive"),
        ({"query": "a", "pos": [1]}, "list of strings"),
        ({"query": "a", "pos": ["p"], "pos_scores": ["x"]}, "list of numbers"),
        ({"query": "a", "pos": ["p"], "pos_scores": [True]}, "list of numbers"),
        ({"query": "a", "pos": ["p"], "pos_scores": [1, 2]}, "2 scores for 1 passages"),
        ({"query": "a", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}, "one is there without the other"),
        ('{"query": "a", "pos": ["p"], "pos_scores": [NaN]}', "NaN"),
        ({"query": "a", "pos": ["p"], "prompt": 3}, "prompt"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: object, says: str) -> None:
    with pytest.raises(InputError, match=r"train\.jsonl, line 2: .*" + says):
        rows_written(tmp_path, {"query": "a", "pos": ["p"]}, line)


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
        ("{", "not JSON"),
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
        " (without grades of relevance)"
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


# --- qrels as people and tools write them


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("query-id\tcorpus-id\tscore\r\nq 1\td1\t0.75\r\nq 1\td2\t-1\r\n", {"q 1": {"d1": 0.75, "d2": -1}}),
        ("# made by hand\nqid docid rel\nq1 d1 2\n", {"q1": {"d1": 2}}),
        ("q1 Q0 d1 1\nq1 0 d2 0\n", {"q1": {"d1": 1, "d2": 0}}),
        ("q1\t0\td 1\t1\n", {"q1": {"d 1": 1}}),
        ('"q ""1"""\td1\t1\n', {'q "1"': {"d1": 1}}),
        ('q"1\td"1\t1\n"q\td\t1\n', {'q"1': {'d"1': 1}, '"q': {"d": 1}}),
        ("#1\td1\t1\n", {"#1": {"d1": 1}}),
        ("1\t2\t1e0\n1\t2\t1\n", {"1": {"2": 1}}),
        ("q\x851\td\u2028\x0c1\t1\n", {"q\x851": {"d\u2028\x0c1": 1}}),
        ("q\xa01 d1 1\n", {"q\xa01": {"d1": 1}}),
        ("", {}),
    ],
)
def test_qrels_in_every_form_that_says_one_thing(tmp_path: Path, text: str, expected: dict) -> None:
    path = tmp_path / "test.tsv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        assert read_qrels(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1\td1\tx\n", "line 1: the score 'x'"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t\n", "line 2: the score ''"),
        ("q1\td1\tnan\n", "line 1: the score 'nan'"),
        ("q1\td1\t1e999\n", "line 1: the score"),
        ("q1\td1\t1_0\n", "line 1: the score"),
        ("q1\td1\n", "line 1: expected query-id"),
        ("q1\td1\t1\tgood\n", "line 1: expected query-id"),
        ("\td1\t1\n", "line 1: expected query-id"),
        ("q1\td1\t1\nq1\td1\t0\n", "line 2: query 'q1' and passage 'd1' have 0 here and 1 before"),
        ("corpus-id\tquery-id\tscore\nd1\tq1\t1\n", "line 1: the columns are"),
        ("query-id\tcorpus-id\tscore\nquery-id\tcorpus-id\tscore\n", "line 2: the score 'score'"),
    ],
)
def test_qrels_that_do_not_are_refused_with_a_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "test.tsv", text)
    with pytest.raises(InputError, match=message) as caught:
        read_qrels(path)
    assert str(path) in caught.value.message and caught.value.remedy


def test_what_qrels_name_and_the_folder_lacks_is_said(tmp_path: Path) -> None:
    write_beir(tmp_path / "x", DATA)
    write(tmp_path / "x" / "qrels" / "test.tsv", "q1\td1\t1\nq1\tnone\t1\nq2\td2\t0\nq3\td1\t1\nq4\td1\t1\n")
    notes = read_beir(tmp_path / "x").notes
    assert [note.split(": ", 1)[1].split(",")[0] for note in notes] == [
        "2 of 4 judged queries are not in queries.jsonl",
        "1 judgements name passages that are not in corpus.jsonl",
        "1 of 2 queries have no relevant passage in the corpus and don't count.",
    ]
    assert "'q3'" in notes[0] and "'none'" in notes[1]
    assert str(convert(tmp_path / "x", tmp_path / "d.json")).count("\n") == 3, "convert says it too"


_ODD_ID = st.text(st.sampled_from("a\"' #,;\u2028\x85\x0cé|-0"), min_size=1, max_size=5).filter(
    lambda text: text.strip() == text
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    qrels=st.dictionaries(
        _ODD_ID, st.dictionaries(_ODD_ID, st.integers(-2, 4) | st.sampled_from([0.5, 0.75]), min_size=1), min_size=1
    )
)
def test_any_ids_come_back_from_written_qrels(tmp_path_factory: pytest.TempPathFactory, qrels: dict) -> None:
    data = RetrievalData(corpus={"d": Entry("t")}, queries={"q": "t"}, qrels=qrels)
    folder = tmp_path_factory.mktemp("beir") / "x"
    write_beir(folder, data)
    assert read_qrels(folder / "qrels" / "test.tsv") == qrels


# --- any bytes


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.text("{}[]\":, \\ud83dnull1e9.-\n\r\t#\x0b\u2028qdé", max_size=60).map(lambda t: t.encode("utf-8")),
        st.dictionaries(
            st.sampled_from(["query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "_id", "text", "title",
                             "queries", "corpus", "relevant_docs", "passage", "similar"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("\ud83d"),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
                max_leaves=5,
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)  # fmt: skip
def test_any_bytes_are_data_or_an_error_for_people(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    readers = (
        read_qrels, read_queries, read_flagembedding, read_llamaindex, read_texts, read_pairs, format_of,
        lambda one: dict(read_corpus(one)), lambda one: user_examples(str(one)),
    )  # fmt: skip
    for read in readers:
        try:
            read(path)
        except EmbedfitError as error:
            assert str(path) in error.message
    path.replace(tmp_path / "x.txt")
    try:
        assert len(read_texts(tmp_path / "x.txt")) == data.count(b"\n") + (not data.endswith(b"\n")) or b"\0" in data
    except EmbedfitError as error:
        assert str(tmp_path / "x.txt") in error.message
