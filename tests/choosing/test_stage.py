"""The stage `choose`: what ships, and what it says of it."""

from __future__ import annotations

import pytest

from embedfit.choosing import stage
from embedfit.index.retriever import DEFAULT, MOST_WITH_TOKENS, default_for, from_json
from embedfit.runtime import Runtime
from embedfit.workspace import Workspace
from tests.evaluation.conftest import build_run


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "run")


@pytest.mark.parametrize(("ship", "model"), [("merged", "merged"), ("finetuned", "merged"), ("base", "base")])
def test_without_evidence_the_safe_default_ships_over_what_the_merge_ships(workspace, tiny_bert, ship, model):
    config = build_run(workspace, tiny_bert)
    merge = workspace.read_json("merge.json")
    workspace.write_json("merge.json", {**merge, "decision": {"ship": ship, "alpha": 0.4, "why": ""}})
    stage.run(workspace, config, Runtime(ledger=workspace.path("ledger.sqlite")))
    found = workspace.read_json("retriever.json")
    assert (found["schema"], found["model"], found["verdict"]) == (1, model, "no evidence")
    assert found["evidence"] == {"kind": "none", "questions": 0}
    assert found["why"].endswith(".") and found["retriever"] == found["default"]
    retriever = from_json(found["retriever"])
    assert retriever.without_tokens().with_deviations({}) == DEFAULT.without_tokens()
    deviations = {part.name: part.deviation for part in retriever.parts}
    assert 0 < deviations["one"] < 1 and deviations["words"] == 1


def test_above_a_number_of_passages_tokens_are_left_out():
    assert default_for(MOST_WITH_TOKENS).rerank is not None
    assert default_for(MOST_WITH_TOKENS + 1) == DEFAULT.without_tokens()
