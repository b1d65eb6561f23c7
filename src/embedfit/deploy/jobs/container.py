"""The program of a job's container: puts the run folder in place, runs `embedfit run`, keeps what it makes in S3.

SageMaker copies ROOT/checkpoints to S3 all the time, and back after an interruption. A copy of a database in use would
be torn, so the ledger lies elsewhere and a whole copy of it is put there every few seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

import tomli_w

from embedfit.deploy.account.redaction import redact
from embedfit.deploy.jobs.layout import (
    CHANNEL,
    CHECKPOINTS,
    JOB,
    LEDGER,
    LISTED,
    LISTING,
    RUN,
    Job,
    listing_of,
    run_files,
)
from embedfit.display.terminal import write_line
from embedfit.files.atomic import atomic_file
from embedfit.files.places import PLACES
from embedfit.network import aws

#: Seconds between two copies of ledger and listing: what an interruption can take back at most.
EVERY = 15.0
#: Characters of a failure's reason that SageMaker keeps.
_REASON = 1024


@dataclass(slots=True)
class Container:
    """One job in its container. root: /opt/ml. command: a stand-in for embedfit, in tests."""

    root: Path
    command: Sequence[str] = (sys.executable, "-m", "embedfit")
    every: float = EVERY
    job: Job = field(init=False)
    _copied: tuple[int, ...] = ()
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=12))

    def __post_init__(self) -> None:
        self.job = JOB.validate_json((self.inputs / "job.json").read_bytes())

    @property
    def inputs(self) -> Path:
        """The channel with what was uploaded."""
        return self.root / "input" / "data" / CHANNEL

    @property
    def kept(self) -> Path:
        """The folder that SageMaker copies to S3."""
        return self.root / CHECKPOINTS

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.kept / self.job.run

    @property
    def home(self) -> Path:
        """The user's folder of embedfit: its ledger, and vectors that can be computed again."""
        return self.root / "embedfit"

    def main(self) -> int:
        """Run the command to its end. Returns its exit code."""
        self._prepare()
        environment = {**os.environ, "EMBEDFIT_HOME": str(self.home), **_secrets(self.job.secrets)}
        command = [*self.command, "run", "--run", str(self.run), "--yes", *self.job.arguments]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as child:
            code = self._wait(child)
        self._keep(code)
        if code:
            self._explain(code)
        return code

    def _wait(self, child: subprocess.Popen[str]) -> int:
        """Wait for the command's end; SageMaker's signal to stop is passed on."""

        def stop(number: int, frame: FrameType | None) -> None:
            child.terminate()

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)
        reader = threading.Thread(target=self._tell, args=(child.stderr,))
        reader.start()
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(self.every)
                reader.join()
                return code
            self._keep()

    def _tell(self, stream: IO[str]) -> None:
        """Pass the command's lines on, and remember the last ones for the reason of a failure."""
        for line in stream:
            write_line(sys.stderr, line.rstrip("\r\n"))
            self._last.append(line)

    # --- before

    def _prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.run.mkdir(parents=True, exist_ok=True)
        if (self.kept / LISTING).exists():
            self._go_on()
        else:
            _copy(self.inputs / RUN, self.run)
            if (self.inputs / LEDGER).exists():
                shutil.copyfile(self.inputs / LEDGER, self.home / LEDGER)
        places = {stored: str(self.inputs / key) for stored, key in self.job.places.items()}
        with atomic_file(self.run / "embedfit.toml", binary=True) as file:
            tomli_w.dump({**self.job.settings, PLACES: places}, file)
        self._keep()

    def _go_on(self) -> None:
        """After an interruption: S3 may hold files that were deleted here since, for it keeps them."""
        listed = LISTED.validate_json((self.kept / LISTING).read_bytes()).files
        for name, path in list(run_files(self.run)):
            if name not in listed:
                path.unlink()
        if (self.kept / LEDGER).exists():
            shutil.copyfile(self.kept / LEDGER, self.home / LEDGER)
        write_line(sys.stderr, f"going on after an interruption, with {len(listed):,} files of the run")

    # --- while it runs, and after

    def _keep(self, code: int | None = None) -> None:
        """Put a whole copy of the ledger, and the list of the run's files, where SageMaker takes them to S3."""
        ledger = self.home / LEDGER
        now = tuple(_changed(ledger.with_name(ledger.name + end)) for end in ("", "-wal"))
        if ledger.exists() and (now != self._copied or code is not None):
            copy = self.kept / f".{LEDGER}.copy"
            copy.unlink(missing_ok=True)
            with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
            copy.replace(self.kept / LEDGER)
            self._copied = now
        with suppress(FileNotFoundError):  # a file that a stage just replaced; the next listing has it
            listing = listing_of(self.run, code)
            with atomic_file(self.kept / LISTING, binary=True) as file:
                file.write(listing)

    def _explain(self, code: int) -> None:
        """Leave the reason where SageMaker reads it."""
        failure = self.root / "output" / "failure"
        failure.parent.mkdir(parents=True, exist_ok=True)
        said = redact("".join(self._last)).strip() or f"embedfit ended with the code {code}"
        failure.write_text(said[-_REASON:], "utf-8")


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def _secrets(arns: Mapping[str, str]) -> dict[str, str]:
    """The values of secrets, read by the job's role. They are in this program's environment and nowhere else."""
    found: dict[str, str] = {}
    for variable, arn in arns.items():
        manager = aws.client("secretsmanager", region=arn.split(":")[3], needed_for="Reading a secret")
        found[variable] = str(manager.get_secret_value(SecretId=arn)["SecretString"])
    return found


if __name__ == "__main__":
    sys.exit(Container(Path(sys.argv[1])).main())
