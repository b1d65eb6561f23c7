"""Training in several processes, which torchrun or an executor starts: on this machine or on several."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from embedfit.config import Config, save
from embedfit.errors import TrainingError, UsageError
from embedfit.models.sources import resolve_model
from embedfit.numerics.machine import cores
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.scale.executor import WorksTogether

#: Files in the scratch folder: the processes' settings, the error of one that failed, and their stderr.
CONFIG, ERROR, _STDERR = "config.toml", "error.json", "processes.log"
#: The module of the processes. It imports the stage, which imports this module.
_WORKER = "embedfit.training.processes.worker"


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines that train together. rank: of this one, counted from 0. The first one has the address."""

    count: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    rank: int = 0

    @classmethod
    def parsed(cls, text: str) -> Nodes:
        """The machines of "2@10.0.0.5:29500", seen from the first; "" is this machine alone. Raises UsageError."""
        if not text:
            return cls()
        found = re.fullmatch(r"(\d{1,5})@([\w.-]+):(\d{1,5})", text)
        if found is None or int(found[1]) < 2 or not 0 < int(found[3]) < 65536:
            raise UsageError(f"--nodes {text!r} names no machines.", remedy="For example: --nodes 2@10.0.0.5:29500")
        return cls(int(found[1]), found[2], int(found[3]))

    def options(self) -> list[str]:
        """What torchrun must know."""
        if self.count == 1:
            return ["--standalone"]
        return [
            "--nnodes", str(self.count), "--node-rank", str(self.rank),
            "--master-addr", self.host, "--master-port", str(self.port),
        ]  # fmt: skip


def command(processes: int, root: Path, vectors: Path, nodes: Nodes) -> list[str]:
    """The command that starts so many training processes of a run folder on this machine.

    vectors: the folder of stored vectors.
    """
    return [
        sys.executable, "-m", "torch.distributed.run", *nodes.options(), "--nproc-per-node", str(processes),
        "-m", _WORKER, str(root), str(vectors),
    ]  # fmt: skip


def launch(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Train in as many processes as the runtime says. Raises the EmbedfitError that one of them met."""
    resolve_model(config.model)  # fetch the model once, before every process asks for it
    scratch = workspace.scratch("train")
    save(config, scratch / CONFIG)
    (scratch / ERROR).unlink(missing_ok=True)
    folders = workspace.root.resolve(), runtime.vectors.folder.resolve()
    if isinstance(runtime.executor, WorksTogether) and not runtime.nodes:
        _launch_there(runtime.executor, folders, scratch.resolve(), runtime)
    else:
        _launch_here(folders, scratch, runtime)


def _launch_there(executor: WorksTogether, folders: tuple[Path, Path], scratch: Path, runtime: Runtime) -> None:
    """Train in workers of an executor."""
    token = scratch / f"seen-{uuid.uuid4().hex}"
    token.touch()
    runtime.report.log(f"train: {runtime.processes} processes, each a worker of the executor")
    arguments = (*map(str, folders), str(token))
    lines = executor.together(f"{_WORKER}:work_there", arguments, runtime.processes, gpus=1)
    try:
        for line in lines:
            runtime.report.log(line)
    except RuntimeError as error:  # a bug: its traceback
        (scratch / _STDERR).write_text(str(error), "utf-8")
        raise _failure(scratch, 1) from error
    finally:
        lines.close()
        token.unlink(missing_ok=True)


def _launch_here(folders: tuple[Path, Path], scratch: Path, runtime: Runtime) -> None:
    """Train in processes of torchrun, on this machine and on others where the user starts them."""
    processes, report = runtime.processes, runtime.report
    threads = str(max(1, cores() // processes))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    report.log(f"train: {processes} processes of {threads} threads")
    nodes = Nodes.parsed(runtime.nodes)
    words = command(processes, *folders, nodes)
    for rank in range(1, nodes.count):
        theirs = shlex.join(command(processes, *folders, replace(nodes, rank=rank)))
        report.log(f"on machine {rank + 1} of {nodes.count}, which must see the same folders, run: {theirs}")
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
