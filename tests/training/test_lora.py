"""Training by an adapter (LoRA): what trains, what is written, and mixtures that are the adapter's scale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from embedfit.errors import EmbedfitError, MissingDependency, ModelError
from embedfit.merging import stage as merge
from embedfit.merging.blends import AdapterScale, Weights
from embedfit.merging.mixtures import QueryTowers, Store, WholeModels
from embedfit.models.encoder import Encoder
from embedfit.models.layout import adapters
from embedfit.models.layout.towers import tower_folder
from embedfit.models.local import LocalModel
from embedfit.runtime import Runtime
from embedfit.training.optimise import learning_rate_for
from embedfit.training.trunk import Trunk
from tests.models.tiny_families import save_family, two_dense
from tests.training.conftest import make_run
from tests.training.test_stage import cut_off, settings, trained

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own
TEXTS = ["red green blue", "how to mute the tv", "a"]
OTHERS = ("albert", "distilbert", "nomic_bert", "t5", "gemma3_text")
LORA = "train.lora.rank=4"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_bert) -> Path:
    """A run folder whose finetuned/ was trained by an adapter."""
    root = tmp_path_factory.mktemp("lora")
    trained(make_run(root), settings(tiny_bert, LORA, "train.learning_rate=1e-2"))
    return root


def with_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights that peft itself merges."""
    model = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(adapter))
    return model.merge_and_unload().state_dict()


def mixture(base: LocalModel, tuned: Path, alpha: float, folder: Path) -> Encoder:
    """The mixture of all weights, without the adapter."""
    Weights(base, tuned).write(alpha, folder)
    return Encoder.load(folder)


def test_lora_changes_the_linear_layers_alone_and_peft_merges_the_same(tuned, tiny_bert):
    folder = tuned / "finetuned"
    before, after = (load_file(path / "model.safetensors") for path in (tiny_bert, folder))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {name for name in before if name.startswith("encoder.") and name.endswith(("dense.weight", "query.weight",
              "key.weight", "value.weight"))}  # fmt: skip
    assert changed == linear
    merged = with_peft(tiny_bert, folder / "adapter")
    for name, weight in after.items():
        assert_allclose(weight, merged[name], atol=1e-6)
    matrices = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all(4 in weight.shape for weight in matrices.values()) and len(matrices) == 2 * len(linear)


def test_lora_learns(tiny_bert, tmp_path):
    _, summary, lines = trained(make_run(tmp_path), settings(tiny_bert, LORA, "train.learning_rate=1e-2"))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "finetuned/losses.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] and summary["steps"] == len(losses)
    assert any("an adapter (LoRA) of rank 4" in line for line in lines)


def test_lora_that_was_cut_off_ends_with_the_same_bits(tiny_bert, tmp_path, monkeypatch):
    config = settings(tiny_bert, LORA)
    whole, _, _ = trained(make_run(tmp_path / "whole"), config)
    workspace = make_run(tmp_path / "cut")
    cut_off(monkeypatch, workspace, config)
    again, _, lines = trained(workspace, config)
    assert any("going on after step 4 of 9" in line for line in lines)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("name", ["bert", "qwen3", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)])
def test_lora_of_each_family_is_merged_into_the_same_vectors(name, tmp_path):
    folder = save_family(name, tmp_path / "base", after=two_dense if name == "gemma3_text" else None)
    encoder = Encoder.load(folder, precision="fp32")
    before = encoder.encode_unit(TEXTS)
    trunk = Trunk(encoder, rank=4)
    tokens = [np.array(ids, np.int32) for ids in encoder.token_ids(TEXTS)]
    assert_allclose(trunk.forward(tokens).detach(), before, atol=1e-5)  # B is zero at first
    torch.manual_seed(0)
    trunk.adapter.put({name: torch.randn_like(weight) * 0.2 for name, weight in trunk.parameters().items()})
    live = trunk.forward(tokens).detach().numpy()
    trunk.save(tmp_path / "tuned", trunk.tensors(), base=folder, layout=encoder.layout)
    trunk.adapter.save(tmp_path / "tuned" / "adapter", alpha=1.0)
    found = Encoder.load(tmp_path / "tuned", precision="fp32").encode_unit(TEXTS)
    assert_allclose(found, live, atol=1e-5)
    assert np.abs(found - before).max() > 1e-2
    again = Trunk(Encoder.load(folder, precision="fp32"), rank=4)
    assert {n: w.shape for n, w in again.parameters().items()} == {n: w.shape for n, w in trunk.parameters().items()}


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_lora_scaled_by_alpha_is_the_mixture_of_all_weights(alpha, tuned, tiny_bert, tmp_path):
    base, folder = LocalModel("base", tiny_bert), tuned / "finetuned"
    scaled, mixed = AdapterScale(base, folder, folder / "adapter"), mixture(base, folder, alpha, tmp_path / "mixed")
    scaled.write(alpha, tmp_path / "scaled")
    for is_query in (True, False):
        found = Encoder.load(tmp_path / "scaled").encode(TEXTS, is_query=is_query)
        assert_allclose(found, mixed.encode(TEXTS, is_query=is_query), atol=1e-5)
    scaled.write(0.0, tmp_path / "none")
    assert_allclose(Encoder.load(tmp_path / "none").encode(TEXTS), Encoder.load(tiny_bert).encode(TEXTS), atol=1e-6)
    models = WholeModels(Store(base, Runtime(), tmp_path), folder, folder / "adapter")
    models.save(alpha, tmp_path / "merged")
    assert_allclose(Encoder.load(tmp_path / "merged").encode(TEXTS), mixed.encode(TEXTS), atol=1e-5)
    merged = with_peft(tiny_bert, tmp_path / "merged" / "adapter")
    for name, weight in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert_allclose(weight, merged[name], atol=1e-6)


def test_lora_of_the_tower_of_queries(tuned, tiny_bert, tmp_path):
    folder = tuned / "finetuned"
    base = LocalModel("base", tiny_bert)
    QueryTowers(Store(base, Runtime(), tmp_path), folder, folder / "adapter").save(0.5, tmp_path / "merged")
    encoder = Encoder.load(tmp_path / "merged")
    assert_allclose(encoder.encode(TEXTS), Encoder.load(tiny_bert).encode(TEXTS), atol=1e-6)
    half = mixture(base, folder, 0.5, tmp_path / "half").encode(TEXTS, is_query=True)
    assert_allclose(encoder.encode(TEXTS, is_query=True), half, atol=1e-5)
    assert (tmp_path / "merged" / "adapter" / "adapter_config.json").exists()
    assert not (tower_folder(tmp_path / "merged", is_query=True) / "adapter").exists()


def test_lora_in_the_merge_stage_ships_a_merged_model_with_its_adapter(tiny_bert, tmp_path):
    workspace = make_run(tmp_path)
    config = settings(tiny_bert, LORA, "train.learning_rate=1e-2", "merge.alpha=0.5", "merge.always_ship=true")
    trained(workspace, config)
    merge.run(workspace, config, Runtime())
    merged = workspace.path("merged")
    found = Encoder.load(merged).encode(TEXTS)
    half = mixture(LocalModel("base", tiny_bert), workspace.path("finetuned"), 0.5, tmp_path / "half")
    assert_allclose(found, half.encode(TEXTS), atol=1e-5)
    assert sorted(path.name for path in (merged / "adapter").glob("adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    sweep = json.loads(workspace.path("merge.json").read_text())
    assert [point["alpha"] for point in sweep["alphas"]] == [0.0, 0.5]


def test_lora_that_does_not_belong_to_the_tuned_model_is_refused(tuned, tiny_bert, tmp_path):
    folder = shutil.copytree(tuned / "finetuned", tmp_path / "finetuned")
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: weight * 0 for name, weight in tensors.items()}, path)  # the merge that equals the base
    with pytest.raises(ModelError, match="DIFFER"):
        AdapterScale(LocalModel("base", tiny_bert), folder, folder / "adapter")
    save_file({name: weight[:, :2].contiguous() for name, weight in tensors.items()}, path)
    with pytest.raises(ModelError, match="not those of this model"):
        AdapterScale(LocalModel("base", tiny_bert), folder, folder / "adapter")
    for content in (b"", b"{}", b"no safetensors"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="no adapter that can be read"):
            AdapterScale(LocalModel("base", tiny_bert), folder, folder / "adapter")


@pytest.mark.parametrize("lora", ["train.lora.rank=0", LORA])
def test_training_that_changed_nothing_is_an_error(lora, tiny_bert, tmp_path):
    workspace = make_run(tmp_path)
    with pytest.raises(EmbedfitError, match="Training changed nothing") as caught:
        trained(workspace, settings(tiny_bert, lora, "train.learning_rate=1e-12"))
    assert "train.learning_rate" in caught.value.remedy
    assert not workspace.path("finetuned").exists()


def test_lora_is_chosen_for_large_models_and_by_the_setting():
    assert adapters.rank_for(None, 299_000_000) == 0
    assert adapters.rank_for(None, 596_000_000) == 16
    assert adapters.rank_for(0, 596_000_000) == 0
    assert adapters.rank_for(8, 1000) == 8
    assert learning_rate_for(596_000_000, adapter=True) == pytest.approx(1e-4)


def test_lora_without_peft_says_what_to_install(tiny_bert, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"train\.lora\.rank=0") as caught:
        Trunk(Encoder.load(tiny_bert), rank=4)
    assert "embedfit[lora]" in caught.value.remedy
