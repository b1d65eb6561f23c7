"""Sends the losses, scores and report of a run to an experiment tracker."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Protocol

from embedfit.errors import MissingDependency, UsageError
from embedfit.path.artefacts import DevScore, TrainingStep
from embedfit.progress import Reporter

PROJECT = "embedfit"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


class Tracker(Protocol):
    """One run in an experiment tracker. A method may raise anything: the run of embedfit goes on without it."""

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Record numbers by name. step: of the training, None for results."""

    def artefact(self, path: Path) -> None:
        """Keep a file."""

    def close(self, *, failed: bool) -> None:
        """End the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The beginning of a tracked run. folder: the run folder, whose name is the run's name."""

    project: str
    folder: Path
    settings: Mapping[str, str | float]


Opener = Callable[[Start], Tracker]


class Tracking:
    """A tracker that never stops a run: whatever it raises becomes one warning, and nothing more is sent.

    opener: makes the tracker when a run begins; None tracks nothing. logged: the names of the numbers sent so far.
    """

    def __init__(self, opener: Opener | None = None, *, name: str = "the tracker", project: str = PROJECT) -> None:
        self._opener, self._name, self._project = opener, name, project
        self._tracker: Tracker | None = None
        self._warn: Callable[[str], None] = lambda message: None
        self.logged: set[str] = set()

    @property
    def is_wanted(self) -> bool:
        """Whether there is a tracker to send to."""
        return self._opener is not None

    def begin(self, folder: Path, settings: Mapping[str, str | float], report: Reporter) -> None:
        """Open the tracker's run. report: shows the warning."""
        self.logged, self._warn = set(), report.log
        start = Start(project=self._project, folder=folder, settings=settings)
        opener = self._opener
        if opener is not None:
            self._guarded(lambda: setattr(self, "_tracker", opener(start)))

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers by name: "ndcg@10" as ndcg_at_10, for MLflow allows few signs in a name."""
        tracker, named = self._tracker, {_named(key): float(value) for key, value in values.items()}
        if tracker is not None:
            self.logged |= named.keys()
            self._guarded(lambda: tracker.log(named, step))

    def training_step(self, step: TrainingStep) -> None:
        """Record a step of the training."""
        values = {"loss": step.loss, "learning_rate": step.lr, "gradient_norm": step.grad_norm}
        self.log({f"train/{name}": value for name, value in values.items()}, step.step)

    def dev_score(self, score: DevScore) -> None:
        """Record a score of the dev queries."""
        self.log({"dev/ndcg@10": score.ndcg10}, score.step)

    def past_training(self, steps: Iterable[TrainingStep], scores: Iterable[DevScore]) -> None:
        """Record steps that were done before, with the dev scores, in the order of the steps."""
        dev = {score.step: score for score in scores}
        if 0 in dev:
            self.dev_score(dev[0])
        for step in steps:
            self.training_step(step)
            if step.step in dev:
                self.dev_score(dev[step.step])

    def artefact(self, path: Path) -> None:
        """Keep a file of the run."""
        if (tracker := self._tracker) is not None:
            self._guarded(lambda: tracker.artefact(path))

    def close(self, *, failed: bool) -> None:
        """End the tracker's run."""
        if (tracker := self._tracker) is not None:
            self._guarded(lambda: tracker.close(failed=failed))
        self._tracker = None

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # standard output is the result of a command
                call()
        except Exception as error:  # a tracker, and the network behind it, may raise anything
            tracker, self._tracker = self._tracker, None
            if tracker is not None:
                with suppress(Exception), redirect_stdout(sys.stderr):
                    tracker.close(failed=True)
            first = (str(error).strip().splitlines() or [""])[0][:300]
            self._warn(
                f"Warning: {self._name} failed, and tracking ends here; the run goes on. "
                f"{type(error).__name__}: {without_secrets(first)}"
            )


def _named(key: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", key.replace("@", "_at_"))


def without_secrets(text: str) -> str:
    """The text without passwords in addresses and without the values of secret environment variables."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, "[secret]")
    return re.sub(r"//[^/\s]*@", "//", text)


def tracking_for(spec: str | None) -> Tracking:
    """The tracking that "NAME" or "NAME:PROJECT" names. None tracks nothing.

    Raises UsageError for another name, MissingDependency if the tracker's package is not installed.
    """
    if spec is None:
        return Tracking()
    name, _, project = spec.partition(":")
    if name not in TRACKERS:
        raise UsageError(f"There is no tracker {name!r}.", remedy=f"Use --track with one of: {', '.join(TRACKERS)}.")
    package, opener = TRACKERS[name]
    if find_spec(package) is None:
        if name == "tensorboard":
            raise MissingDependency(package, extra="tracking", needed_for="--track tensorboard")
        raise UsageError(
            f"--track {name} needs the package {package}, which is not installed.", remedy=f"Run: pip install {package}"
        )
    return Tracking(lambda start: opener(import_module(package), start), name=name, project=project or PROJECT)


class _WandbLike:
    """Weights & Biases, and Trackio, which has the same functions."""

    def __init__(self, module: ModuleType, start: Start, **options: object) -> None:
        self._module = module
        self._name = re.sub(r"[^\w.-]", "-", start.folder.name)
        module.init(project=start.project, name=start.folder.name, config=dict(start.settings), **options)

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        self._module.log(dict(values), step=step)

    def artefact(self, path: Path) -> None:
        self._module.log_artifact(str(path), name=f"{self._name}-{path.stem}", type="report")

    def close(self, *, failed: bool) -> None:
        self._module.finish()


class _Wandb(_WandbLike):
    def __init__(self, module: ModuleType, start: Start) -> None:
        # The terminal's text, the code and the state of git stay here: documents may be quoted in them.
        super().__init__(
            module, start, settings=module.Settings(console="off", save_code=False, disable_git=True, silent=True)
        )

    def close(self, *, failed: bool) -> None:
        self._module.finish(exit_code=int(failed))


class _MlFlow:
    #: By its own defaults MLflow asks a server that is not there for minutes, and the run waits.
    PATIENCE: ClassVar[Mapping[str, str]] = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }

    def __init__(self, module: ModuleType, start: Start) -> None:
        self._module = module
        for name, value in self.PATIENCE.items():
            os.environ.setdefault(name, value)
        module.set_experiment(start.project)
        module.start_run(run_name=start.folder.name)
        module.log_params(dict(start.settings))

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        self._module.log_metrics(dict(values), step=step or 0)

    def artefact(self, path: Path) -> None:
        self._module.log_artifact(str(path))

    def close(self, *, failed: bool) -> None:
        self._module.end_run("FAILED" if failed else "FINISHED")


class _TensorBoard:
    """Event files in the run folder. TensorBoard keeps no files, so an artefact is named in a text."""

    def __init__(self, module: ModuleType, start: Start) -> None:
        self._writer = module.SummaryWriter(str(start.folder / "tensorboard"))
        rows = "\n".join(f"|{key}|{value}|" for key, value in start.settings.items())
        self._writer.add_text("settings", f"|setting|value|\n|---|---|\n{rows}")

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step or 0)

    def artefact(self, path: Path) -> None:
        self._writer.add_text(path.name, f"{path.name} of the run folder")

    def close(self, *, failed: bool) -> None:
        self._writer.close()


#: What --track may name: the package that is imported, and what opens a run with it.
TRACKERS: Mapping[str, tuple[str, Callable[[ModuleType, Start], Tracker]]] = {
    "trackio": ("trackio", _WandbLike),
    "wandb": ("wandb", _Wandb),
    "mlflow": ("mlflow", _MlFlow),
    "tensorboard": ("tensorboardX", _TensorBoard),
}
