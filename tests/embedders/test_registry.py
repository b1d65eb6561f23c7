"""Embedders are a table: ours and a stranger's enter it by the same door."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedfit import plugins
from embedfit.config import resolve
from embedfit.embedders import registry
from embedfit.embedders.registry import bills, open_embedder, opened_embedders, parse
from embedfit.embedders.titan import Titan
from embedfit.errors import EmbedfitError, InputError, MissingDependency, ModelError, UsageError
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.path.systems import check_systems
from embedfit.runtime import Runtime
from tests.plug_in import install

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
#: The example of docs/extending.md.
PLUG_IN = next(
    block
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.DOTALL)
    if "EmbedderKind(" in block
)
COSTLY = """
from embedfit.embedders.registry import EmbedderKind
from embedfit.errors import UsageError


def check(target):
    if target:
        raise UsageError("it has no options.")


EMBEDDER = EmbedderKind(form="costly", check=check, open=print, bills=lambda target: True)
"""


def test_ours_come_in_by_the_door_that_others_use() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert plugins.places(registry.GROUP) == project["entry-points"][registry.GROUP]


def test_the_table_is_made_without_the_packages_of_extras() -> None:
    code = (
        "import sys; from embedfit.embedders.registry import kinds; kinds(); "
        "print([name for name in ('torch', 'boto3', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("titan-v2", "titan-v2", ""),
        ("titan-v2:256", "titan-v2", "256"),
        ("openai:http://localhost:8000/v1/#bge", "openai", "http://localhost:8000/v1/#bge"),
        ("tei:https://example.com/tei", "tei", "https://example.com/tei"),
        ("sagemaker:my-endpoint@eu-west-1", "sagemaker", "my-endpoint@eu-west-1"),
        ("sagemaker:my-endpoint@us-gov-west-1", "sagemaker", "my-endpoint@us-gov-west-1"),
        ("sagemaker:my-endpoint", "sagemaker", "my-endpoint"),
        ("BAAI/bge-small-en", "local", "BAAI/bge-small-en"),
        ("./runs/em/merged", "local", "./runs/em/merged"),
        ("C:\\models\\bge", "local", "C:\\models\\bge"),
        ("minilm", "local", "minilm"),
    ],
)
def test_names_are_taken_apart(name: str, kind: str, target: str) -> None:
    spec = parse(name)
    assert (spec.name, spec.kind, spec.target, spec.instruction) == (name, kind, target, None)


def test_a_name_may_bring_its_instruction() -> None:
    assert parse("minilm|query: ").instruction == "query: "
    assert parse("minilm|").instruction == ""
    spec = parse("tei:http://h:1|find: ")
    assert (spec.target, spec.instruction) == ("http://h:1", "find: ")


@pytest.mark.parametrize(
    "name",
    ["titan-v2:300", "openai:http://h/v1", "openai:h/v1#m", "openai", "tei:localhost", "tei:", "tei:http://[::1",
     "sagemaker:a_b", "sagemaker:", "", "|query: "],
)  # fmt: skip
def test_a_wrong_name_is_refused_with_its_form(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(name)
    form = (caught.value.remedy or "").removeprefix("For example: ")
    assert form and (not name or name.startswith("|") or parse(form).kind == name.partition(":")[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minilm", False), ("tei:http://h", False), ("sagemaker:e", False), ("titan-v2", True),
        ("openai:http://localhost:1/v1#m", False), ("openai:https://api.openai.com/v1#m", True),
    ],
)  # fmt: skip
def test_who_may_send_a_bill(name: str, expected: bool) -> None:
    assert bills(name) is expected


def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("REGION", "us-east-1"), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)


def test_each_kind_is_opened(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws(monkeypatch)
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite")
    names = [str(tiny_bert), "titan-v2:512", "openai:http://h/v1#m", "tei:http://h", "sagemaker:e@eu-west-1"]
    opened = [open_embedder(name, runtime) for name in names]
    assert isinstance(opened[0], LocalModel)
    assert [one.name for one in opened] == names
    assert [one.storage for one in opened] == ["key", "own", "probed", "probed", "probed"]
    assert len({one.key for one in opened}) == len(names)
    for one in opened:
        one.release()
    with pytest.raises(ModelError):
        open_embedder("no-such-model", runtime)


def test_the_ledgers_of_opened_embedders_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws(monkeypatch)
    with opened_embedders() as opened:
        opened["titan-v2"] = titan = open_embedder("titan-v2", Runtime(ledger=tmp_path / "l.sqlite"))
        assert isinstance(titan, Titan) and titan.usage.calls == 0
    with pytest.raises(EmbedfitError, match="closed"):
        titan._ledger.spent("")


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("boto3", "titan-v2", "aws"), ("boto3", "sagemaker:e", "aws"), ("httpx", "tei:http://h", "openai")],
)
def test_without_its_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"pip install 'embedfit\[{extra}\]'"):
        open_embedder(name, Runtime(ledger=tmp_path / "l.sqlite"))


def test_without_a_region_it_is_said_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="specify a region") as caught:
        open_embedder("sagemaker:e", Runtime())
    assert "AWS_REGION" in (caught.value.remedy or "")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody") as caught:
        open_embedder("sagemaker:e", Runtime())
    assert caught.value.remedy == "Run: aws configure list"


def test_a_plug_in_is_opened_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, PLUG_IN, "mine = stranger:EMBEDDER", monkeypatch, group=registry.GROUP)
    embedder = open_embedder("mine:small", Runtime())
    vectors = VectorStore(tmp_path / "vectors").embed(embedder, ["a", "bb"], is_query=False)
    np.testing.assert_allclose(vectors, [[0.5**0.5] * 2, [0.8**0.5, 0.2**0.5]], rtol=1e-6)
    assert not bills("mine:small")


def test_a_plug_in_that_costs_is_refused_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, COSTLY, "costly = stranger:EMBEDDER", monkeypatch, group=registry.GROUP)
    with pytest.raises(UsageError, match=r"makes no paid call, but evaluate\.systems=hybrid:costly"):
        check_systems(resolve(preset="offline", overrides={"evaluate": {"systems": ["hybrid:costly"]}}))
    with pytest.raises(UsageError, match=r"'costly:3': it has no options\."):
        parse("costly:3")


def test_a_broken_plug_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "EMBEDDER = 1", "broken = stranger:EMBEDDER", monkeypatch, group=registry.GROUP)
    with pytest.raises(InputError, match=r"stranger:EMBEDDER, an entry point of embedfit\.embedders, is no Emb"):
        parse("minilm")
