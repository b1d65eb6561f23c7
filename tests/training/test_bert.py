import pytest
import torch

from embedfit.training.trunks.bert import split
from tests.training.conftest import bert_trunk, random_texts, transformers_trunk


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("count", [1, 5])
def test_values_and_gradients_are_those_of_transformers(tiny_bert, pooling, attention, count):
    texts = random_texts(count, seed=3)
    weights = torch.randn(count, 32, generator=torch.Generator().manual_seed(0))
    theirs, ours = (
        transformers_trunk(tiny_bert, pooling=pooling),
        bert_trunk(tiny_bert, pooling=pooling, attention=attention),
    )
    vectors = []
    for trunk in (theirs, ours):
        trunk.train(0.0)
        trunk.prepare(texts)
        out = trunk.forward(texts)
        (out * weights).sum().backward()
        trunk.finish()
        vectors.append(out.detach())
    torch.testing.assert_close(vectors[1], vectors[0], rtol=0, atol=2e-6)
    got = split({name: weight.grad for name, weight in ours.parameters().items()}, 2)
    for name, weight in theirs.parameters().items():
        torch.testing.assert_close(
            got[name], weight.grad, rtol=1e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_weights_go_through_unchanged(tiny_bert):
    theirs, ours = transformers_trunk(tiny_bert), bert_trunk(tiny_bert)
    expected = theirs.tensors()
    got = ours.tensors()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bf16_is_close_to_fp32(tiny_bert, attention):
    texts = random_texts(6, seed=4)
    results = []
    for precision in ("fp32", "bf16"):
        trunk = bert_trunk(tiny_bert, pooling="mean", attention=attention, precision=precision)
        trunk.prepare(texts)
        out = trunk.forward(texts)
        out[:, 0].sum().backward()
        trunk.finish()
        assert out.dtype == torch.float32
        results.append((out.detach(), {name: weight.grad for name, weight in trunk.parameters().items()}))
    (exact, gradients), (rough, rough_gradients) = results
    assert float((exact * rough).sum(1).min()) > 0.999
    for name in ("layer.0.qkv.weight", "layer.1.down.weight", "embeddings.word", "embeddings.norm.weight"):
        cosine = torch.nn.functional.cosine_similarity(gradients[name].flatten(), rough_gradients[name].flatten(), 0)
        assert rough_gradients[name].dtype == torch.float32 and cosine > 0.98, name


def test_dropout_leaves_the_expected_value(tiny_bert):
    from embedfit.training.trunks.bert import _dropped

    torch.manual_seed(0)
    values = torch.ones(2000, 33)
    mask = _dropped(values, 0.1)
    share = 1 - mask.float().mean().item()
    assert share == pytest.approx(0.1, abs=0.01)
    assert values.mean().item() == pytest.approx(1, abs=0.01)
    assert _dropped(values, 0.0) is None
