"""What is put before texts: the folder's own prompts, then its authors', by every name that a model can have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedfit.errors import ModelError
from embedfit.models import sources
from embedfit.models.layout.prompts import PRESCRIBED, open_model, prescribed
from embedfit.models.layout.proof import examine
from embedfit.models.layout.reading import read_architecture
from embedfit.models.sources import EMBEDDERS
from tests.conftest import make_tiny_bert

SENTENCE = "Represent this sentence for searching relevant passages: "
WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
ZH = "为这个句子生成表示以用于检索相关文章："


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("bge-base", SENTENCE, ""),
        ("BAAI/bge-large-en-v1.5", SENTENCE, ""),
        ("BAAI/bge-small-en", SENTENCE, ""),
        ("snap/bge-small-zh-v1.5", ZH, ""),
        ("BAAI/bge-small-zh-v1.5", ZH, ""),
        ("./bge-small-zh-v1.5", ZH, ""),
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("e5-multilingual", "query: ", "passage: "),
        ("/hub/models--intfloat--multilingual-e5-small/snapshots/abc", "query: ", "passage: "),
        ("/hub/models--BAAI--bge-small-en-v1.5/snapshots/5c38ec7c405ec4b44b94cc5a9bb96e735b38267a", SENTENCE, ""),
        ("arctic-l-v2", "query: ", ""),
        ("Snowflake/snowflake-arctic-embed-m", SENTENCE, ""),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("embeddinggemma", "task: search result | query: ", "title: none | text: "),
        ("mixedbread-ai/mxbai-embed-large-v1", SENTENCE, ""),
        ("granite-r2", "", ""),
        ("intfloat/e5-mistral-7b-instruct", WEB_SEARCH, ""),
        ("intfloat/multilingual-e5-large-instruct", WEB_SEARCH, ""),
        ("Qwen/Qwen3-Embedding-0.6B", WEB_SEARCH.rstrip(), ""),
        ("lightonai/modernbert-embed-large", "search_query: ", "search_document: "),
        ("BAAI/bge-large-zh-noinstruct", None, ""),
        ("gte-modernbert", "", ""),
        ("minilm", "", ""),
        ("mpnet", "", ""),
        ("bge-m3", "", ""),
        ("my-bge-small-en-v1.5-tuned", None, ""),
    ],
)
def test_what_authors_prescribe(name: str, query: str | None, passage: str) -> None:
    found = prescribed(name)
    assert (None if found is None else found.query) == query
    assert ("" if found is None else found.passage) == passage


def test_instructions_of_instruct_models_end_in_the_query() -> None:
    for name in ("qwen3-0.6b", "intfloat/multilingual-e5-large-instruct"):
        found = prescribed(name)
        assert found is not None and found.query.startswith("Instruct: ") and found.query.rstrip().endswith("Query:")
        assert found.passage == ""


def test_prompts_of_other_names_do_not_hide_the_authors_and_are_shown(tmp_path: Path) -> None:
    """As in e5-mistral's folder, whose prompt for search is none that anybody asks for by itself."""
    for name, expected in (("e5-mistral-7b-instruct", WEB_SEARCH), ("unknown", "")):
        folder = make_tiny_bert(tmp_path / name, instruction="")
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": {"web_search_query": "x"}}))
        assert open_model(str(folder))[1].query_instruction == expected
        lines = "\n".join(examine(str(folder), compare=False).lines())
        assert ("also holds the prompts" in lines) == (not expected)
        assert ("authors prescribe (model card" in lines) == bool(expected)


def test_every_alias_has_an_entry_and_doctor_says_where_prompts_come_from(tmp_path: Path) -> None:
    assert all(prescribed(alias) is not None for alias in EMBEDDERS)
    for name, source in (("bge-m3", "none, as the authors say (model card of BAAI/bge-m3"), ("x", "none: the folder")):
        assert source in "\n".join(examine(str(make_tiny_bert(tmp_path / name, instruction="")), compare=False).lines())


def test_every_entry_has_its_source() -> None:
    assert all(entry.source for entry in PRESCRIBED)


def test_a_local_folder_is_known_by_the_name_it_was_saved_from(tmp_path: Path) -> None:
    folder = make_tiny_bert(tmp_path / "some-folder", instruction="")
    assert open_model(str(folder))[1].query_instruction == ""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "intfloat/e5-small-v2"}))
    _, layout = open_model(str(folder))
    assert (layout.query_instruction, layout.document_instruction) == ("query: ", "passage: ")


def test_a_hub_snapshot_is_known_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "models--BAAI--bge-small-en-v1.5" / "snapshots" / "abc"
    folder.parent.mkdir(parents=True)
    shutil.copytree(make_tiny_bert(tmp_path / "plain", instruction=""), folder)
    assert open_model(str(folder))[1].query_instruction == SENTENCE


def test_a_folders_own_prompts_and_the_users_win(tmp_path: Path) -> None:
    folder = make_tiny_bert(tmp_path / "e5-small-v2", instruction="own: ")
    _, layout = open_model(str(folder))
    assert (layout.query_instruction, layout.document_instruction) == ("own: ", "")
    assert open_model(str(folder), "mine: ")[1].query_instruction == "mine: "
    assert open_model(str(folder), "")[1].query_instruction == ""


def test_a_saved_model_does_not_pass_for_the_one_it_was_trained_from(tmp_path: Path) -> None:
    from embedfit.models.folder import read_tensors, save_model

    base = make_tiny_bert(tmp_path / "base", instruction="")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "_name_or_path": "BAAI/bge-small-en-v1.5"}))
    save_model(tmp_path / "tuned", read_tensors(base), base=base, layout=read_architecture(base))
    assert open_model(str(base))[1].query_instruction == SENTENCE
    assert open_model(str(tmp_path / "tuned"))[1].query_instruction == ""


@pytest.mark.parametrize("alias", [name for name, model in EMBEDDERS.items() if model.wheel is None])
def test_without_a_hub_every_alias_fails_at_once(alias: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "_unreachable", lambda: "no route to host")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="no route to host") as caught:
        open_model(alias)
    assert "--model minilm" in str(caught.value)
