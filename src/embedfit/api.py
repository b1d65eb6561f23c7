"""The verbs of embedfit for Python: what the command line calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from embedfit import config as settings_module
from embedfit import pipeline
from embedfit.config import Config
from embedfit.errors import ArtifactMissing, UsageError
from embedfit.llm.ledger import Ledger
from embedfit.llm.spent import calls_of_run
from embedfit.progress import Reporter
from embedfit.runtime import Runtime, default_ledger
from embedfit.workspace import Workspace

PathLike = str | Path


class RunResult:
    """A finished run: its folder, its summary and its models."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.root
        self._workspace = workspace

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        value: dict[str, Any] = self._workspace.read_json("summary.json")
        return value

    @property
    def model(self) -> Path:
        """The folder of the merged model."""
        return self._workspace.existing("merged")

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self._workspace.existing("report.html")

    def __repr__(self) -> str:
        return f"RunResult({str(self.folder)!r})"


def run(
    docs: PathLike | Sequence[PathLike] = (),
    *,
    run: PathLike,
    eval_docs: PathLike | Sequence[PathLike] = (),
    eval_beir: PathLike | None = None,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
    config: PathLike | None = None,
    yes: bool = False,
    runtime: Runtime | None = None,
    until: str | None = None,
    force: bool = False,
    assignments: Sequence[str] = (),
) -> RunResult:
    """The whole path, or what of it is not fresh.

    docs: files, folders or a BEIR corpus.jsonl. Without them a run folder goes on with its stored
    settings. settings: nested like embedfit.toml, over the preset and the file `config`. yes: paid
    calls need no confirmation. until: the last stage to run. Raises EmbedfitError.
    """
    workspace = Workspace(run)
    overrides: dict[str, Any] = {key: value for key, value in (settings or {}).items() if value is not None}
    for name, value in (("docs", docs), ("eval_docs", eval_docs)):
        paths = [value] if isinstance(value, (str, Path)) else list(value)
        if paths:
            overrides[name] = [_portable(path) for path in paths]
    if eval_beir is not None:
        overrides["eval_beir"] = _portable(eval_beir)
    stored = workspace.path("embedfit.toml")
    if not overrides.get("docs") and config is None and stored.exists():
        resolved = change(settings_module.load(stored), overrides, assignments)
    else:
        resolved = settings_module.resolve(
            preset=preset,
            file=Path(config) if config is not None else None,
            overrides=overrides,
            assignments=tuple(assignments),
        )
    if not resolved.docs:
        raise UsageError("There are no documents.", remedy="Run: embedfit run DOCS... --run DIR")
    return run_config(workspace, resolved, with_consent(runtime or Runtime(), yes), until=until, force=force)


def run_config(
    workspace: Workspace, config: Config, runtime: Runtime, *, until: str | None = None, force: bool = False
) -> RunResult:
    """Store the configuration and run every stage that is not fresh under it."""
    with workspace.lock():
        settings_module.save(config, workspace.path("embedfit.toml"))
        pipeline.run_all(workspace, config, runtime, until=until, force=force)
    return RunResult(workspace)


def run_stage(
    name: str,
    *,
    run: PathLike,
    settings: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    force: bool = False,
    yes: bool = False,
    runtime: Runtime | None = None,
) -> bool:
    """One stage of an existing run. Returns whether it ran; False means that it was fresh.

    Raises ArtifactMissing where the run folder or an input of the stage is not there.
    """
    workspace = Workspace(run)
    config = change(stored_config(workspace), settings or {}, assignments)
    stage = pipeline.stage_named(name)
    runtime = with_consent(runtime or Runtime(), yes)
    with workspace.lock():
        settings_module.save(config, workspace.path("embedfit.toml"))
        if not force and pipeline.state(stage, workspace, config) == "fresh":
            runtime.report.log(f"{name}: up to date (--force does it again)")
            return False
        if force:
            workspace.clear_scratch(name)
        pipeline.run_stage(stage, workspace, config, runtime)
    return True


def stored_config(workspace: Workspace) -> Config:
    """The configuration of a run folder. Raises ArtifactMissing where there is none."""
    path = workspace.path("embedfit.toml")
    if not path.exists():
        raise ArtifactMissing(
            f"{workspace.root} is not a run folder: embedfit.toml is missing.",
            remedy=f"Run: embedfit run DOCS... --run {workspace.root}",
        )
    return settings_module.load(path)


def change(config: Config, overrides: Mapping[str, Any], assignments: Sequence[str]) -> Config:
    """A configuration with some settings replaced. The same object where nothing changes."""
    if not overrides and not assignments:
        return config
    return settings_module.resolve(overrides=_nested(config, overrides), assignments=tuple(assignments))


def _nested(config: Config, overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


def _portable(path: PathLike) -> str:
    return str(Path(path).expanduser())


def with_consent(runtime: Runtime, yes: bool) -> Runtime:
    """The runtime, or with yes one that confirms every paid call."""
    return replace(runtime, confirm=lambda question: True) if yes else runtime


def make_runtime(
    report: Reporter,
    *,
    ledger: PathLike | None = None,
    confirm: Any = None,  # noqa: ANN401 - Callable[[str], bool] | None
    processes: int = 1,
) -> Runtime:
    """A runtime from options. ledger: None for the user's own."""
    runtime = Runtime(report=report, ledger=Path(ledger) if ledger else default_ledger(), processes=processes)
    return replace(runtime, confirm=confirm) if confirm else runtime


# --- money


def cost_so_far(workspace: Workspace, path: PathLike | None = None) -> dict[str, Any]:
    """What the calls for this run's queries and their judge took: calls, input_tokens, output_tokens, usd.

    path: the ledger, None for the user's own. Where it does not have the calls, the run's summary may.
    """
    cost: dict[str, Any] = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "usd": 0.0}
    if _ledger_path(path).exists():
        with Ledger(_ledger_path(path)) as ledger:
            cost = asdict(ledger.usage_of(calls_of_run(workspace)))
    if not cost["calls"] and workspace.path("summary.json").exists():
        cost = workspace.read_json("summary.json")["cost"]
    return cost


def ledger_totals(path: PathLike | None = None) -> list[dict[str, Any]]:
    """Calls, tokens and USD by provider and model."""
    with Ledger(_ledger_path(path)) as ledger:
        return [asdict(row) for row in ledger.totals()]


def ledger_export(target: PathLike, path: PathLike | None = None) -> int:
    """Write every call as JSONL. Returns their number."""
    with Ledger(_ledger_path(path)) as ledger:
        return ledger.export(Path(target))


def _ledger_path(path: PathLike | None) -> Path:
    return Path(path) if path else default_ledger()
