import numpy as np
import pytest
import torch

from embedfit.training.batches import micro_batches
from embedfit.training.losses.loss import Targets
from embedfit.training.losses.objective import Objective
from embedfit.training.memory import MemoryBudget
from embedfit.training.step import accumulate_gradients
from tests.training.conftest import make_trunk, random_texts

ROWS, PASSAGES = 4, 12


def targets():
    group = torch.arange(PASSAGES).reshape(ROWS, 3)
    everything = torch.ones(ROWS, PASSAGES, dtype=torch.bool)
    return Targets(group=group, allowed=everything, teacher=torch.zeros(ROWS, 3), has_teacher=torch.zeros(ROWS) > 0)


def loss_of(vectors):
    return Objective(temperature=0.05)(vectors[:ROWS], vectors[ROWS:], targets())


def gradients(trunk, *, limit, budget=64, seed=None, dropout=0.0, scale=1.0):
    texts = random_texts(ROWS + PASSAGES)
    lengths = np.array([len(text) for text in texts])
    trunk.train(dropout)
    for weight in trunk.parameters().values():
        weight.grad = None
    memory = MemoryBudget(limit, trunk.parameters().values())
    memory.bytes_per_token = 1.0
    result = accumulate_gradients(
        trunk, texts, micro_batches(lengths, budget), loss_of, memory=memory, seed=seed, scale=scale
    )
    return {name: weight.grad.clone() for name, weight in trunk.parameters().items()}, result


def assert_same(left, right, tolerance=1e-5):
    assert left.keys() == right.keys()
    for name in left:
        scale = max(1.0, float(right[name].abs().max()))
        assert float((left[name] - right[name]).abs().max()) <= tolerance * scale, name


def test_every_plan_gives_the_gradient_of_the_plain_step(tiny_bert):
    trunk = make_trunk(tiny_bert)
    texts = random_texts(ROWS + PASSAGES)
    trunk.train(0.0)
    value = loss_of(trunk.forward(texts))
    value.backward()
    plain = {name: weight.grad.clone() for name, weight in trunk.parameters().items()}
    assert any(gradient.abs().max() > 1e-3 for gradient in plain.values())

    kept, kept_result = gradients(trunk, limit=1 << 30)
    cached, cached_result = gradients(trunk, limit=0)
    mixed, mixed_result = gradients(trunk, limit=600_000)
    assert (kept_result.retained, cached_result.retained) == (1.0, 0.0)
    assert 0 < mixed_result.retained < 1
    for got, result in ((kept, kept_result), (cached, cached_result), (mixed, mixed_result)):
        assert result.loss == pytest.approx(float(value.detach()), rel=1e-5)
        assert_same(got, plain)
    assert all(torch.equal(kept[name], cached[name]) for name in kept)  # so resuming with less memory changes no bit


def test_dropout_is_replayed_where_a_graph_was_not_kept(tiny_bert):
    trunk = make_trunk(tiny_bert)
    kept, first = gradients(trunk, limit=1 << 30, seed=5, dropout=0.2)
    cached, second = gradients(trunk, limit=0, seed=5, dropout=0.2)
    _, third = gradients(trunk, limit=0, seed=6, dropout=0.2)
    assert first.loss == second.loss != third.loss
    assert_same(cached, kept)


def test_a_scale_for_fp16_cancels_out(tiny_bert):
    trunk = make_trunk(tiny_bert)
    plain, _ = gradients(trunk, limit=1 << 30)
    scaled, _ = gradients(trunk, limit=1 << 30, scale=256.0)
    assert_same(scaled, plain)


def test_the_memory_bound_decides_how_many_graphs_are_kept(tiny_bert):
    trunk = make_trunk(tiny_bert)
    shares = []
    for limit in (0, 200_000, 400_000, 800_000, 10_000_000):
        _, result = gradients(trunk, limit=limit)
        shares.append(result.retained)
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1


def test_measured_bytes_are_those_of_the_layers(tiny_bert):
    trunk = make_trunk(tiny_bert)
    texts = random_texts(1, longest=40) * 4
    memory = MemoryBudget(1 << 30, trunk.parameters().values())
    tokens = sum(map(len, texts))
    with memory.measured(tokens, len(texts[0])):
        trunk.forward(texts)
    # x, qkv (3), context, sum, norm, inner (2 here), sum: about 10 values of 32 dimensions a layer, 2 layers
    assert 2 * 8 * 32 * 4 < memory.bytes_per_token < 2 * 20 * 32 * 4
