"""The stage `choose`: which retriever ships, over which model, and on what evidence. It writes retriever.json.

    {"schema": 1, "model": "merged" | "base", "retriever": {…}, "verdict": "better" | "no difference" | "worse" |
     "no evidence", "why": one sentence, "evidence": {"kind": "labelled" | "graded" | "written" | "none",
     "questions": n}, "default": {…}, "candidates": [{"name", "model", "retriever", "ndcg", "delta", "ci", "p"}]}

Retrievers are in the form of index/retriever.py, with the deviations of the run's passages. docs/choosing.md has the
rules.
"""

from __future__ import annotations

from embedfit.choosing.models import shipping_model
from embedfit.config import Config
from embedfit.index.build import Source, build
from embedfit.index.retriever import DEFAULT, Retriever, default_for
from embedfit.models.local import LocalModel
from embedfit.models.vectors import vector_cache
from embedfit.records import Passage
from embedfit.runtime import Runtime
from embedfit.workspace import Workspace

SCHEMA = 1


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write retriever.json."""
    ships, model = shipping_model(workspace, config)
    passages = sorted(workspace.read(Passage), key=lambda one: one.passage_id)
    contents = [one.content for one in passages]
    default = with_deviations(default_for(len(contents)), contents, model, runtime)
    why = "Nothing but written queries speaks for or against it, so the safe default ships."
    workspace.write_json(
        "retriever.json",
        {
            "schema": SCHEMA,
            "model": ships,
            "retriever": default.as_json(),
            "verdict": "no evidence",
            "why": why,
            "evidence": {"kind": "none", "questions": 0},
            "default": default.as_json(),
            "candidates": [],
        },
    )
    runtime.report.log(f"choose: {default.name} over {ships}. {why}")


def with_deviations(retriever: Retriever, contents: list[str], model: LocalModel, runtime: Runtime) -> Retriever:
    """The retriever with the deviations of these passages under a model. No token vectors are made for that."""
    dense = DEFAULT.without_tokens()
    found = build(Source(contents=contents), model, dense, vector_cache(), runtime.report).retriever
    return retriever.with_deviations({part.name: part.deviation for part in found.parts})
