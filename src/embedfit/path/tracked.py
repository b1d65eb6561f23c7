"""What an experiment tracker is told of a run: its settings, losses, dev scores, systems and report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embedfit.config import Config, changes, fields, path_kind, resolve, setting
from embedfit.errors import CheckFailed, PaidInPart
from embedfit.path.artefacts import METRIC, DevScore, Summary, TrainingLog, TrainingStep
from embedfit.path.freshness import all_freshness
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.tracking import Tracking, without_secrets


@contextmanager
def tracked(workspace: Workspace, config: Config, runtime: Runtime) -> Iterator[None]:
    """Around the work on a run: its tracker is told the settings, then all results that are up to date."""
    tracking, failed = runtime.tracking, True
    if not tracking.is_wanted:
        yield
        return
    tracking.begin(workspace.root, settings_shown(config), runtime.report)
    try:
        yield
        send_results(workspace, config, tracking)
        failed = False
    except (CheckFailed, PaidInPart):  # the stages did their work
        send_results(workspace, config, tracking)
        raise
    finally:
        tracking.close(failed=failed)


def settings_shown(config: Config) -> dict[str, str | float]:
    """The model, the preset, the seed, and each number, word or list that is not the preset's. Files stay out."""
    always = {"model", "preset", "seed"}
    changed = {one.partition("=")[0] for one in changes(resolve(preset=config.preset), config)}
    names = [name for name in fields() if name in always or (name in changed and path_kind(name) is None)]
    values = {name: setting(config, name) for name in names}
    return {
        name: value if isinstance(value, (int, float)) else without_secrets(str(value))
        for name, value in values.items()
        if isinstance(value, (int, float, str, list))
    }


def send_results(workspace: Workspace, config: Config, tracking: Tracking) -> None:
    """Send what the stages that are up to date have found."""
    fresh = {name for name, one in all_freshness(workspace, config).items() if one.state == "fresh"}
    if "train" in fresh and "train/loss" not in tracking.logged and workspace.has(TrainingStep):
        # Training was done before, or in other processes.
        dev = workspace.load(TrainingLog).dev_ndcg10
        base = () if dev.base is None else (DevScore(step=0, ndcg10=dev.base),)
        tracking.past_training(workspace.read(TrainingStep), (*base, *dev.after))
    if "evaluate" in fresh:
        for name, system in workspace.load(Summary).systems.items():
            low, high = system.ci95[METRIC]
            ends = {f"{METRIC}/low": low, f"{METRIC}/high": high}
            tracking.log({f"systems/{name}/{metric}": value for metric, value in {**system.metrics, **ends}.items()})
    if "report" in fresh:
        tracking.artefact(workspace.path("report.html"))
