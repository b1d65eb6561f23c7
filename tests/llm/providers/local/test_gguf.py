"""A GGUF file written by the gguf package, read back."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from embedfit.errors import ModelError
from embedfit.llm.providers.local.gguf import build_tokenizer, read_gguf, read_shape, read_weights


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = ["<|endoftext|>", "<|im_end|>", *"abcdefgh", "Ġ", *"0123456789", "ab", "abc", "Ġa"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["a b", "ab c", "Ġ a"])
    writer.add_eos_token_id(1)
    generator = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), 64), "output_norm": (64,), "blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,),
        "blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64), "blk.0.attn_v": (32, 64), "blk.0.attn_output": (64, 64),
        "blk.0.ffn_gate": (96, 64), "blk.0.ffn_up": (96, 64), "blk.0.ffn_down": (64, 96),
    }  # fmt: skip
    tensors = {f"{name}.weight": generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if name == "blk.0.ffn_down.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, tensors


def test_shape_weights_and_rotation_order(written):
    path, tensors = written
    file = read_gguf(path)
    shape = read_shape(file)
    assert (shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_width) == (1, 64, 4, 2, 16)
    assert shape.rope_base == 500.0
    weights = read_weights(file, shape)
    value = weights["model.layers.0.self_attn.v_proj.weight"]
    assert torch.equal(value, torch.from_numpy(tensors["blk.0.attn_v.weight"]))
    down = weights["model.layers.0.mlp.down_proj.weight"].numpy()
    assert np.abs(down - tensors["blk.0.ffn_down.weight"]).max() < 0.03
    # llama.cpp keeps a rotated pair in neighbouring rows, Hugging Face half a head apart.
    query, theirs = weights["model.layers.0.self_attn.q_proj.weight"].numpy(), tensors["blk.0.attn_q.weight"]
    assert (query[16 + 3] == theirs[16 + 6]).all()
    assert (query[16 + 8 + 3] == theirs[16 + 7]).all()


def test_tokenizer_merges_splits_digits_and_knows_control_tokens(written):
    tokenizer = build_tokenizer(read_gguf(written[0]))
    encoded = tokenizer.encode("abc ab 12<|im_end|>", add_special_tokens=False)
    assert encoded.tokens == ["abc", "Ġ", "ab", "Ġ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(encoded.ids) == "abc ab 12"


@pytest.mark.parametrize("kept", [30, 400, 0.5, 0.99])
def test_a_file_that_is_cut_off_says_so(written, kept):
    path = written[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(ModelError, match=r"cut off|damaged"):
        file = read_gguf(path)
        read_weights(file, read_shape(file))


def test_another_architecture_is_refused_with_a_remedy(written):
    file = read_gguf(written[0])
    file.metadata["general.architecture"] = "mamba"
    with pytest.raises(ModelError, match="Hugging Face folder"):
        read_shape(file)
