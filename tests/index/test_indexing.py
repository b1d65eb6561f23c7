"""`embedfit index` and `embedfit search` from documents to hits."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from embedfit.asked.reading import read_queries
from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents, load, update_index
from embedfit.errors import ArtifactMissing, EmbedfitError, InputError, ModelError
from embedfit.index.search import Index
from tests.conftest import make_tiny_bert

TOPICS = {
    "tv": "Press the mute button to turn the sound of the tv off. Press it again to hear the tv.",
    "lamp": "The lamp in the hall has a switch at its base. A new bulb must have forty watts at most.",
    "oven": "Heat the oven for ten minutes before the bread goes in. The bread is done when it sounds hollow.",
    "bike": "Oil the chain of the bike each month. A dry chain wears the sprockets and makes noise.",
}


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": name, "title": "", "text": f"{text} {text} {name}."} for name, text in TOPICS.items()]
    rows += [{"_id": f"{name}-{n}", "title": name, "text": f"{text} Note {n}."} for n in range(3)
             for name, text in TOPICS.items()]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def index(corpus, tiny_bert, tmp_path):
    return index_documents(corpus, folder=tmp_path / "ix", model=str(tiny_bert))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "manifest.json"}  # fmt: skip


def test_a_search_finds_the_passage_and_says_why(index):
    hits = index.search("mute the sound of the tv", k=3)
    assert hits[0].passage_id.startswith("tv")
    assert set(hits[0].parts) == {"one", "windows", "words", "tokens"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.marked("muted sounds", "Mute the sound.") == [(0, 4), (9, 14)]


def test_an_opened_index_gives_what_the_built_one_gave(index, tmp_path):
    again = load(tmp_path / "ix")
    assert again.search("oil the chain", k=5) == index.search("oil the chain", k=5)
    assert load(tmp_path / "ix" / "index").search("lamp", k=1) == index.search("lamp", k=1)


def test_one_query_alone_and_among_many_finds_the_same(index):
    queries = ["mute the tv", "forty watts", "bread", "x"]
    for query, hits in zip(queries, index.search_all(queries, 4), strict=True):
        assert [hit.passage_id for hit in hits] == [hit.passage_id for hit in index.search(query, 4)]


def test_what_is_up_to_date_is_not_built_again(index, corpus, tiny_bert, tmp_path):
    manifest = tmp_path / "ix" / "index" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    index_documents(corpus, folder=tmp_path / "ix", model=str(tiny_bert))
    assert manifest.stat().st_mtime_ns == before


def test_adding_gives_what_a_fresh_build_gives(index, corpus, tiny_bert, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"_id": "kite", "title": "", "text": "A kite needs wind and a long line."}) + "\n")
    added = update_index(tmp_path / "ix", add=[more])
    fresh = index_documents([corpus, more], folder=tmp_path / "fresh", model=str(tiny_bert))
    assert added.search("wind for the kite", 10) == fresh.search("wind for the kite", 10)
    assert files(tmp_path / "ix" / "index") == files(tmp_path / "fresh" / "index")


def test_a_removed_document_is_found_no_more(index, tmp_path):
    document = index.search("mute the tv", 1)[0].document
    left = update_index(tmp_path / "ix", remove=[document])
    assert document not in {hit.document for hit in left.search("mute the tv", 50)}
    assert len(left) < len(index)
    with pytest.raises(InputError, match="holds no document 'nothing'"):
        update_index(tmp_path / "ix", remove=["nothing"])


def test_without_tokens_there_is_no_second_stage(corpus, tiny_bert, tmp_path):
    index = index_documents(corpus, folder=tmp_path / "ix", model=str(tiny_bert), tokens=False)
    assert index.retriever.rerank is None
    assert not (tmp_path / "ix" / "index" / "tokens.npy").exists()
    assert "tokens" not in index.search("lamp", 1)[0].parts


def test_another_model_in_the_place_of_the_first_is_refused(corpus, tmp_path):
    model = make_tiny_bert(tmp_path / "model")
    index_documents(corpus, folder=tmp_path / "ix", model=str(model))
    shutil.rmtree(model)
    make_tiny_bert(model, seed=1)
    with pytest.raises(ModelError, match="other weights"):
        load(tmp_path / "ix")


def test_a_file_that_was_cut_is_refused(index, tmp_path):
    path = tmp_path / "ix" / "index" / "one.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"one\.npy is not the file"):
        load(tmp_path / "ix")


def test_an_index_of_another_version_is_refused_and_built_again(index, corpus, tiny_bert, tmp_path):
    path = tmp_path / "ix" / "index" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(InputError, match="schema version 99"):
        load(tmp_path / "ix")
    assert index_documents(corpus, folder=tmp_path / "ix", model=str(tiny_bert)).search("lamp", 1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '"x"'])
def test_a_damaged_manifest_is_an_error_for_people(index, tmp_path, content):
    (tmp_path / "ix" / "index" / "manifest.json").write_text(content)
    with pytest.raises(EmbedfitError):
        load(tmp_path / "ix")


def test_a_folder_without_an_index_names_the_command(tmp_path):
    with pytest.raises(ArtifactMissing) as error:
        load(tmp_path)
    assert "embedfit index" in str(error.value.remedy)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_an_error(index, k):
    with pytest.raises(InputError, match="at least one"):
        index.search("lamp", k)


def test_k_of_a_million_gives_all(index):
    assert len(index.search("lamp", 1_000_000)) == len(index)


def test_a_query_of_ten_thousand_words_and_one_of_no_known_word(index):
    assert index.search("lamp " * 10_000, 3)
    assert len(index.search("qqqq", 3)) == 3
    with pytest.raises(InputError, match="empty"):
        index.search("  \n ", 3)


def test_a_lone_surrogate_is_no_traceback(index):
    assert len(index.search("lamp \ud83d", 2)) == 2


# --- the commands


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_commands_of_the_readme(corpus, tiny_bert, tmp_path):
    done = run("index", corpus, "--model", tiny_bert, "--to-folder", tmp_path / "ix")
    assert done.exit_code == 0, done.output
    done = run("search", "--index", tmp_path / "ix", "mute the tv", "-k", 2)
    assert done.exit_code == 0 and "tv" in done.stdout and "the base has it at" in done.stdout
    done = run("search", "--index", tmp_path / "ix", "mute the tv", "-k", 2, "--json")
    value = json.loads(done.stdout)
    assert [hit["passage_id"] for hit in value["hits"]] and len(value["base"]) == 2


def test_a_trec_run_is_read_back_as_the_search_found_it(index, tmp_path):
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "q1", "text": "mute the tv"}\n{"_id": "q 2", "text": "forty watts"}\n')
    done = run("search", "--index", tmp_path / "ix", "--queries", queries, "--trec", tmp_path / "out.trec")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert {row[0] for row in rows} == {"q1", "q_2"} and {row[1] for row in rows} == {"Q0"}
    ours = [hit.passage_id for hit in index.search("mute the tv", 100)]
    theirs = sorted((row for row in rows if row[0] == "q1"), key=lambda row: -float(row[4]))
    assert [row[2] for row in theirs] == ours
    assert (np.diff([float(row[4]) for row in theirs]) < 0).all()


def test_queries_come_in_three_forms(tmp_path):
    path = tmp_path / "q"
    path.write_text('how do I\n\n{"query": "b"}\n{"_id": "x", "text": "c"}\n')
    assert read_queries(path) == [("1", "how do I"), ("3", "b"), ("x", "c")]
    path.write_text('{"_id": 1}\n')
    with pytest.raises(InputError, match="line 1"):
        read_queries(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="no query"):
        read_queries(path)


@pytest.mark.parametrize(
    "arguments",
    [("index",), ("index", "x", "--run", "r", "--to-folder", "t"), ("index", "x", "--run", "r"), ("search", "q"),
     ("search", "--index", "i"), ("search", "q", "--run", "r", "--index", "i"),
     ("search", "--index", "i", "q", "--queries", "f")],
)  # fmt: skip
def test_wrong_usage_names_the_right_one(arguments):
    done = run(*arguments)
    assert done.exit_code != 0 and not isinstance(done.exception, (KeyError, AttributeError, TypeError))


def test_the_index_of_a_run_has_the_base_beside_the_tuned_model(index, corpus, tiny_bert, tmp_path):
    """A run whose merged model has other weights: hits come from it, the base's from the base."""
    folder = tmp_path / "ix"
    make_tiny_bert(folder / "merged", seed=3)
    done = run("index", "--run", folder)
    assert done.exit_code == 0, done.output
    tuned = load(folder)
    assert tuned.stored.model.name == "../merged" and tuned.stored.base is not None
    assert tuned.base.search("mute the tv", 5) == index.base.search("mute the tv", 5)
    before = tuned.search("lamp", 2)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert Index.open(moved / "index").search("lamp", 2) == before


def test_two_documents_are_enough_to_search(tiny_bert, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("tv", "lamp"):
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\n{TOPICS[name]}\n")
    index = index_documents(tmp_path / "docs", folder=tmp_path / "ix", model=str(tiny_bert))
    assert len(index) == 2 and index.search("mute the tv", 1)[0].document == "tv.md"
