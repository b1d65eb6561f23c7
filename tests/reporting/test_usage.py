import shlex
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents
from embedfit.reporting import usage
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
