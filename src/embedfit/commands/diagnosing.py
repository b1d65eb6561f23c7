"""The function behind `embedfit diagnose`."""

from __future__ import annotations

from embedfit.commands import runs
from embedfit.diagnosing.diagnosis import Diagnosis
from embedfit.diagnosing.diagnosis import diagnose as run_diagnose
from embedfit.diagnosing.facts import Facts
from embedfit.path.workspace import Workspace


def diagnose(run: runs.PathLike) -> Diagnosis:
    """Why tuning did not help in a run folder, by its own files: parts, evidence, and a command for each.

    Nothing is computed again and no language model is asked. Raises ArtifactMissing for a run that was not evaluated.
    """
    workspace = Workspace(run)
    return run_diagnose(Facts(workspace, runs.stored_config(workspace)))
