from __future__ import annotations

import json

import pytest

from embedfit.deploy.state import Deployment, Resource, State, StateFile
from embedfit.errors import EmbedfitError, InputError, SchemaMismatch

DEPLOYMENT = Deployment(
    name="one", region="us-east-1", account="1", run="em", owner="me", created="2026-07-01T12:00:00+00:00"
)


@pytest.fixture
def state(tmp_path, time):
    return StateFile(tmp_path / "deploy", time.clock.now)


def test_nothing_yet(state):
    assert state.read() == State()


def test_marks_and_unmarks(state):
    state.put(DEPLOYMENT)
    endpoint = Resource(kind="endpoint", name="one")
    model = Resource(kind="model", name="one")
    state.mark("one", endpoint)
    state.mark("one", model)
    recorded = state.read().named("one").resources
    assert [one.kind for one in recorded] == ["model", "endpoint"]  # in the order in which they are made
    assert {one.changed for one in recorded} == {"2026-07-01T12:00:00+00:00"}
    state.mark("one", Resource(kind="model", name="one", id="arn", status="created"))
    assert [one.status for one in state.read().named("one").resources] == ["created", "creating"]
    state.unmark("one", endpoint)
    assert [one.kind for one in state.read().named("one").resources] == ["model"]
    state.drop("one")
    assert state.read() == State()
    state.unmark("one", endpoint)  # gone already: no error


def test_several_deployments(state):
    state.put(DEPLOYMENT)
    from dataclasses import replace

    state.put(replace(DEPLOYMENT, name="two"))
    state.put(replace(DEPLOYMENT, run="other"))
    assert {one.name: one.run for one in state.read().deployments} == {"one": "other", "two": "em"}


def test_a_damaged_or_newer_file_names_the_way_out(state):
    state.put(DEPLOYMENT)
    state.path.write_text("{")
    with pytest.raises(InputError, match="is damaged") as caught:
        state.read()
    assert "by its tags" in str(caught.value)
    state.path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(SchemaMismatch, match="schema version 99"):
        state.read()
    state.path.write_text(json.dumps({"schema": 1, "deployments": [{"name": "x"}]}))
    with pytest.raises(InputError, match="is damaged"):
        state.read()


def test_one_at_a_time(state):
    with state.lock(), pytest.raises(EmbedfitError, match="at work"), StateFile(state.folder, lambda: None).lock():
        pass
