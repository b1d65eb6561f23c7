"""The functions of embedfit for Python. The command line calls the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

from pydantic import JsonValue
from typing_extensions import Unpack

from embedfit import config as settings_module
from embedfit.commands.preflight import refuse_hopeless
from embedfit.config import Config
from embedfit.errors import ArtifactMissing, InputError, UsageError
from embedfit.llm.ledger import Ledger, ModelTotals
from embedfit.llm.ledger.spent import calls_of_run
from embedfit.path import pipeline
from embedfit.path.artefacts import Cost, Summary
from embedfit.path.stages import STAGES, Stage
from embedfit.path.systems import check_systems
from embedfit.path.tracked import tracked
from embedfit.path.workspace import Workspace
from embedfit.progress import Reporter
from embedfit.runtime import Runtime, default_ledger

PathLike = str | Path


class RunResult:
    """A finished run: its folder, its summary and its models."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.root
        self._workspace = workspace

    @property
    def summary(self) -> dict[str, JsonValue]:
        """The content of summary.json."""
        value: dict[str, JsonValue] = self._workspace.read_json("summary.json")
        return value

    @property
    def results(self) -> Summary:
        """summary.json as a record: `results.comparison("merged", "base")` prints with its interval."""
        return self._workspace.load(Summary)

    @property
    def better(self) -> bool:
        """Whether a tuned model ships and what ships is surely better than the base: by the 95% interval of nDCG@10."""
        return self.results.better

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


class RunOptions(TypedDict, total=False):
    """The rarer arguments of run().

    eval_docs, eval_beir: documents, or people's queries in BEIR layout, to evaluate on. queries: files of questions
    that people asked, unlabelled or with positives. assignments: settings such as "mine.negatives=3". until: the last
    stage to run. force: whether to run stages again that are up to date.
    """

    eval_docs: PathLike | Sequence[PathLike]
    eval_beir: PathLike | None
    queries: PathLike | Sequence[PathLike]
    assignments: Sequence[str]
    until: str | None
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A call whose arguments are checked: the folder, the settings and the runtime with which its stages run."""

    workspace: Workspace
    config: Config
    runtime: Runtime


def run(
    docs: PathLike | Sequence[PathLike] = (),
    *,
    run: PathLike,
    preset: str | None = None,
    settings: Mapping[str, object] | None = None,
    config: PathLike | None = None,
    yes: bool = False,
    runtime: Runtime | None = None,
    **options: Unpack[RunOptions],
) -> RunResult:
    """Run the whole path, leaving out the stages that are up to date.

    A run folder's own settings hold, except those that this call names. A preset other than the run's is an error.
    docs: files, folders or a BEIR corpus.jsonl; default: those of the run folder. preset: "default" if none is named
    for a new folder. settings: nested like embedfit.toml; they override the preset and the file `config`. yes: make
    paid calls without confirmation. options: see RunOptions. Raises EmbedfitError.
    """
    workspace = Workspace(run)
    runtime = with_consent(runtime or Runtime(), yes)
    named = resolved(workspace, docs, runtime, preset=preset, settings=settings, config=config, **options)
    return run_config(workspace, named, runtime, until=options.get("until"), force=options.get("force", False))


def in_section(settings: Mapping[str, object] | None, section: str, values: Mapping[str, object]) -> dict[str, object]:
    """Settings, nested like embedfit.toml, with further values in a section."""
    given = dict(settings or {})
    if values:
        named = given.get(section)
        given[section] = {**(named if isinstance(named, Mapping) else {}), **values}
    return given


def resolved(
    workspace: Workspace,
    docs: PathLike | Sequence[PathLike],
    runtime: Runtime,
    *,
    preset: str | None = None,
    settings: Mapping[str, object] | None = None,
    config: PathLike | None = None,
    **options: Unpack[RunOptions],
) -> Config:
    """The settings of a call of run() or adapt() on a run folder. Raises EmbedfitError."""
    if unknown := options.keys() - RunOptions.__annotations__.keys():
        raise TypeError(f"run() has no argument {min(unknown)!r}")
    overrides: dict[str, object] = {key: value for key, value in (settings or {}).items() if value is not None}
    questions, held_out = options.get("queries", ()), options.get("eval_docs", ())
    for name, value in (("docs", docs), ("eval_docs", held_out), ("queries", questions)):
        paths = [value] if isinstance(value, (str, Path)) else list(value)
        if paths:
            overrides[name] = [str(path) for path in paths]
    if (eval_beir := options.get("eval_beir")) is not None:
        overrides["eval_beir"] = str(eval_beir)
    found = settings_for(
        workspace,
        runtime.report,
        preset=preset,
        file=Path(config) if config is not None else None,
        overrides=overrides,
        assignments=tuple(options.get("assignments", ())),
    )
    if not found.docs:
        raise UsageError("There are no documents.", remedy="Run: embedfit run DOCS... --run DIR")
    for name in found.queries:
        if not Path(name).is_file():  # checked before the documents are read, not an hour later
            raise InputError(f"There is no file of questions {name}.", remedy="Give another --queries FILE.")
    return found


def settings_for(
    workspace: Workspace,
    report: Reporter,
    *,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    assignments: tuple[str, ...] = (),
) -> Config:
    """The settings of a command on a run folder: the stored ones, overridden by those that the command names.

    A log line lists the stored settings that stay in force, and those that the command changes.
    """
    path, given = workspace.path("embedfit.toml"), dict(overrides or {})
    if not path.exists():
        return settings_module.resolve(preset=preset, file=file, overrides=given, assignments=assignments)
    stored = settings_module.load(path)
    resolved = settings_module.change(
        stored, run=workspace.root, preset=preset, file=file, overrides=given, assignments=assignments
    )
    changed = settings_module.changes(stored, resolved)
    names = {one.partition("=")[0] for one in changed} | {"docs", "eval_docs", "eval_beir", "queries"}
    plain = settings_module.resolve(preset=stored.preset)
    kept = [one for one in settings_module.changes(plain, resolved) if one.partition("=")[0] not in names]
    parts = [f"{words} {', '.join(some)}" for words, some in (("holds", kept), ("now has", changed)) if some]
    if parts:
        report.log(f"settings: {path} {' and '.join(parts)}")
    return resolved


def run_config(
    workspace: Workspace,
    config: Config,
    runtime: Runtime,
    *,
    until: str | None = None,
    force: bool = False,
    stages: Sequence[Stage] = STAGES,
) -> RunResult:
    """Store the configuration and run every one of the stages that is not fresh under it."""
    settings_module.refuse_bills(config)
    check_systems(config)
    names = [stage.name for stage in stages]
    ahead = stages[: names.index(until) + 1] if until in names else stages
    train = next((stage for stage in ahead if stage.name == "train"), None)
    if train is not None and pipeline.state(train, workspace, config) != "fresh":
        refuse_hopeless(workspace, config)
    with workspace.lock():
        settings_module.save(config, workspace.path("embedfit.toml"))
        with tracked(workspace, config, runtime):
            pipeline.run_all(workspace, config, runtime, until=until, force=force, stages=stages)
    return RunResult(workspace)


def run_stage(
    name: str,
    *,
    run: PathLike,
    settings: Mapping[str, object] | None = None,
    assignments: Sequence[str] = (),
    force: bool = False,
    yes: bool = False,
    runtime: Runtime | None = None,
) -> bool:
    """One stage of an existing run. Returns whether it ran; False means that it was fresh.

    Raises ArtifactMissing if the run folder or an input of the stage is missing.
    """
    workspace = Workspace(run)
    stored_config(workspace)  # raises ArtifactMissing without any
    runtime = with_consent(runtime or Runtime(), yes)
    config = settings_for(workspace, runtime.report, overrides=settings, assignments=tuple(assignments))
    stage = pipeline.stage_named(name)
    with workspace.lock():
        settings_module.save(config, workspace.path("embedfit.toml"))
        with tracked(workspace, config, runtime):
            if not force and pipeline.state(stage, workspace, config) == "fresh":
                runtime.report.log(f"{name}: up to date (--force does it again)")
                return False
            if force:
                workspace.clear_scratch(name)
            pipeline.run_stage(stage, workspace, config, runtime)
    return True


def stored_config(workspace: Workspace) -> Config:
    """The configuration of a run folder. Raises ArtifactMissing if the folder has none."""
    path = workspace.path("embedfit.toml")
    if not path.exists():
        raise ArtifactMissing(
            f"{workspace.root} is not a run folder: embedfit.toml is missing.",
            remedy=f"Run: embedfit run DOCS... --run {workspace.root}",
        )
    return settings_module.load(path)


def with_consent(runtime: Runtime, yes: bool) -> Runtime:
    """The runtime; with yes, a copy of it that confirms every paid call by itself."""
    return replace(runtime, confirm=lambda question: True) if yes else runtime


# --- money


def cost_so_far(workspace: Workspace, path: PathLike | None = None) -> Cost:
    """The cost of the calls for this run's queries and their judge.

    path: the ledger, None for the user's own. If the ledger lacks the calls, the cost comes from the run's summary.
    """
    cost = Cost()
    if _ledger_path(path).exists():
        with Ledger(_ledger_path(path)) as ledger:
            calls = calls_of_run(workspace)
            cost = Cost(**asdict(ledger.usage_of(calls)), models=ledger.models_of(calls))
    return workspace.load(Summary).cost if not cost.calls and workspace.has(Summary) else cost


def ledger_totals(path: PathLike | None = None) -> list[ModelTotals]:
    """Calls, tokens and USD by provider and model."""
    with Ledger(_ledger_path(path)) as ledger:
        return ledger.totals()


def ledger_export(target: PathLike, path: PathLike | None = None) -> int:
    """Write every call as JSONL. Returns their number."""
    with Ledger(_ledger_path(path)) as ledger:
        return ledger.export(Path(target))


def _ledger_path(path: PathLike | None) -> Path:
    return Path(path) if path else default_ledger()
