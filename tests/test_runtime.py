"""The outside world is an argument: what a runtime carries is what stages use."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfit.config import GenerateConfig, resolve
from embedfit.llm.opening import opened_model
from embedfit.llm.protocol import Message, Request
from embedfit.path.pipeline import run_stage
from embedfit.path.stages import Stage
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime, cache_folder
from embedfit.testing.fake_model import FakeModel


def test_the_user_s_files_lie_in_one_folder_or_where_the_platform_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDFIT_HOME", str(tmp_path))
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path / "cache"))
    assert Runtime().ledger == tmp_path / "ledger.sqlite" and Runtime().vectors.folder == tmp_path / "vectors"
    monkeypatch.delenv("EMBEDFIT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Runtime().ledger.name == "ledger.sqlite" and Runtime().vectors.folder == cache_folder() / "vectors"
    assert cache_folder() == tmp_path / "cache"


def test_its_language_model_answers_instead_of_the_one_of_the_settings(tmp_path: Path) -> None:
    model = FakeModel(lambda request: "yes")
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite", language_model=model)
    request = Request(messages=(Message(role="user", content="?"),), max_tokens=5)
    with opened_model(GenerateConfig(generator="bedrock"), runtime, run="r") as opened:
        assert [reply.text for _, reply, _ in opened.complete([request])] == ["yes"]
    assert model.asked == [request]


def test_its_clock_says_when_a_stage_was_done(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    stage = Stage(name="noon", module="", version=1, writes=(), settings=(), run=lambda *_: None)
    run_stage(stage, workspace, resolve(), Runtime(clock=lambda: 43_200))
    assert workspace.read_manifest("noon").finished == "1970-01-01T12:00:00+00:00"
