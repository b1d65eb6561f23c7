"""The models that a run can ship a retriever over."""

from __future__ import annotations

from typing import Literal

from embedfit.config import Config
from embedfit.models.local import LocalModel, base_model
from embedfit.workspace import Workspace

Ships = Literal["merged", "base"]


def shipping_model(workspace: Workspace, config: Config) -> tuple[Ships, LocalModel]:
    """What the merge stage ships: its mixture, or the base where no mixture is better."""
    decision = workspace.read_json("merge.json").get("decision") or {}
    if decision.get("ship", "merged") == "base":
        return "base", base_model(config)
    return "merged", LocalModel("merged", workspace.existing("merged"))
