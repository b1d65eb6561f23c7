import ast
import shlex
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents
from embedfit.reporting import usage
from tests.models.tiny_towers import SHAPES
from tests.reporting.conftest import decided

MANUAL = "# Sound\n\nPress the mute button of the tv to turn the sound off, and again to turn it on.\n"


@pytest.mark.parametrize(
    ("model", "hub_id"),
    [
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        ("bge-base", "BAAI/bge-base-en-v1.5"),
        ("org/name", "org/name"),
        ("./org/name", None),
        ("/models/own", None),
        ("models/own/v2", None),
        ("own", None),
    ],
)
def test_only_what_looks_like_a_hub_id_is_one(model, hub_id):
    assert usage.hub_id(model) == hub_id


def test_a_model_is_loaded_from_where_it_ships(evidence):
    assert usage.shipped_model(evidence).endswith("run/merged")
    evidence = replace(evidence, config=evidence.config.model_copy(update={"model": "minilm"}))
    # At weight 0 merged/ is the base with its instruction inside.
    assert usage.shipped_model(decided(evidence, ship="base", alpha=0.0)).endswith("run/merged")
    kept = usage.shipped_model(decided(evidence, ship="base", alpha=0.4))
    assert kept == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_search_snippet_searches_a_runs_index(tiny_bert, tmp_path, capsys):
    (tmp_path / "manual.md").write_text(MANUAL)
    index_documents(tmp_path / "manual.md", folder=tmp_path / "run", model=str(tiny_bert))
    names = {}
    exec(compile(usage.code("search.py", run=str(tmp_path / "run")), "snippet", "exec"), names)
    assert "manual.md" in capsys.readouterr().out and len(names["index"]) == 1
    exec(compile(usage.code("retriever.py", run=str(tmp_path / "run")), "snippet", "exec"), names)
    assert [one.metadata["document"] for one in names["documents"]] == ["manual.md"]


def test_the_commands_index_and_search_run(tiny_bert, tmp_path, monkeypatch):
    (tmp_path / "manual.md").write_text(MANUAL)
    monkeypatch.chdir(tmp_path)
    index_documents(tmp_path / "manual.md", folder=tmp_path / "a run", model=str(tiny_bert))
    own = usage.code("search_documents.sh", model=str(tiny_bert)).replace("DOCS", "manual.md")
    for code in (usage.code("index.sh", run="a run"), own):
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "embedfit"
            if arguments[0] != "serve":
                done = CliRunner().invoke(app, arguments)
                assert done.exit_code == 0, done.output


def test_the_loading_snippet_runs(tiny_bert, capsys):
    names = {}
    exec(compile(usage.code("load.py", model=str(tiny_bert)), "snippet", "exec"), names)
    assert names["queries"].shape == (1, 32)
    # The instruction is part of a query and not of a passage.
    plain = names["model"].encode(["what you search for"])
    assert not np.allclose(plain, names["queries"])
    assert "tensor" in capsys.readouterr().out


def test_the_langchain_snippets_give_the_same_vector(tiny_bert):
    names = {}
    exec(compile(usage.code("langchain.py", model=str(tiny_bert)), "snippet", "exec"), names)
    model = SentenceTransformer(str(tiny_bert))
    expected = model.encode_query("what you search for", normalize_embeddings=True)
    assert np.allclose(names["vector"], expected, atol=1e-3)
    pytest.importorskip("langchain_huggingface", reason="langchain-huggingface is not installed")
    exec(compile(usage.code("langchain_alone.py", model=str(tiny_bert)), "snippet", "exec"), names)
    assert np.allclose(names["vector"], expected, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_snippets_of_two_towers_take_the_right_one(shape, tiny_bert, tmp_path, capsys):
    folder = str(SHAPES[shape](tiny_bert, tmp_path))
    model = SentenceTransformer(folder)
    query, passage = "what you search for", "title and text of a passage"
    names = {}
    exec(compile(usage.code("load.py", model=folder, towers=True), "snippet", "exec"), names)
    assert np.allclose(names["queries"], model.encode_query([query]), atol=1e-5)
    assert np.allclose(names["passages"], model.encode_document([passage]), atol=1e-5)
    exec(compile(usage.code("langchain.py", model=folder, towers=True), "snippet", "exec"), names)
    assert np.allclose(names["vector"], model.encode_query(query, normalize_embeddings=True), atol=1e-2)
    # LangChain's own class passes these arguments on to encode().
    call = ast.parse(usage.code("langchain_alone.py", model=folder, towers=True)).body[1].value
    more = {keyword.arg: keyword.value for keyword in call.keywords}
    found = model.encode(query, **ast.literal_eval(more["query_encode_kwargs"]))
    assert np.allclose(found, model.encode_query(query, normalize_embeddings=True), atol=1e-5)
    assert not np.allclose(found, model.encode(query, prompt_name="query"), atol=1e-2)


def test_each_tower_has_a_server_of_its_own():
    lines = usage.code("tei.sh", model="runs/a b/merged", folder=True, towers=True).replace("\\\n", "").splitlines()
    mounts = [shlex.split(line)[shlex.split(line).index("-v") + 1] for line in lines if line.startswith("docker")]
    assert mounts == ["$PWD/runs/a b/merged/query:/model", "$PWD/runs/a b/merged/document:/model"]
    assert (
        usage.code("tei.sh", model="me/tuned", towers=True).splitlines()[0] == "hf download me/tuned --local-dir model"
    )


@pytest.mark.parametrize(
    ("model", "folder", "command"),
    [
        ("me/tuned", False, "docker run -p 8080:80 TEI --model-id me/tuned"),
        ("runs/a b/merged", True, "docker run -p 8080:80 -v $PWD/runs/a b/merged:/model TEI --model-id /model"),
        ("/runs/a/merged", True, "docker run -p 8080:80 -v /runs/a/merged:/model TEI --model-id /model"),
    ],
)
def test_docker_takes_absolute_paths_only(model, folder, command):
    lines = usage.code("tei.sh", model=model, folder=folder).replace("\\\n", "").splitlines()
    words = [
        word.replace("ghcr.io/huggingface/text-embeddings-inference:cpu-1.9", "TEI") for word in shlex.split(lines[0])
    ]
    assert " ".join(words) == command


def test_all_snippets_are_valid_code(evidence):
    odd = replace(evidence, root='runs/it\'s "odd"; rm -rf ~')
    for snippet in usage.snippets(odd):
        if snippet.language == "python":
            compile(snippet.code, snippet.title, "exec")
        else:
            words = shlex.split(snippet.code.replace("\\\n", ""))
            assert "rm" not in words and not any(word.startswith("-rf") for word in words)
