"""The models that a run can ship a retriever over."""

from __future__ import annotations

from typing import Literal

from embedfit.config import Config
from embedfit.models.local import LocalModel, base_model
from embedfit.path.workspace import Workspace

Ships = Literal["merged", "base"]


def shipping(workspace: Workspace) -> tuple[Ships, ...]:
    """The models to compare, first the one that the merge stage ships. The base alone where no mixture is better."""
    decision = workspace.read_json("merge.json").get("decision") or {}
    return ("base",) if decision.get("ship", "merged") == "base" else ("merged", "base")


def opened(name: Ships, workspace: Workspace, config: Config) -> LocalModel:
    """A model of the run."""
    return base_model(config) if name == "base" else LocalModel("merged", workspace.existing("merged"))
