"""`embedfit grade`: a run's pool of search results, graded by a person in a page."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from embedfit.choosing import stage
from embedfit.choosing.page.server import serve
from embedfit.choosing.page.session import Session
from embedfit.commands import runs
from embedfit.errors import ArtifactMissing, InputError
from embedfit.index.highlight import Highlighter
from embedfit.path.artefacts import Passage, Pooled
from embedfit.path.workspace import FILES, Workspace
from embedfit.retrieval.words import Analysis
from embedfit.runtime import Runtime

#: The number of questions that a person grades in some ten minutes. They suffice to correct a judge.
GOAL = 30


def session_of(folder: str | Path, runtime: Runtime | None = None, *, goal: int = GOAL) -> Session:
    """The pool of a run with a person's grades so far. A run without a pool gets one.

    Raises InputError if the run has no asked question, ArtifactMissing if it has no model to search with yet.
    """
    runtime = runtime or Runtime()
    workspace = Workspace(folder)
    config = runs.stored_config(workspace)
    if not workspace.path(FILES[Pooled]).exists():
        if not workspace.path("merge.json").exists():
            raise ArtifactMissing(
                f"{workspace.root} has no model to search with yet.", remedy=f"Run: embedfit run --run {workspace.root}"
            )
        with workspace.lock():
            stage.write_pool(workspace, config, runtime)
    pools = workspace.read(Pooled)
    passages = {one.passage_id: one for one in workspace.read(Passage)}
    pools = [one for one in pools if set(one.passages) <= passages.keys()]
    if not pools:
        raise InputError(
            f"{workspace.root} has no question that people asked.",
            remedy=f"Name a file of them: embedfit run --run {workspace.root} --queries FILE",
        )
    analysis = Analysis.of([one.content for one in passages.values()])
    return Session(workspace, pools, passages, Highlighter(analysis), goal=goal)


def grade(folder: str | Path, runtime: Runtime, *, goal: int, port: int, opened: Callable[[str], None]) -> Session:
    """Serve the page until Ctrl-C. opened: called with its address. Raises EmbedfitError."""
    session = session_of(folder, runtime, goal=goal)
    serve(session, port=port, token=secrets.token_urlsafe(18), opened=opened)
    return session
