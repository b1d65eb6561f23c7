from pathlib import Path

import pytest
from tokenizers import Tokenizer

from embedfit.errors import InputError
from embedfit.evaluation.evalset import cut, read_eval_set
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.path.artefacts import Passage


def beir(folder: Path, corpus, queries, qrels) -> Path:
    write_beir(folder, RetrievalData(corpus=corpus, queries=queries, qrels=qrels))
    return folder


CORPUS = {"b": Entry("second text", "Title"), "a": Entry("first text", "Title"), "c": Entry("third text", "")}


def test_passages_are_by_ascending_id_with_their_content(tmp_path):
    folder = beir(tmp_path / "e", CORPUS, {"q": "first?"}, {"q": {"a": 1}})
    read = read_eval_set(folder, "human")
    assert read.passage_ids == ("a", "b", "c")
    assert read.contents == ("Title first text", "Title second text", "third text")
    assert read.relevant == ({"a": 1},)


def test_queries_without_an_answer_are_left_out_and_counted(tmp_path):
    queries = {"q1": "one", "q2": "two", "q3": "three"}
    folder = beir(tmp_path / "e", CORPUS, queries, {"q1": {"a": 1}, "q2": {"zzz": 1}, "q3": {"b": 0}})
    read = read_eval_set(folder, "human")
    assert read.query_ids == ("q1",)
    assert read.skipped == 2


def test_no_answerable_query_is_an_error(tmp_path):
    folder = beir(tmp_path / "e", CORPUS, {"q": "x"}, {"q": {"zzz": 1}})
    with pytest.raises(InputError, match="relevant"):
        read_eval_set(folder, "human")


def test_documents_are_the_runs_where_it_knows_all_passages(tmp_path):
    folder = beir(tmp_path / "e", CORPUS, {"q": "x"}, {"q": {"b": 1}})
    passages = [
        Passage(passage_id=key, document_id="doc" + key, title="", text="", page=ord(key) - 90) for key in "abc"
    ]
    read = read_eval_set(folder, "synthetic", passages=passages, document_names={"docb": "manual.pdf"})
    assert read.documents == ("doca", "docb", "docc")
    assert read.document_names == {"doca": "doca", "docb": "manual.pdf", "docc": "docc"}
    assert read.pages == (7, 8, 9)


def test_documents_of_a_strange_corpus_are_titles_that_group_passages(tmp_path):
    corpus = {f"p{n}": Entry("text", "Article") for n in range(4)} | {"c": Entry("text", "")}
    folder = beir(tmp_path / "e", corpus, {"q": "x"}, {"q": {"c": 1}})
    assert read_eval_set(folder, "human").documents == ("c", *["Article"] * 4)


def test_titles_of_single_passages_are_no_documents(tmp_path):
    folder = beir(tmp_path / "e", CORPUS, {"q": "x"}, {"q": {"b": 1}})
    assert read_eval_set(folder, "human").documents == ("a", "b", "c")


def test_styles_are_of_the_queries(tmp_path):
    folder = beir(tmp_path / "e", CORPUS, {"q1": "x", "q2": "y"}, {"q1": {"b": 1}, "q2": {"a": 1}})
    assert read_eval_set(folder, "synthetic", styles={"q1": "claim"}).styles == ("claim", "")


def test_the_answer_of_a_query_is_its_relevant_passage_of_the_lowest_id(tmp_path):
    folder = beir(tmp_path / "e", CORPUS, {"q": "x"}, {"q": {"c": 1, "b": 2, "0 not there": 1}})
    read = read_eval_set(folder, "human")
    assert read.passage_ids[read.answer(0)] == "b"


def test_cut_leaves_each_passage_as_many_tokens_as_the_window_holds(tiny_bert):
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    contents = ("what is how to mute the tv of the sound", "mute")
    shorter, count = cut(contents, tokenizer, 7)  # 5 besides [CLS] and [SEP]
    assert count == 1
    assert shorter == ("what is how to mute", "mute")
    assert cut(shorter, tokenizer, 7) == (shorter, 0)
