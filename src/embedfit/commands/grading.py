"""`embedfit grade`: a run's pool of search results, graded by a person in a page."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedfit.assessing.stage import FOLDER, POOL
from embedfit.choosing import stage
from embedfit.choosing.grades import PERSON_FILE
from embedfit.choosing.page.server import serve
from embedfit.choosing.page.session import Session
from embedfit.commands import runs
from embedfit.config import Config
from embedfit.errors import ArtifactMissing, InputError
from embedfit.index.highlight import Highlighter
from embedfit.path.artefacts import Passage, Pooled
from embedfit.path.freshness import freshness
from embedfit.path.pipeline import run_stage
from embedfit.path.stages import stage_named
from embedfit.path.workspace import FILES, Workspace, read_jsonl
from embedfit.retrieval.words import Analysis
from embedfit.runtime import Runtime

_CHOOSE = stage_named("choose")
#: The pool alone, for a person who grades before the stage choose has run, or after its inputs changed.
_POOL = replace(_CHOOSE, name="pool", brought=(), writes=(FILES[Pooled],), may_write=(), run=stage.write_pool)
#: The number of questions that a person grades in some ten minutes. They suffice to correct a judge.
GOAL = 30


def session_of(folder: str | Path, runtime: Runtime | None = None, *, goal: int = GOAL) -> Session:
    """The pool of a run with a person's grades so far. A pool that is not there or out of date is made.

    Raises InputError if the run has no asked question, ArtifactMissing if it has no model to search with yet.
    """
    runtime = runtime or Runtime()
    workspace = Workspace(folder)
    config = runs.stored_config(workspace)
    assessed = workspace.path(f"{FOLDER}/{POOL}")
    if workspace.path("merge.json").exists():
        if not _is_current(workspace, config, runtime):
            with workspace.lock():
                run_stage(_POOL, workspace, config, runtime)
        pools = workspace.read(Pooled)
    elif assessed.exists():  # nothing was trained yet: what the untrained retrievers found
        pools = list(read_jsonl(assessed, Pooled))
    else:
        raise ArtifactMissing(
            f"{workspace.root} has no model to search with yet.", remedy=f"Run: embedfit run --run {workspace.root}"
        )
    passages = {one.passage_id: one for one in workspace.read(Passage)}
    if not pools:
        raise InputError(
            f"{workspace.root} has no question that people asked.",
            remedy=f"Name a file of them: embedfit run --run {workspace.root} --queries FILE",
        )
    analysis = Analysis.of([one.content for one in passages.values()])
    return Session(workspace, pools, passages, Highlighter(analysis), goal=goal)


def _is_current(workspace: Workspace, config: Config, runtime: Runtime) -> bool:
    """Whether pool.jsonl is what a search finds now. The stage choose wrote it, or an earlier grading did."""
    if not workspace.path(FILES[Pooled]).exists():
        return False
    chosen = freshness(_CHOOSE, workspace, config)
    # Grades that a person gave make the stage stale, and change no search.
    if chosen.state == "fresh" or chosen.why in (f"{PERSON_FILE} is new", f"{PERSON_FILE} has changed"):
        return True
    pool = freshness(_POOL, workspace, config)
    if pool.state != "fresh":
        why = chosen.why if chosen.state == "stale" else pool.why
        runtime.report.log(f"grade: the results are searched again, for {why}; grades that were given stay")
    return pool.state == "fresh"


def grade(folder: str | Path, runtime: Runtime, *, goal: int, port: int, opened: Callable[[str], None]) -> Session:
    """Serve the page until Ctrl-C. opened: called with its address. Raises EmbedfitError."""
    session = session_of(folder, runtime, goal=goal)
    serve(session, port=port, token=secrets.token_urlsafe(18), opened=opened)
    return session
