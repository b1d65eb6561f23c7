"""One training process of a run folder, which torchrun starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from embedfit.config import load
from embedfit.errors import EmbedfitError
from embedfit.models.store.vectors import VectorStore
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines, Silent
from embedfit.runtime import Runtime
from embedfit.training.processes.launch import CONFIG, ERROR
from embedfit.training.processes.world import joined
from embedfit.training.stage import train


def work(root: Path, vectors: Path) -> int:
    """Train as one of several processes. Returns the exit status; the parent reads an error for people from a file."""
    workspace = Workspace(root)
    scratch = workspace.scratch("train")
    try:
        with joined() as world:
            report = LogLines(sys.stdout) if world.leads else Silent()
            runtime = Runtime(report=report, vectors=VectorStore(vectors))
            train(workspace, load(scratch / CONFIG), runtime, world)
    except EmbedfitError as error:
        (scratch / ERROR).write_text(json.dumps({"message": error.message, "remedy": error.remedy}), "utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1]), Path(sys.argv[2])))
