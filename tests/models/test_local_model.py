"""A model folder as a source of vectors: its key, its instruction."""

import json
import shutil
from dataclasses import replace

import numpy as np
from numpy.testing import assert_allclose

from embedfit.config import resolve
from embedfit.models.encoder import Encoder
from embedfit.models.folder import read_tensors, save_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.local import LocalModel, base_model, local_model


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


def test_rows_are_unit_vectors(tiny_bert):
    vectors = local_model("tiny", str(tiny_bert)).embed(["mute", "what is the tv"], is_query=True)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
