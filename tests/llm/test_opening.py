import sys

import pytest

from embedfit.config import GenerateConfig, with_generator
from embedfit.errors import MissingDependency, UsageError
from embedfit.llm.opening import Outside, open_model


def test_local_is_opened_from_a_path_and_nothing_is_loaded_yet(ledger, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    model = open_model(GenerateConfig(generator="local", llm=str(tmp_path / "tiny.gguf")), Outside(ledger=ledger))
    assert (model.provider, model.price_provider) == ("openvino", "local")
    assert model.model.startswith("tiny@")


def test_openai_without_a_key_says_so(ledger, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        open_model(GenerateConfig(generator="openai"), Outside(ledger=ledger))
    advised = with_generator(GenerateConfig(), caught.value.remedy.rpartition("--generator ")[2])
    assert advised.base_url and open_model(advised.model_copy(update={"llm": "m"}), Outside(ledger=ledger)).model == "m"


@pytest.mark.parametrize(("generator", "package"), [("openai", "httpx"), ("bedrock", "boto3")])
def test_a_missing_extra_is_named(ledger, monkeypatch, generator, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=package) as caught:
        open_model(GenerateConfig(generator=generator, base_url=None), Outside(ledger=ledger))
    assert "pip install 'embedfit[" in caught.value.remedy


@pytest.mark.usefixtures("aws")
def test_a_base_url_is_not_for_bedrock(ledger):
    with pytest.raises(UsageError, match="takes no base URL"):
        open_model(GenerateConfig(generator="bedrock", base_url="http://localhost:1/v1"), Outside(ledger=ledger))
