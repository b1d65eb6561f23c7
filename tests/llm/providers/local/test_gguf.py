"""The header of a GGUF file written by the gguf package, read back."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.errors import ModelError
from embedfit.llm.providers.local.gguf import read_gguf


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["<|im_end|>", "a", "Ġ"])
    writer.add_token_types([3, 1, 1])
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer.add_tensor("token_embd.weight", values)
    kind = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("output.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_and_kinds(written):
    file = read_gguf(written)
    assert file.value("llama.context_length") == 64
    assert file.value("tokenizer.ggml.tokens") == ["<|im_end|>", "a", "Ġ"]
    assert file.value("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    assert {name: (tensor.kind, tensor.shape) for name, tensor in file.tensors.items()} == {
        "token_embd.weight": (gguf.GGMLQuantizationType.F32, (4, 64)),
        "output.weight": (gguf.GGMLQuantizationType.Q4_1, (4, 64)),
    }
    with pytest.raises(ModelError, match=r"has no llama\.rope"):
        file.value("llama.rope.freq_base")


@pytest.mark.parametrize("kept", [10, 30, 0.3])
def test_a_file_that_is_cut_off_says_so(written, kept):
    data = written.read_bytes()
    written.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(ModelError, match=r"cut off|damaged|not a GGUF"):
        read_gguf(written)


def test_lists_in_lists_without_end_are_damage(tmp_path):
    path = tmp_path / "deep.gguf"
    nested = struct.pack("<IQ", 9, 1) * 100_000
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 9) + nested)
    with pytest.raises(ModelError, match="damaged"):
        read_gguf(path)


@given(data=st.binary(min_size=24, max_size=200), version=st.sampled_from([2, 3]))
def test_whatever_the_bytes_are_the_error_is_for_people(tmp_path_factory, data, version):
    path = tmp_path_factory.mktemp("any") / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", version) + data)
    try:
        read_gguf(path)
    except ModelError:
        pass
