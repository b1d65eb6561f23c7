"""Training in several processes on this machine: started by torchrun, watched from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from embedfit.config import Config, save
from embedfit.errors import TrainingError
from embedfit.models.sources import resolve_model
from embedfit.numerics.machine import cores
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

#: Files in the scratch folder: the processes' settings, the error of one that failed, and their stderr.
CONFIG, ERROR, _STDERR = "config.toml", "error.json", "processes.log"


def command(processes: int, root: Path, vectors: Path) -> list[str]:
    """The command that starts so many training processes on a run folder. vectors: the folder of stored vectors."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        "-m", "embedfit.training.processes.worker", str(root), str(vectors),
    ]  # fmt: skip


def launch(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Train in as many processes as the runtime says. Raises the EmbedfitError that one of them met."""
    resolve_model(config.model)  # fetch the model once, before every process asks for it
    scratch = workspace.scratch("train")
    save(config, scratch / CONFIG)
    (scratch / ERROR).unlink(missing_ok=True)
    processes, report = runtime.processes, runtime.report
    threads = str(max(1, cores() // processes))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    report.log(f"train: {processes} processes of {threads} threads")
    words = command(processes, workspace.root, runtime.vectors.folder)
    with (
        (scratch / _STDERR).open("w", encoding="utf-8") as stderr,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment) as running,
    ):
        try:
            assert running.stdout is not None  # for the type checker: stderr is a pipe, so it is there
            for line in running.stdout:
                report.log(line.rstrip())
            status = running.wait()
        finally:
            if running.poll() is None:
                running.terminate()  # torchrun ends its processes
    if status:
        raise _failure(scratch, status)


def _failure(scratch: Path, status: int) -> TrainingError:
    try:
        error = json.loads((scratch / ERROR).read_text("utf-8"))
        return TrainingError(error["message"], remedy=error["remedy"])
    except (OSError, ValueError, KeyError):
        tail = (scratch / _STDERR).read_text("utf-8", "replace").strip().splitlines()[-5:]
        return TrainingError(
            f"A training process ended with status {status}: " + " | ".join(tail),
            remedy=f"The whole output is in {scratch / _STDERR}. Run again: training goes on from the last checkpoint.",
        )
