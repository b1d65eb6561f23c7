"""Runs the stages of a run: each one that is not fresh, with its manifest written last."""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata

from embedfit.config import Config
from embedfit.errors import CheckFailed, PaidInPart
from embedfit.files.hashes import Hashes
from embedfit.path.artefacts import Manifest
from embedfit.path.freshness import State, all_freshness, files_of_run, freshness, inputs_of, outputs_of, settings_of
from embedfit.path.stages import STAGES, Stage, check_order
from embedfit.path.stages import stage_named as stage_named
from embedfit.path.workspace import SCHEMA, Workspace
from embedfit.progress import duration
from embedfit.runtime import Runtime


def state(stage: Stage, workspace: Workspace, config: Config) -> State:
    """The state of a stage: whether its outputs come from its present inputs, settings and code."""
    return freshness(stage, workspace, config).state


def states(workspace: Workspace, config: Config) -> dict[str, State]:
    """The state of every stage. A stage after one that is not fresh is at best stale."""
    return {name: one.state for name, one in all_freshness(workspace, config).items()}


def run_stage(stage: Stage, workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Run one stage, whatever its state, and write its manifest last."""
    for name in (*stage.reads, *stage.models):
        workspace.existing(name)  # a missing input is reported before any work
    hashes = Hashes(workspace.root)
    # Hashed before any work, so that a file edited while the stage runs makes the stage stale.
    inputs = inputs_of(stage, workspace, config, hashes)
    settings = settings_of(stage, workspace, config)
    workspace.drop_manifest(stage.name)
    workspace.opened.clear()
    started = time.monotonic()
    bad_news: CheckFailed | PaidInPart | None = None
    try:
        # Imported here, because the package loads torch or a reader of documents, and neither `embedfit status` nor a
        # run that is up to date shall wait for that.
        (stage.run or importlib.import_module(stage.module).run)(workspace, config, runtime)
    except (CheckFailed, PaidInPart) as error:
        bad_news = error  # the stage did its work, or as much of it as the money allowed
    seconds = time.monotonic() - started
    opened = tuple(sorted(name for name in workspace.opened if not _is_known(stage, name)))
    for name in stage.writes:
        workspace.existing(name)
    workspace.clear_scratch(stage.name)
    workspace.write_manifest(
        Manifest(
            stage=stage.name,
            schema=SCHEMA,
            code=str(stage.version),
            seed=config.seed,
            settings=settings,
            inputs=files_of_run(opened, workspace, hashes) | inputs,
            outputs=outputs_of(stage, workspace, hashes),
            opened=opened,
            stopped_at=config.generate.max_cost if isinstance(bad_news, PaidInPart) else None,
            seconds=round(seconds, 3),
            finished=datetime.fromtimestamp(runtime.clock(), timezone.utc).isoformat(timespec="seconds"),
            versions=versions(),
        )
    )
    hashes.keep()
    runtime.report.log(f"{stage.name}: done in {duration(seconds)}")
    if bad_news is not None:
        raise bad_news


def _is_known(stage: Stage, name: str) -> bool:
    """Whether the table of stages lists a file as read or written by the stage."""
    read = (*stage.reads, *stage.models, *stage.may_read, *stage.brought, *stage.glances)
    known = (*read, *stage.writes, *stage.may_write)
    return any(name == one or name.startswith(f"{one}/") for one in known)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a stage's numbers may depend on, without importing them."""
    found = {"python": platform.python_version()}
    for package in ("embedfit", "torch", "transformers", "tokenizers", "sentence-transformers", "numpy"):
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

    A failed check is raised only after all other stages, because the evaluation and the report show why it failed.
    """
    check_order(stages)
    ran: list[str] = []
    failed_check: CheckFailed | None = None
    for stage in stages:
        # Computed anew for each stage: if an earlier one wrote the same bytes again, the later ones stay fresh.
        now = freshness(stage, workspace, config)
        if not force and now.state == "fresh":
            runtime.report.log(f"{stage.name}: up to date")
        else:
            if now.state == "stale":
                runtime.report.log(f"{stage.name}: done again, for {now.why}")
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
