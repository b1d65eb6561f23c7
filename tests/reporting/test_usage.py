import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from embedfit.evaluation.ranking import fusion_of
from sentence_transformers import SentenceTransformer

from embedfit.models.encoder import Encoder
from embedfit.models.windows import blended, max_pool, windows_of_model
from embedfit.reporting import usage
from embedfit.retrieval.bm25 import Bm25

LONG = ("mute reset sound", "warranty", "reset what mute the ends sound", "warranty warranty ends")


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


@pytest.mark.parametrize("method", ["weighted_sum", "reciprocal_rank"])
@pytest.mark.parametrize("query", ["mute the tv", "xylophone", "the of", ""])
@pytest.mark.parametrize("english", [True, False])
def test_the_hybrid_snippet_fuses_as_the_evaluation_does(tiny_bert, tmp_path, method, query, english):
    texts = ["mute the tv with a button", "reset the tv", "what is the sound of the tv", "the warranty ends"]
    rows = [{"passage_id": f"p{n}", "title": "", "text": text} for n, text in enumerate(texts)]
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {}
    exec(compile(usage.hybrid(str(tiny_bert), str(path), method, 0.6, english=english), "snippet", "exec"), names)
    found = names["search"](query, k=3)
    encoder = Encoder.load(tiny_bert, precision="fp32")
    dense = encoder.encode(texts) @ encoder.encode([query], is_query=True)[0]
    fused = fusion_of({"method": method, "weight": 0.6})(dense, Bm25(texts).scores(query))
    order = np.argsort(-fused, kind="stable")[:3]
    assert [passage_id for passage_id, _ in found] == [f"p{row}" for row in order]
    assert [score for _, score in found] == pytest.approx(fused[order].tolist(), abs=1e-3)


def test_the_hybrid_snippet_of_windows_fuses_as_the_evaluation_does(tiny_bert, tmp_path, monkeypatch):
    texts = [" ".join(f"{word} the tv with a button" for word in words.split()) for words in LONG]
    rows = [{"passage_id": f"p{n}", "title": "", "text": text} for n, text in enumerate(texts)]
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = Encoder.load(tiny_bert, precision="fp32")
    windows = windows_of_model(texts, encoder.tokenizer, encoder.layout, max_tokens=16)
    assert len(windows.texts) > len(texts) + 2
    vectors = blended(encoder.encode(windows.texts), encoder.encode(texts), windows.starts)
    monkeypatch.chdir(tmp_path)
    np.save("windows.npy", vectors)
    numbers = np.searchsorted(windows.starts, np.arange(len(vectors)), side="right") - 1
    Path("windows.windows.jsonl").write_text("".join(json.dumps({"passage": int(n)}) + "\n" for n in numbers))
    names = {}
    code = usage.hybrid(str(tiny_bert), str(path), "weighted_sum", 0.7, windows=True)
    exec(compile(code, "snippet", "exec"), names)
    query = "mute the tv"
    found = names["search"](query, k=3)
    dense = max_pool(encoder.encode([query], is_query=True) @ vectors.T, windows.starts)[0]
    setting = {"method": "weighted_sum", "weight": 0.1, "windowed_weight": 0.7}
    fused = fusion_of(setting, windowed=True)(dense, Bm25(texts).scores(query))
    order = np.argsort(-fused, kind="stable")[:3]
    assert [passage_id for passage_id, _ in found] == [f"p{row}" for row in order]
    assert [score for _, score in found] == pytest.approx(fused[order].tolist(), abs=1e-3)


def test_the_docs_hold_the_hybrid_snippet():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    assert usage.hybrid("runs/em/merged", "runs/em/passages.jsonl", "weighted_sum", 0.5) in page


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
