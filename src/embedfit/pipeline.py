"""The stages in their order: what each reads and writes, whether it is fresh, and how a run goes through them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Literal

from embedfit import __version__
from embedfit.config import Config
from embedfit.errors import CheckFailed, EmbedfitError, PaidInPart
from embedfit.progress import duration
from embedfit.records import Manifest
from embedfit.runtime import Runtime
from embedfit.workspace import SCHEMA, Workspace, sha256_json, sha256_tree

State = Literal["fresh", "stale", "partial", "missing"]
Run = Callable[[Workspace, Config, Runtime], None]


# Stage packages load torch, matplotlib or a PDF reader. `embedfit status` and a run that is up to date
# must not wait for them, so each is imported when its stage runs.
def _ingest(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.corpus.stage import run

    run(workspace, config, runtime)


def _generate(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.queries.stage import run

    run(workspace, config, runtime)


def _mine(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.mining.stage import run

    run(workspace, config, runtime)


def _train(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.training.stage import run

    run(workspace, config, runtime)


def _merge(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.merging.stage import run

    run(workspace, config, runtime)


def _check(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.evaluation.check import run

    run(workspace, config, runtime)


def _evaluate(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.evaluation.stage import run

    run(workspace, config, runtime)


def _report(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    from embedfit.reporting.stage import run

    run(workspace, config, runtime)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of the path.

    reads: files of the run folder. writes: files and folders that must be whole for it to be fresh.
    settings: the parts of the configuration that its result depends on.
    external: settings that name files outside the run folder, whose content counts too.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    settings: tuple[str, ...]
    run: Run
    external: tuple[str, ...] = ()


STAGES: tuple[Stage, ...] = (
    Stage(
        name="ingest",
        reads=(),
        writes=("documents.jsonl", "passages.jsonl", "dropped_passages.jsonl"),
        settings=(
            "docs",
            "eval_docs",
            "model",
            "seed",
            "ingest",
            "generate.dev_share",
            "generate.test_share",
            "eval_beir",
        ),
        external=("docs", "eval_docs"),
        run=_ingest,
    ),
    Stage(
        name="generate",
        reads=("passages.jsonl",),
        writes=("queries.jsonl",),
        settings=("model", "query_instruction", "seed", "generate", "eval_beir"),
        external=("generate.examples",),
        run=_generate,
    ),
    Stage(
        name="mine",
        reads=("passages.jsonl", "queries.jsonl"),
        writes=("train.jsonl",),
        settings=("model", "query_instruction", "seed", "mine", "generate.judge", "generate.generator", "generate.llm"),
        run=_mine,
    ),
    Stage(
        name="train",
        reads=("passages.jsonl", "queries.jsonl", "train.jsonl"),
        writes=("finetuned",),
        settings=("model", "query_instruction", "seed", "train"),
        run=_train,
    ),
    Stage(
        name="merge",
        reads=("passages.jsonl", "queries.jsonl", "finetuned"),
        writes=("merged", "merge.json"),
        settings=("model", "query_instruction", "seed", "merge"),
        external=("merge.retention_beir",),
        run=_merge,
    ),
    Stage(
        name="check",
        reads=("passages.jsonl", "queries.jsonl", "merged"),
        writes=("check.json",),
        settings=("model", "query_instruction", "seed", "check"),
        external=("check.pairs",),
        run=_check,
    ),
    Stage(
        name="evaluate",
        reads=(
            "documents.jsonl",
            "passages.jsonl",
            "queries.jsonl",
            "train.jsonl",
            "finetuned",
            "merged",
            "merge.json",
        ),
        writes=("scores.jsonl", "evaluation.json", "summary.json"),
        settings=("model", "query_instruction", "seed", "evaluate", "eval_beir"),
        external=("eval_beir",),
        run=_evaluate,
    ),
    Stage(
        name="report",
        reads=(
            "documents.jsonl",
            "passages.jsonl",
            "dropped_passages.jsonl",
            "queries.jsonl",
            "merge.json",
            "check.json",
            "scores.jsonl",
            "evaluation.json",
            "summary.json",
        ),
        writes=("report.html", "merged/README.md"),
        settings=(),
        run=_report,
    ),
)


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def check_order(stages: Sequence[Stage] = STAGES) -> None:
    """Fail unless everything that a stage reads is an earlier stage's output, and no output has two writers."""
    written: dict[str, str] = {}
    for stage in stages:
        for name in stage.reads:
            if name not in written:
                raise EmbedfitError(f"The stage {stage.name} reads {name}, which no earlier stage writes.")
        for name in stage.writes:
            if name in written:
                raise EmbedfitError(f"{name} is written by both {written[name]} and {stage.name}.")
            written[name] = stage.name


def setting(config: Config, key: str) -> object:
    """The JSON value of a dotted setting."""
    value: object = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else None
    return value


def config_hash(stage: Stage, config: Config) -> str:
    """SHA-256 of the settings that a stage depends on."""
    return sha256_json({key: setting(config, key) for key in stage.settings})


def _external_hashes(stage: Stage, config: Config) -> dict[str, str]:
    hashes = {}
    for key in stage.external:
        value = setting(config, key)
        paths = [str(item) for item in value] if isinstance(value, list) else [str(value)] if value else []
        for path in paths:
            hashes[f"{key}:{path}"] = sha256_tree(Path(path)) if Path(path).exists() else "missing"
    return hashes


def _input_hashes(stage: Stage, workspace: Workspace, config: Config) -> dict[str, str]:
    hashes = {name: sha256_tree(workspace.existing(name)) for name in stage.reads}
    return {**hashes, **_external_hashes(stage, config)}


def state(stage: Stage, workspace: Workspace, config: Config) -> State:
    """Whether a stage's outputs are those of its present inputs and settings."""
    manifest = workspace.read_manifest(stage.name)
    if manifest is None:
        partial = workspace.has_scratch(stage.name) or any(workspace.path(name).exists() for name in stage.writes)
        return "partial" if partial else "missing"
    if any(not workspace.path(name).exists() for name in (*stage.reads, *stage.writes)):
        return "stale"
    same = (
        manifest.config == config_hash(stage, config)
        and manifest.code == __version__
        and manifest.inputs == _input_hashes(stage, workspace, config)
        and all(manifest.outputs.get(name) == sha256_tree(workspace.path(name)) for name in stage.writes)
    )
    return "fresh" if same else "stale"


def states(workspace: Workspace, config: Config) -> dict[str, State]:
    """The state of every stage. A stage after one that is not fresh is at best stale."""
    result: dict[str, State] = {}
    broken = False
    for stage in STAGES:
        now = state(stage, workspace, config)
        if broken and now == "fresh":
            now = "stale"
        broken = broken or now != "fresh"
        result[stage.name] = now
    return result


def run_stage(stage: Stage, workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Run one stage, whatever its state, and write its manifest last."""
    inputs = _input_hashes(stage, workspace, config)  # before any work: a missing input is said at once
    workspace.drop_manifest(stage.name)
    started = time.monotonic()
    bad_news: CheckFailed | PaidInPart | None = None
    try:
        stage.run(workspace, config, runtime)
    except (CheckFailed, PaidInPart) as error:
        bad_news = error  # the stage did its work, or as much of it as the money allowed
    seconds = time.monotonic() - started
    for name in stage.writes:
        workspace.existing(name)
    workspace.clear_scratch(stage.name)
    workspace.write_manifest(
        Manifest(
            stage=stage.name,
            schema=SCHEMA,
            code=__version__,
            seed=config.seed,
            config=config_hash(stage, config),
            inputs=inputs,
            outputs={name: sha256_tree(workspace.path(name)) for name in stage.writes},
            seconds=round(seconds, 3),
            finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=versions(),
        )
    )
    runtime.report.log(f"{stage.name}: done in {duration(seconds)}")
    if bad_news is not None:
        raise bad_news


def versions() -> dict[str, str]:
    """Of Python and of the packages that a stage's numbers may depend on, without importing them."""
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers", "tokenizers", "sentence-transformers", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def run_all(
    workspace: Workspace,
    config: Config,
    runtime: Runtime,
    *,
    until: str | None = None,
    force: bool = False,
    stages: Sequence[Stage] = STAGES,
) -> list[str]:
    """Run every stage that is not fresh, in order, up to and including `until`. Returns the names of those run.

    A failed check is raised when everything else is done: the evaluation and the report show why.
    """
    check_order(stages)
    ran: list[str] = []
    failed_check: CheckFailed | None = None
    for stage in stages:
        # Asked after each stage that ran: an input that came out byte-equal leaves the later ones fresh.
        if not force and state(stage, workspace, config) == "fresh":
            runtime.report.log(f"{stage.name}: up to date")
        else:
            try:
                run_stage(stage, workspace, config, runtime)
            except CheckFailed as error:
                failed_check = error
            ran.append(stage.name)
        if stage.name == until:
            break
    if failed_check is not None:
        raise failed_check
    return ran
