import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from embedfit.config import resolve
from embedfit.errors import ModelError, UsageError
from embedfit.evaluation.systems import open_embedder, parse
from embedfit.models.architecture import read_architecture
from embedfit.models.encoder import Encoder
from embedfit.models.folder import read_tensors, save_model
from embedfit.models.local import LocalModel, base_model, local_model
from embedfit.runtime import Runtime


@pytest.mark.parametrize(
    ("name", "kind", "target", "detail"),
    [
        ("bm25", "bm25", "", ""),
        ("titan-v2", "titan", "1024", ""),
        ("titan-v2:256", "titan", "256", ""),
        ("openai:http://localhost:8000/v1/#bge", "openai", "http://localhost:8000/v1", "bge"),
        ("tei:https://example.com/tei", "tei", "https://example.com/tei", ""),
        ("sagemaker:my-endpoint@eu-west-1", "sagemaker", "my-endpoint", "eu-west-1"),
        ("sagemaker:my-endpoint@us-gov-west-1", "sagemaker", "my-endpoint", "us-gov-west-1"),
        ("sagemaker:my-endpoint", "sagemaker", "my-endpoint", ""),
        ("BAAI/bge-small-en", "local", "BAAI/bge-small-en", ""),
        ("./runs/em/merged", "local", "./runs/em/merged", ""),
        ("minilm", "local", "minilm", ""),
    ],
)
def test_names_are_taken_apart(name, kind, target, detail):
    spec = parse(name)
    assert (spec.kind, spec.target, spec.detail, spec.instruction) == (kind, target, detail, None)


def test_a_name_may_bring_its_instruction():
    assert parse("minilm|query: ").instruction == "query: "
    assert parse("minilm|").instruction == ""
    spec = parse("hybrid:tei:http://h:1|find: ")
    assert (spec.kind, spec.hybrid, spec.instruction, spec.dense.hybrid) == ("tei", True, "find: ", False)


@pytest.mark.parametrize(
    "name",
    [
        "titan-v2:300",
        "openai:http://h/v1",
        "openai:h/v1#m",
        "tei:localhost",
        "sagemaker:a_b",
        "hybrid:bm25",
        "",
        "tei:",
    ],
)
def test_a_wrong_name_is_refused_with_its_form(name):
    with pytest.raises(UsageError) as caught:
        parse(name)
    assert caught.value.remedy


def test_local_vectors_are_the_encoders(tiny_bert):
    model = local_model("tiny", str(tiny_bert))
    expected = Encoder.load(tiny_bert)
    for is_query in (True, False):
        assert_allclose(
            model.embed(["mute the tv"], is_query=is_query),
            expected.encode(["mute the tv"], is_query=is_query),
            atol=1e-6,
        )


def test_the_key_follows_weights_window_and_tokenizer_but_not_the_path(tiny_bert, tmp_path):
    def key(folder, **options):
        return LocalModel("any name", folder, **options).key

    first = key(tiny_bert)
    shutil.copytree(tiny_bert, tmp_path / "copy")
    assert key(tmp_path / "copy") == first
    assert key(tiny_bert, query_instruction="other: ") == first  # passages have the same vectors
    assert LocalModel("any name", tiny_bert, query_instruction="other: ").instruction == "other: "

    tensors = read_tensors(tiny_bert)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    tensors[name] = tensors[name] + 1e-3
    save_model(tmp_path / "trained", tensors, base=tiny_bert, layout=read_architecture(tiny_bert))
    assert key(tmp_path / "trained") != first

    layout = read_architecture(tiny_bert)
    cut = replace(layout, modules=(replace(layout.first, max_tokens=16), *layout.modules[1:]))
    save_model(tmp_path / "window", read_tensors(tiny_bert), base=tiny_bert, layout=cut)
    assert key(tmp_path / "window") != first

    tokenizer = json.loads((tmp_path / "copy" / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (tmp_path / "copy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert key(tmp_path / "copy") != first


def test_released_models_load_again(tiny_bert):
    model = local_model("tiny", str(tiny_bert))
    first = model.embed(["tv"], is_query=False)
    model.release()
    assert_allclose(model.embed(["tv"], is_query=False), first)


def test_the_base_is_measured_with_its_own_instruction_whatever_was_trained_with(tiny_bert):
    config = resolve(overrides={"model": str(tiny_bert), "query_instruction": "Represent the Financial question: "})
    assert base_model(config).layout.query_instruction == "query: "


def test_bge_without_a_stored_instruction_gets_the_prescribed_one(tiny_bert, tmp_path):
    folder = tmp_path / "bge-small-en-v1.5"
    plain = replace(read_architecture(tiny_bert), prompts={})
    save_model(folder, read_tensors(tiny_bert), base=tiny_bert, layout=plain)
    prescribed = "Represent this sentence for searching relevant passages: "
    assert local_model("bge", str(folder)).layout.query_instruction == prescribed
    assert base_model(resolve(overrides={"model": str(folder)})).layout.query_instruction == prescribed
    assert local_model("bge", str(folder), query_instruction="").layout.query_instruction == ""


def test_a_base_without_instruction_takes_the_users(tiny_bert, tmp_path):
    folder = tmp_path / "some-model"
    plain = replace(read_architecture(tiny_bert), prompts={})
    save_model(folder, read_tensors(tiny_bert), base=tiny_bert, layout=plain)
    assert base_model(resolve(overrides={"model": str(folder)})).layout.query_instruction == ""
    config = resolve(overrides={"model": str(folder), "query_instruction": "find: "})
    assert base_model(config).layout.query_instruction == "find: "


def test_open_embedder_opens_each_kind(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite")
    names = [str(tiny_bert), "titan-v2:512", "openai:http://h/v1#m", "tei:http://h", "sagemaker:e@eu-west-1"]
    opened = [open_embedder(name, runtime) for name in names]
    assert [one.storage for one in opened] == ["key", "own", "probed", "probed", "probed"]
    assert len({one.key for one in opened}) == len(names)
    for one in opened:
        one.release()
    with pytest.raises(UsageError):
        open_embedder("bm25", runtime)
    with pytest.raises(ModelError):
        open_embedder("no-such-model", runtime)


def test_without_boto3_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(Exception, match=r"pip install 'embedfit\[aws\]'"):
        open_embedder("titan-v2", Runtime(ledger=tmp_path / "l.sqlite"))


def test_rows_are_unit_vectors(tiny_bert):
    vectors = local_model("tiny", str(tiny_bert)).embed(["mute", "what is the tv"], is_query=True)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
