"""The stage `report`: it turns scores and records of a run into report.html and the model card."""

from __future__ import annotations

from embedfit.config import Config
from embedfit.path.workspace import Workspace
from embedfit.reporting import card, page
from embedfit.reporting.evidence import gather
from embedfit.runtime import Runtime


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write report.html and merged/README.md. The report names files that are missing.

    Raises ArtifactMissing if there is no summary.json.
    """
    evidence = gather(workspace, config)
    for name in evidence.missing:
        runtime.report.log(f"report: {name} is not there; its part is left out")
    workspace.write_text("report.html", page.render(evidence))
    if evidence.layout is not None:
        workspace.write_text("merged/README.md", card.render(evidence))
    runtime.report.log(f"report: {workspace.path('report.html')}")
