import dataclasses

import numpy as np
import pytest
import torch

from embedfit.llm.protocol import Message, Request
from embedfit.llm.providers.local.sampling import chance, choose

REQUEST = Request(messages=(Message(role="user", content="x"),), max_tokens=6)


def _draw(logits, *, temperature, top_p, draws=4000):
    uniforms = (np.arange(draws) + 0.5) / draws
    rows = torch.tensor(logits).expand(draws, -1)
    chosen = choose(rows, np.full(draws, temperature), np.full(draws, top_p), uniforms)
    return np.bincount(chosen, minlength=len(logits)) / draws


def test_draws_follow_the_softmax():
    logits = [2.0, 1.0, 0.0, -1.0]
    expected = torch.softmax(torch.tensor(logits) / 0.7, dim=-1).numpy()
    assert _draw(logits, temperature=0.7, top_p=1.0) == pytest.approx(expected, abs=1e-3)


def test_nucleus_is_the_fewest_tokens_that_reach_top_p():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = _draw(np.log(probabilities).tolist(), temperature=1.0, top_p=0.75)
    assert drawn == pytest.approx([0.5 / 0.8, 0.3 / 0.8, 0, 0], abs=1e-3)


def test_a_flat_distribution_needs_every_token():
    logits = [0.0] + [-9.5] * 20_000  # each negligible, together 60%
    drawn = _draw(logits, temperature=1.0, top_p=0.99, draws=200)
    assert drawn[0] == pytest.approx(1 / (1 + 20_000 * np.exp(-9.5)) / 0.99, abs=0.02)


def test_zero_temperature_takes_the_likeliest_beside_sampled_rows():
    logits = torch.tensor([[0.0, 3.0, 1.0]] * 40)
    temperatures = np.array([0.0, 1.0] * 20)
    chosen = choose(logits, temperatures, np.ones(40), np.full(40, 0.999))
    assert chosen[::2] == [1] * 20
    assert set(chosen[1::2]) == {0}


def test_chance_depends_on_seed_and_prompt_only():
    first = chance(REQUEST, [1, 2, 3])
    assert (first == chance(REQUEST, (1, 2, 3))).all()
    assert (first != chance(REQUEST, [1, 2, 4])).all()
    assert (first != chance(dataclasses.replace(REQUEST, seed=1), [1, 2, 3])).all()
    longer = chance(dataclasses.replace(REQUEST, max_tokens=9), [1, 2, 3])
    assert (longer[:6] == first).all(), "room for more tokens does not change the first ones"
