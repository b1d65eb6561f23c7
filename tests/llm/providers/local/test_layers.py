import pytest
import torch

from embedfit.llm.providers.local.attention import _attend_plainly, attend, join
from embedfit.llm.providers.local.layers import Int8Product, LlamaShape, quantised
from embedfit.llm.providers.local.llama import Arithmetic, Llama
from embedfit.llm.providers.local.prefix import Family, Leaf
from embedfit.llm.providers.local.probe import best_arithmetic, int8_is_exact, product_rates
from embedfit.llm.providers.local.smooth import RecordingLayer, smoothed


def test_rows_are_quantised_to_within_half_a_step():
    x = torch.randn(50, 33) * torch.logspace(-6, 6, 50)[:, None]
    x[7] = 0
    rounded, scale = quantised(x)
    assert rounded.dtype == torch.uint8
    back = (rounded.float() - 128) * scale
    assert ((back - x).abs() <= 0.5001 * scale).all()
    assert (back[7] == 0).all()


@pytest.mark.skipif(not int8_is_exact(), reason="this torch or CPU has no exact int8 product")
def test_int8_product_is_near_and_does_not_depend_on_other_rows():
    weight, x = torch.randn(40, 64), torch.randn(9, 64)
    product = Int8Product(weight)
    rounded, scale = quantised(x)
    result = product(rounded) * scale
    assert torch.allclose(result, x @ weight.T, atol=0.3)
    assert torch.equal(result[3:4], product(rounded[3:4]) * scale[3:4])


@pytest.mark.parametrize("attend", [attend, lambda q, k, v, mask=None: _attend_plainly(q, k, v, mask)])
def test_attention_in_parts_is_attention_over_all(attend):
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 11, 8), torch.randn(2, 3, 11, 8)
    mask = torch.zeros(2, 1, 5, 4)
    mask[0, 0, 2, 1:] = float("-inf")
    whole = torch.cat([torch.zeros(2, 1, 5, 7), mask], dim=-1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=whole)
    parts = join(attend(query, key[:, :, :7], value[:, :, :7]), attend(query, key[:, :, 7:], value[:, :, 7:], mask))
    assert torch.allclose(parts[0], expected, atol=1e-5)


def test_probe_names_an_arithmetic_that_works():
    rates = product_rates(rounds=2)
    assert rates["fp32"] > 0
    assert best_arithmetic().products in ("fp32", "bf16", "fp16", "int8")


def test_smoothing_changes_the_weights_and_nothing_else():
    shape = LlamaShape(
        layers=2, width=32, heads=4, kv_heads=2, head_width=8, feed_forward=48, vocabulary=50, context=64,
        epsilon=1e-5, rope_base=10000.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (32, 32), "k": (16, 32), "v": (16, 32), "o": (32, 32)}
    weights = {"model.embed_tokens.weight": (50, 32), "model.norm.weight": (32,)}
    for layer in range(2):
        name = f"model.layers.{layer}"
        weights |= {f"{name}.self_attn.{part}_proj.weight": size for part, size in sizes.items()}
        weights |= {f"{name}.mlp.{part}_proj.weight": (48, 32) for part in ("gate", "up")}
        weights |= {f"{name}.mlp.down_proj.weight": (32, 48)}
        weights |= {f"{name}.{norm}_layernorm.weight": (32,) for norm in ("input", "post_attention")}
    weights = {name: torch.randn(size, generator=generator) for name, size in weights.items()}
    weights["model.layers.0.input_layernorm.weight"][5] *= 100
    model = Llama(shape, weights, Arithmetic("fp32", torch.device("cpu")))
    recording = [RecordingLayer(weights, index, shape) for index in range(2)]
    family = Family((1, 2, 3, 4, 5, 6, 7), (Leaf((), ()),))
    model._layers = list(recording)
    before = model.read(None, [family], model.new_cache(1, 7))
    even = smoothed(weights, shape, recording)
    after = Llama(shape, even, Arithmetic("fp32", torch.device("cpu")))
    assert torch.allclose(after.read(None, [family], after.new_cache(1, 7)), before, rtol=1e-3, atol=1e-3)
    name = "model.layers.0.input_layernorm.weight"
    assert even[name].abs().max() < weights[name].abs().max() / 3
