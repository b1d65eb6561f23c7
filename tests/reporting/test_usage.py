import shlex
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from embedfit.reporting import usage


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
    # At weight 0 merged/ is the base with its instruction inside.
    kept = replace(evidence, decision=replace(evidence.decision, ship="base", alpha=0.0))
    assert usage.shipped_model(kept).endswith("run/merged")
    kept = replace(evidence, decision=replace(evidence.decision, ship="base", alpha=0.4))
    assert usage.shipped_model(kept) == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize("method", ["weighted_sum", "reciprocal_rank", ""])
def test_the_hybrid_snippet_runs_and_ranks(tiny_bert, method):
    names = {}
    exec(compile(usage.hybrid(str(tiny_bert), method, 0.6), "snippet", "exec"), names)
    found = names["search"]("title and text of a passage", k=2)
    assert len(found) == 2 and found[0][0] == "title and text of a passage"
    assert found[0][1] >= found[1][1]


def test_the_loading_snippet_runs(tiny_bert, capsys):
    names = {}
    exec(compile(usage.loading(str(tiny_bert)), "snippet", "exec"), names)
    assert names["queries"].shape == (1, 32)
    # The instruction is part of a query and not of a passage.
    plain = names["model"].encode(["what you search for"])
    assert not np.allclose(plain, names["queries"])
    assert "tensor" in capsys.readouterr().out


def test_the_langchain_snippets_give_the_same_vector(tiny_bert):
    names = {}
    exec(compile(usage.langchain(str(tiny_bert)), "snippet", "exec"), names)
    model = SentenceTransformer(str(tiny_bert))
    expected = model.encode_query("what you search for", normalize_embeddings=True)
    assert np.allclose(names["vector"], expected, atol=1e-3)
    pytest.importorskip("langchain_huggingface", reason="langchain-huggingface is not installed")
    exec(compile(usage.langchain_alone(str(tiny_bert)), "snippet", "exec"), names)
    assert np.allclose(names["vector"], expected, atol=1e-3)


def test_all_snippets_are_valid_code(evidence):
    odd = replace(evidence, root='runs/it\'s "odd"; rm -rf ~')
    for snippet in usage.snippets(odd):
        if snippet.language == "python":
            compile(snippet.code, snippet.title, "exec")
        else:
            words = shlex.split(snippet.code.replace("\\\n", ""))
            assert "rm" not in words and not any(word.startswith("-rf") for word in words)
