"""The table of generators: what each says of itself, and how a spec, the settings or a plug-in names one."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from embedfit import config as settings
from embedfit import generators, plugins
from embedfit.config import GenerateConfig, with_generator
from embedfit.errors import InputError, UsageError
from embedfit.files.textfiles import toml_of
from embedfit.generators import GROUP, generator
from embedfit.llm.opening import open_spec
from embedfit.llm.protocol import Message, Request
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel
from tests.plug_in import install

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_ours_come_in_by_the_door_that_others_use() -> None:
    listed = toml_of(PYPROJECT)["project"]["entry-points"][GROUP]
    assert plugins.places(GROUP) == listed
    assert {name: one.name for name, one in generators.generators().items()} == {name: name for name in listed}


def test_nobody_asks_for_a_generator_by_its_name() -> None:
    source, known = Path(generators.__file__).parent, plugins.places(GROUP).keys()
    for path in source.rglob("*.py"):
        if "providers" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)} & known
            if isinstance(node, ast.Compare) and names:
                asked = ast.unparse(node)
                assert "generat" not in asked and "provider" not in asked, f"{path}: {asked}"


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("bedrock", ("bedrock", None, None)),
        ("bedrock:meta.llama3-1-8b-instruct-v1:0", ("bedrock", None, "meta.llama3-1-8b-instruct-v1:0")),
        ("bedrock:", ("bedrock", None, None)),
        ("local", ("local", None, None)),
        ("local:/models/tiny", ("local", None, "/models/tiny")),
        ("recorded:a:b.jsonl", ("recorded", None, "a:b.jsonl")),
        ("openai", ("openai", None, None)),
        ("openai:gpt-4.1-mini", ("openai", None, "gpt-4.1-mini")),
        ("openai:org/name", ("openai", None, "org/name")),
        ("openai:http://localhost:8000/v1", ("openai", "http://localhost:8000/v1", None)),
        ("openai:https://x.org/v1#org/name#2", ("openai", "https://x.org/v1", "org/name#2")),
        ("openai:#gpt-4.1", ("openai", None, "gpt-4.1")),
    ],
)
def test_a_spec_is_the_generator_and_what_stands_behind_it(spec: str, found: tuple[str | None, ...]) -> None:
    one = with_generator(GenerateConfig(region="eu-west-1", llm="other", base_url="http://o"), spec)
    assert (one.generator, one.base_url, one.llm) == found
    assert one.region == "eu-west-1"


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("", "no generator"),
        ("nobody", "bedrock, bedrock-batch, local, openai, openvino, recorded"),
        ("nobody:model", "bedrock, bedrock-batch, local, openai, openvino, recorded"),
        ("Bedrock:x", "no generator"),
        ("openai:localhost:8000/v1#m", "openai:URL#MODEL"),
        ("openai:localhost:8000/v1", "openai:URL#MODEL"),
        ("openai:10.0.0.3:8000", "openai:URL#MODEL"),
        ("openai:ftp://x#m", "openai:URL#MODEL"),
    ],
)
def test_a_wrong_spec_is_said_with_the_right_form(spec: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        with_generator(GenerateConfig(), spec)
    with pytest.raises(UsageError, match=what):
        settings.resolve(overrides={"generate": {"generator": spec}})


def test_a_spec_opens_a_model_behind_the_ledger(tmp_path: Path) -> None:
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite")
    request = Request(messages=(Message(role="user", content="hello"),), max_tokens=5)
    model = FakeModel(lambda asked: "yes")
    for _ in range(2):
        with open_spec("openai:http://localhost:1/v1#m", replace(runtime, language_model=model), run="r") as opened:
            assert [reply.text for _, reply, _ in opened.complete([request])] == ["yes"]
    assert len(model.asked) == 1
    with open_spec(f"local:{__file__}", runtime, run="r") as opened:
        assert opened.provider == "openvino"
    with pytest.raises(InputError, match="missing"), open_spec("recorded:/no.jsonl", runtime, run="r"):
        pass
    with pytest.raises(UsageError, match="names no language model"), open_spec("judge", runtime, run="r"):
        pass


def test_what_may_cost_money_is_what_the_record_says() -> None:
    def billed(spec: str) -> bool:
        one = with_generator(GenerateConfig(), spec)
        return generator(one.generator).bills(one)

    assert [billed(spec) for spec in ("local", "recorded:x", "openai:http://10.0.0.3/v1#m")] == [False] * 3
    assert [billed(s) for s in ("bedrock", "bedrock-batch", "openai", "openai:https://x.org/v1#m")] == [True] * 4


# --- plug-ins


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Installs a package with one generator."""

    def install_one(name: str, source: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        install(folder, source, f"{name} = stranger:G", monkeypatch, group=GROUP)

    return install_one


def test_a_plug_in_is_named_like_ours_and_may_replace_one(plugged) -> None:
    source = (
        "from embedfit.generators import Generator\nG = Generator(name='mine', open=lambda s, o: s.llm, free=True)\n"
    )
    plugged("mine", source)
    assert generator("mine").bills(GenerateConfig()) is False
    config = GenerateConfig(generator="mine:big")
    assert (config.generator, config.llm) == ("mine", "big")
    plugged("local", source)
    assert generator("local").open(GenerateConfig(llm="x"), None) == "x"


@pytest.mark.parametrize(
    ("source", "what"), [("raise RuntimeError('broken')", "broken"), ("G = 3", "no Generator"), ("", "G")]
)
def test_a_plug_in_that_does_not_load_is_named(plugged, source: str, what: str) -> None:
    plugged("mine", source)
    with pytest.raises(InputError, match=what) as caught:
        generator("bedrock")
    assert "stranger:G" in str(caught.value)
