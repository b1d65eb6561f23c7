"""One training process of a run folder, which torchrun starts, or a worker of an executor."""

from __future__ import annotations

import io
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from embedfit.config import load
from embedfit.errors import EmbedfitError, InputError
from embedfit.models.store.vectors import VectorStore
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines, Reporter, Silent
from embedfit.runtime import Runtime
from embedfit.training.processes.launch import CONFIG, ERROR
from embedfit.training.processes.world import joined
from embedfit.training.stage import train


def work(root: Path, vectors: Path, report: Reporter) -> None:
    """Train as one of several processes, of which the leading one reports. Raises EmbedfitError."""
    workspace = Workspace(root)
    with joined() as world:
        runtime = Runtime(report=report if world.leads else Silent(), vectors=VectorStore(vectors))
        train(workspace, load(workspace.scratch("train") / CONFIG), runtime, world)


def work_there(root: str, vectors: str, token: str, say: Callable[[str], None]) -> None:
    """Train as one of several processes, in a worker of an executor. token: a file of the run folder that is new.

    Raises InputError if this machine does not see it.
    """
    if not Path(token).exists():
        raise InputError(
            f"{platform.node()}, on which a training process was started, does not see the run folder {root}.",
            remedy="The run, the model and EMBEDFIT_CACHE must lie in a folder that all machines mount under the same "
            "path.",
        )
    work(Path(root), Path(vectors), LogLines(_Said(say)))


class _Said(io.StringIO):
    """A stream whose lines are said."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def write(self, text: str) -> int:
        """Say a line."""
        self._say(text.rstrip())
        return len(text)


def main(root: Path, vectors: Path) -> int:
    """Train as torchrun's process. Returns the exit status; the parent reads an error for people from a file."""
    try:
        work(root, vectors, LogLines(sys.stdout))
    except EmbedfitError as error:
        file = Workspace(root).scratch("train") / ERROR
        file.write_text(json.dumps({"message": error.message, "remedy": error.remedy}), "utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
