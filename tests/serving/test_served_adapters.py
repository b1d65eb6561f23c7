"""One base with several adapters, by OpenAI's `model`: each gives its merged model's vectors, also all at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from embedfit.errors import ModelError, UsageError
from embedfit.models.encoder import Encoder
from embedfit.models.folder import save_model
from embedfit.models.layout.adapters import Adapter
from embedfit.models.layout.golden import write_golden
from embedfit.serving.answers import Answers
from embedfit.serving.edge.access import ANYBODY
from embedfit.serving.failures import NotFound
from embedfit.serving.loading import load_service
from embedfit.serving.schemas import Bounds, OpenAIRequest
from embedfit.serving.service import Service
from embedfit.serving.settings import ServeSettings

TEXTS = ["mute the sound", "a", "the screen is dark " * 20, "naïve 東京"]


def tune(base: Path, folder: Path, *, rank: int, seed: int) -> Path:
    """A model folder that an adapter with random matrices made of a base."""
    torch.manual_seed(seed)
    encoder = Encoder.load(base)
    adapter = Adapter.new(encoder.backbone, rank)
    adapter.put({name: torch.randn_like(weight) * 0.2 for name, weight in adapter.parameters().items()})
    save_model(folder, adapter.merged(1.0), base=base, layout=encoder.layout)
    write_golden(folder)
    adapter.save(folder / "adapter", 1.0)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: tune(tiny_bert, root / name, rank=rank, seed=rank) for name, rank in (("de", 2), ("law", 5))}


def settings(folders: dict[str, Path], **changes: object) -> ServeSettings:
    named = [f"{name}={folder}" for name, folder in folders.items()]
    return ServeSettings.model_validate({"precision": "fp32", "adapter": named, "served_model_name": "base", **changes})


def request(model: str | None) -> OpenAIRequest:
    return OpenAIRequest.model_validate({"input": TEXTS, "model": model}, context=Bounds(32, 32))


def vectors(service: Service, model: str | None) -> np.ndarray:
    return asyncio.run(service.named(model).embed(request(model)))[0]


def test_each_name_gives_its_merged_model_s_vectors_over_one_base(folders, tiny_bert):
    service = load_service(str(tiny_bert), settings(folders), log=lambda _: None)
    try:
        for name, folder in {"base": tiny_bert, **folders}.items():
            expected = Encoder.load(folder).encode(TEXTS, is_query=False)
            assert_allclose(vectors(service, name), expected, atol=1e-5)
        assert_allclose(vectors(service, None), vectors(service, "base"), atol=0)
        backbones = {id(one.batcher.engine.base.backbone) for one in (service, *service.adapters.values())}
        assert len(backbones) == 1
        answers = Answers(settings(folders), service=service)
        listed = json.loads(asyncio.run(answers.models(None, ANYBODY)).body)
        assert [one["id"] for one in listed["data"]] == ["base", "de", "law"]
        answered = json.loads(asyncio.run(answers.openai(request("law"), ANYBODY)).body)
        assert answered["model"] == "law"
        assert_allclose(answered["data"][0]["embedding"], vectors(service, "law")[0], atol=1e-6)
        with pytest.raises(NotFound, match="no model 'fr' here; there are: base, de, law"):
            service.named("fr")
    finally:
        service.close()


def test_requests_for_all_of_them_at_once_do_not_mix(folders, tiny_bert):
    service = load_service(str(tiny_bert), settings(folders), log=lambda _: None)
    expected = {name: Encoder.load(folder).encode(TEXTS, is_query=False) for name, folder in folders.items()}
    expected["base"] = Encoder.load(tiny_bert).encode(TEXTS, is_query=False)

    async def ask() -> list[tuple[str, np.ndarray]]:
        names = [*expected] * 12
        found = await asyncio.gather(*(service.named(name).embed(request(name)) for name in names))
        return [(name, answer[0]) for name, answer in zip(names, found, strict=True)]

    try:
        for name, answer in asyncio.run(ask()):
            assert_allclose(answer, expected[name], atol=1e-5)
    finally:
        service.close()


def test_an_adapter_of_another_base_and_a_folder_without_one_are_refused(folders, tiny_bert, tmp_path):
    other = tune(tiny_bert, tmp_path / "other", rank=2, seed=7)
    golden = json.loads((folders["de"] / "embedfit.json").read_text())
    (other / "embedfit.json").write_text(json.dumps(golden))  # as if it had been trained from other weights
    with pytest.raises(ModelError, match=r"embedfit\.json"):
        load_service(str(tiny_bert), settings({"x": other}), log=lambda _: None)
    with pytest.raises(ModelError, match="no model that embedfit trained by an adapter"):
        load_service(str(tiny_bert), settings({"x": tiny_bert}), log=lambda _: None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapter": ["de"]},
        {"adapter": ["=x"]},
        {"adapter": ["de=a", "de=b"]},
        {"adapter": ["base=a"]},
        {"engine": "openvino"},
        {"precision": "int8"},
    ],
)
def test_settings_that_can_not_be_served(folders, wrong):
    with pytest.raises(UsageError):
        settings(folders, **wrong)
