"""Weight arithmetic against the formula, the gate on cases known by hand, mixing by examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import MergeConfig
from embedfit.errors import ModelError, UsageError
from embedfit.merging.cocktail import mix
from embedfit.merging.gate import GateDecision, Mixture, decide, ship_anyway
from embedfit.merging.general import built_in, general_paragraphs
from embedfit.merging.stage import sweep_of
from embedfit.merging.weights import combine, weights_from_losses
from embedfit.models.encoder import Encoder
from embedfit.models.folder import read_tensors
from embedfit.models.layout.golden import read_golden
from embedfit.models.layout.reading import read_architecture
from embedfit.progress import Silent
from tests.conftest import make_tiny_bert
from tests.models.tiny_towers import save_tuned


def test_a_mixture_is_the_weighted_sum() -> None:
    models = [{"w": torch.full((2, 2), float(n)), "ids": torch.arange(3)} for n in (1, 2, 4)]
    mixed = combine(models, [0.5, 0.25, 0.25])
    assert torch.equal(mixed["w"], torch.full((2, 2), 2.0))
    assert torch.equal(mixed["ids"], torch.arange(3))


@given(st.floats(0, 1), st.integers(0, 5))
def test_mixing_a_model_with_itself_changes_nothing(alpha: float, seed: int) -> None:
    tensors = {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))}
    torch.testing.assert_close(combine([tensors, tensors], [1 - alpha, alpha])["w"], tensors["w"])


def test_an_end_of_the_sweep_is_the_model_itself_bit_by_bit() -> None:
    one, other = {"w": torch.randn(50)}, {"w": torch.randn(50)}
    assert torch.equal(combine([one, other], [1.0, 0.0])["w"], one["w"])
    assert torch.equal(combine([one, other], [0.0, 1.0])["w"], other["w"])


def test_wrong_weights_and_models_are_refused() -> None:
    one = {"w": torch.zeros(2)}
    with pytest.raises(UsageError, match=r"sum to 0\.9"):
        combine([one, one], [0.5, 0.4])
    with pytest.raises(UsageError, match="one weight a model"):
        combine([one, one], [1.0])
    with pytest.raises(ModelError, match="only one of them has the weight b"):
        combine([one, {"w": torch.zeros(2), "b": torch.zeros(1)}], [0.5, 0.5])
    with pytest.raises(ModelError, match=r"w is \(2,\) in one"):
        combine([one, {"w": torch.zeros(3)}], [0.5, 0.5])


def test_weights_from_losses_follow_the_softmax() -> None:
    weights = weights_from_losses([1.0, 2.0], temperature=5)
    assert weights[0] == pytest.approx(0.549834, abs=1e-6), "RECIPE: a gap of 1.0 gives .55/.45"
    assert sum(weights_from_losses([3.0, 1.0, 0.5], 0.1)) == pytest.approx(1)
    with pytest.raises(UsageError, match="finite"):
        weights_from_losses([float("nan"), 1.0])


CLUSTERS = np.arange(200)


def mixtures(*rows: tuple[float, float, float]) -> list[Mixture]:
    """(alpha, gain over the base on dev, retention) for each mixture after the base."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.7, 200)
    noise = rng.normal(0, 0.02, 200)
    made = [Mixture(alpha=0.0, dev=base, retention=0.8)]
    return made + [Mixture(alpha=a, dev=base + gain + noise, retention=kept) for a, gain, kept in rows]


def gate(*rows: tuple[float, float, float]) -> GateDecision:
    return decide(mixtures(*rows), CLUSTERS, max_retention_loss=0.01, max_dev_loss=0.02, rng=np.random.default_rng(1))


def test_a_sure_gain_ships() -> None:
    decision = gate((0.5, 0.05, 0.80), (1.0, 0.08, 0.799))
    assert (decision.ship, decision.alpha) == ("finetuned", 1.0)
    assert "+8" in decision.why and "200 dev queries" in decision.why


def test_mixtures_beyond_the_highest_alpha_are_only_shown() -> None:
    found = decide(
        mixtures((0.25, 0.02, 0.8), (0.5, 0.05, 0.8), (1.0, 0.30, 0.8)),
        CLUSTERS,
        max_retention_loss=0.01,
        max_dev_loss=0.02,
        rng=np.random.default_rng(1),
        max_alpha=0.5,
    )
    assert (found.ship, found.alpha) == ("merged", 0.5)
    assert "+5" in found.why


def test_the_sweep_ends_at_the_highest_alpha_or_with_all_that_costs_no_encoding() -> None:
    parts = MergeConfig(steps=5, max_alpha=0.5)
    assert sweep_of(parts, must_encode=True) == ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 0.5)
    assert sweep_of(parts, must_encode=False) == ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0], 0.5)
    for must_encode in (True, False):
        assert sweep_of(MergeConfig(steps=2, max_alpha=1.0), must_encode=must_encode) == ([0.0, 0.5, 1.0], 1.0)
        assert sweep_of(MergeConfig(alpha=0.75), must_encode=must_encode) == ([0.0, 0.75], 0.75)


def test_among_equals_the_one_farthest_from_the_base() -> None:
    assert gate((0.25, 0.0601, 0.80), (0.5, 0.0590, 0.80)).alpha == 0.5
    assert gate((0.25, 0.0700, 0.80), (0.5, 0.0590, 0.80)).alpha == 0.25


def test_of_equals_one_that_may_harm_gives_way_to_one_that_does_not() -> None:
    base, steady = mixtures((0.25, 0.01, 0.8))
    noise = np.random.default_rng(3).normal(0, 0.3, 200)
    wild = replace(steady, alpha=0.5, dev=base.dev + 0.01 + noise - noise.mean())
    found = decide(
        [base, steady, wild], CLUSTERS, max_retention_loss=0.01, max_dev_loss=0.02, rng=np.random.default_rng(1)
    )
    assert (found.ship, found.alpha) == ("merged", 0.25)


def test_what_forgets_too_much_is_out() -> None:
    decision = gate((0.5, 0.05, 0.795), (1.0, 0.08, 0.70))
    assert (decision.ship, decision.alpha) == ("merged", 0.5)
    nothing = gate((0.5, 0.05, 0.70), (1.0, 0.08, 0.60))
    assert (nothing.ship, nothing.alpha) == ("base", 0.0)
    assert "general text" in nothing.why


def test_without_a_gain_the_base_stays() -> None:
    for gain in (-0.004, -0.05):
        decision = gate((0.5, gain, 0.8), (1.0, gain, 0.8))
        assert (decision.ship, decision.alpha) == ("base", 0.0)
        assert "not better than the base" in decision.why


def gate_of_noisy(gain: float, spread: float) -> GateDecision:
    """The gate on one mixture whose queries differ from the base's by exactly `gain` on the mean, ± spread."""
    base, *_ = mixtures()
    noise = np.random.default_rng(3).normal(0, spread, 200)
    noisy = Mixture(alpha=0.5, dev=base.dev + noise - noise.mean() + gain, retention=0.8)
    return decide([base, noisy], CLUSTERS, max_retention_loss=0.01, max_dev_loss=0.02, rng=np.random.default_rng(1))


def test_a_gain_that_may_be_a_loss_does_not_ship() -> None:
    found = gate_of_noisy(0.01, 0.3)
    assert (found.ship, found.alpha) == ("base", 0.0)
    assert "may be worse than the base by 2.0 points or more" in found.why


def test_a_small_gain_that_is_surely_no_loss_ships() -> None:
    found = gate_of_noisy(0.002, 0.02)
    assert found.ship == "merged"
    assert found.comparison.ci95[0] < 0


def test_general_text_leaves_out_the_corpus_and_hides_the_query() -> None:
    task = built_in([])
    assert len(task.queries) == len(task.passages) == 144
    assert all(query not in passage for query, passage in zip(task.queries, task.passages, strict=True))
    assert built_in([]) == task
    corpus = general_paragraphs()[:100]
    other = built_in([text.upper() for text in corpus])
    assert other.passages == task.passages[100:], "what is in the corpus is left out, the rest is as before"
    assert built_in(general_paragraphs()).queries == ()


def test_the_general_text_is_the_one_that_was_measured() -> None:
    """A changed text changes what merges decide: raise the merge stage's version with this hash."""
    text = "\n\n".join(general_paragraphs())
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "89ceaad834af5ffbf0a6d9572afc930fc1901754876f2c1f6e9bd3198cc35b80"
    )
    sentences = [sentence for paragraph in general_paragraphs() for sentence in paragraph.split(". ")]
    assert len(set(sentences)) == len(sentences)


def test_mixing_by_weights_and_by_examples(tmp_path: Path) -> None:
    one = make_tiny_bert(tmp_path / "one", seed=1)
    two = make_tiny_bert(tmp_path / "two", seed=2)
    assert mix([one, two], tmp_path / "out", weights=[0.3, 0.7], examples=None, temperature=5, report=Silent()) == [
        0.3,
        0.7,
    ]
    merged, left, right = (read_tensors(path) for path in (tmp_path / "out", one, two))
    name = "encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(merged[name], 0.3 * left[name] + 0.7 * right[name])
    assert Encoder.load(tmp_path / "out").layout.query_instruction == "query: "
    assert read_golden(tmp_path / "out", read_architecture(tmp_path / "out")) is not None
    examples = tmp_path / "examples.jsonl"
    rows = [{"query": f"what is {n}", "pos": [f"it is {n}"], "neg": ["mute the tv"]} for n in ("sound", "tv", "mute")]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = mix([one, two], tmp_path / "by", weights=None, examples=examples, temperature=5, report=Silent())
    assert sum(weights) == pytest.approx(1) and all(0 < weight < 1 for weight in weights)
    towers = save_tuned(one, tmp_path / "towers")
    for pair in ([towers, towers], [one, towers], [towers, one]):
        with pytest.raises(ModelError, match="two towers"):
            mix(pair, tmp_path / "x", weights=[0.5, 0.5], examples=None, temperature=5, report=Silent())
    with pytest.raises(UsageError, match="not both"):
        mix([one, two], tmp_path / "x", weights=[1, 0], examples=examples, temperature=5, report=Silent())
    with pytest.raises(UsageError, match="at least two"):
        mix([one], tmp_path / "x", weights=None, examples=None, temperature=5, report=Silent())


def _changed(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda c: c.update(num_attention_heads=2), "num_attention_heads in config.json is 4"),
        ("config.json", lambda c: c.update(hidden_act="relu"), "hidden_act"),
        ("1_Pooling/config.json", lambda c: c.update(include_prompt=False), "their modules differ"),
        ("sentence_bert_config.json", lambda c: c.update(do_lower_case=True), "their modules differ"),
        ("tokenizer.json", lambda c: c["normalizer"].update(lowercase=False), "tokenizers differ"),
        ("config_sentence_transformers.json", lambda c: c.update(prompts={}), None),
        ("config.json", lambda c: c.update(hidden_dropout_prob=0.5), None),
    ],
)
def test_only_models_that_began_as_the_same_are_merged(
    name: str, change: Callable[[dict[str, Any]], object], message: str | None, tmp_path: Path
) -> None:
    one, two = make_tiny_bert(tmp_path / "one"), make_tiny_bert(tmp_path / "two", seed=1)
    _changed(two, name, change)
    mixing = partial(mix, [one, two], tmp_path / "out", weights=None, examples=None, temperature=5, report=Silent())
    if message is None:
        assert mixing() == [0.5, 0.5]
        return
    with pytest.raises(ModelError, match=message):
        mixing()


def test_models_with_another_vocabulary_of_the_same_size_are_not_merged(tmp_path: Path) -> None:
    one, two = make_tiny_bert(tmp_path / "one"), make_tiny_bert(tmp_path / "two", seed=1)
    for name in ("tokenizer.json", "vocab.txt"):
        text = (two / name).read_text()
        (two / name).write_text(text.replace("mute", "loud"))
    with pytest.raises(ModelError, match="the token 'loud'"):
        mix([one, two], tmp_path / "out", weights=None, examples=None, temperature=5, report=Silent())


def test_a_user_who_insists_gets_the_best_mixture_that_was_tried() -> None:
    tried = mixtures((0.5, -0.1, 0.8), (0.75, -0.2, 0.8))
    kept = gate((0.5, -0.1, 0.8), (0.75, -0.2, 0.8))
    assert kept.ship == "base"
    forced = ship_anyway(tried, kept, 1.0)
    assert (forced.ship, forced.alpha) == ("merged", 0.5) and kept.why in forced.why
    assert ship_anyway(tried[:1], kept, 0.0) == kept  # merge.alpha=0: there is nothing else to ship


def test_a_map_that_dev_does_not_show_to_be_worse_ships_and_a_worse_one_does_not() -> None:
    clusters, rng = np.arange(400), np.random.default_rng(1)
    base = rng.uniform(0.3, 0.7, 400)
    noise = rng.normal(0, 0.2, 400)
    for loss, ship in ((0.0, "merged"), (0.1, "base")):
        tried = [Mixture(alpha=0.0, dev=base, retention=0.5)]
        tried += [Mixture(alpha=0.5, dev=base + noise - noise.mean() - loss - 1e-3, retention=0.5)]
        for must_gain in (True, False):
            found = decide(
                tried, clusters, max_retention_loss=0.01, max_dev_loss=0.03, rng=rng, max_alpha=0.5, must_gain=must_gain
            )
            assert found.ship == ("base" if must_gain else ship)
