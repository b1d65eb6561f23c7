"""SageMaker's training jobs on this machine: a job's container command runs as a process over a folder like /opt/ml.

What SageMaker does around a container is done here too: it fetches the channels, puts the checkpoints back, copies new
ones to S3 while the command runs, puts the printed lines into the log, and reads the reason of a failure. S3 and the
log are those of a server such as moto's.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from embedfit.network.aws import Client, Parameters
from embedfit.testing.aws_faults import Refused

_ROOT = "/opt/ml"
_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_ARN = "arn:aws:sagemaker:us-east-1:123456789012:training-job/"


class Command(Protocol):
    """A running container command, as subprocess.Popen has it."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""


#: Starts a container command: given it, the folder in place of /opt/ml, and the file for what it prints.
Start = Callable[[list[str], Path, Path], Command]


def start_process(command: list[str], root: Path, printed: Path) -> Command:
    """Run the command as a process of this Python."""
    words = [sys.executable if word == "python3" else word for word in command]
    with printed.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)


@dataclass(slots=True)
class _Job:
    """One job. copied: files of the checkpoints that are in S3, with their times. printed: characters in the log."""

    parameters: Parameters
    root: Path
    command: Command | None = None
    status: str = "InProgress"
    step: str = "Training"
    reason: str = ""
    copied: dict[str, int] = field(default_factory=dict)
    printed: int = 0
    machines: int = 1


@dataclass(slots=True)
class TrainingJobs:
    """The `answer` of embedfit.testing.aws_faults.Faults. s3, logs: clients that are not watched themselves.

    folder: for the jobs' files. start: starts a container command.
    """

    s3: Client
    logs: Client
    folder: Path
    start: Start = start_process
    jobs: dict[str, _Job] = field(default_factory=dict)

    def __call__(self, operation: str, parameters: Parameters) -> Parameters | None:
        """The reply to a call about training jobs; None for any other call. Raises Refused."""
        name = str(parameters.get("TrainingJobName", ""))
        if operation == "sagemaker.ListTags" and str(parameters["ResourceArn"]).startswith(_ARN):
            return {"Tags": self._known(str(parameters["ResourceArn"]).removeprefix(_ARN)).parameters.get("Tags", [])}
        if operation == "sagemaker.ListTrainingJobs":
            return self._list(parameters)
        if operation == "sagemaker.CreateTrainingJob":
            return self._create(name, parameters)
        if operation == "sagemaker.DescribeTrainingJob":
            return self._describe(name)
        if operation == "sagemaker.StopTrainingJob":
            self.stop(name)
            return {}
        return None

    # --- what SageMaker does by itself

    def interrupt(self, name: str) -> None:
        """Take the spare capacity away: the command ends, its disk is gone, and another machine goes on."""
        job = self._known(name)
        self._end(job)
        self._copy_out(job)
        job.root = self.folder / name / f"machine-{job.machines}" / "opt" / "ml"
        job.machines += 1
        job.copied.clear()
        job.printed = 0
        self._begin(job)

    def stop(self, name: str) -> None:
        """End a job before its command does."""
        job = self._known(name)
        self._look(job)
        if job.status == "InProgress":
            self._end(job)
            self._look(job)
            job.status = job.step = "Stopped"
            job.reason = ""

    @property
    def running(self) -> list[str]:
        """The jobs that cost money now."""
        for job in self.jobs.values():
            self._look(job)
        return [name for name, job in self.jobs.items() if job.status == "InProgress"]

    # --- the calls

    def _known(self, name: str) -> _Job:
        if name not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return self.jobs[name]

    def _create(self, name: str, parameters: Parameters) -> Parameters:
        if name in self.jobs:
            raise Refused("ResourceInUse", f"Job name must be unique within an account and region: {name}")
        job = _Job(parameters=parameters, root=self.folder / name / "machine-0" / "opt" / "ml")
        self._begin(job)
        self.jobs[name] = job
        return {"TrainingJobArn": _ARN + name}

    def _describe(self, name: str) -> Parameters:
        job = self._known(name)
        self._look(job)
        reply: Parameters = {
            "TrainingJobName": name,
            "TrainingJobArn": _ARN + name,
            "TrainingJobStatus": job.status,
            "SecondaryStatus": job.step,
            "CreationTime": datetime(2026, 7, 1, tzinfo=timezone.utc),
        }
        if job.status != "InProgress":
            reply |= {"BillableTimeInSeconds": 60, "TrainingTimeInSeconds": 90}
        return reply | ({"FailureReason": job.reason} if job.reason else {})

    def _list(self, parameters: Parameters) -> Parameters:
        wanted, status = str(parameters.get("NameContains", "")), parameters.get("StatusEquals")
        for job in self.jobs.values():
            self._look(job)
        found = [
            {"TrainingJobName": name, "TrainingJobArn": _ARN + name, "TrainingJobStatus": job.status}
            for name, job in self.jobs.items()
            if wanted in name and status in (None, job.status)
        ]
        return {"TrainingJobSummaries": found}

    # --- a machine

    def _begin(self, job: _Job) -> None:
        """Fetch the channels and the checkpoints, then start the command."""
        for channel in job.parameters["InputDataConfig"]:
            source = channel["DataSource"]["S3DataSource"]["S3Uri"]
            self._fetch(source, job.root / "input" / "data" / channel["ChannelName"])
        checkpoints = job.root / "checkpoints"
        self._fetch(job.parameters["CheckpointConfig"]["S3Uri"], checkpoints)
        for folder in (checkpoints, job.root / "output"):
            folder.mkdir(parents=True, exist_ok=True)
        job.copied |= {name: path.stat().st_mtime_ns for name, path in _below(checkpoints).items()}
        words = job.parameters["AlgorithmSpecification"]["ContainerEntrypoint"]
        command = [word.replace(_ROOT, str(job.root), 1) if word.startswith(_ROOT) else word for word in words]
        job.command = self.start(command, job.root, job.root / "printed.txt")

    def _fetch(self, uri: str, folder: Path) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Contents", []):
                target = folder / str(one["Key"]).removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.s3.download_file(bucket, one["Key"], str(target))

    def _end(self, job: _Job) -> None:
        if job.command is not None and job.command.poll() is None:
            job.command.send_signal(signal.SIGTERM)
            job.command.wait(120)

    def _look(self, job: _Job) -> None:
        """Note what the command did since the last look."""
        if job.status != "InProgress" or job.command is None:
            return
        code = job.command.poll()
        self._copy_out(job)
        self._log(job)
        if code is None:
            return
        job.status = job.step = "Failed" if code else "Completed"
        failure = job.root / "output" / "failure"
        if code:
            said = failure.read_text("utf-8") if failure.exists() else f"exit code {code}"
            job.reason = f"AlgorithmError: {said}"

    def _copy_out(self, job: _Job) -> None:
        """Copy new checkpoints to S3. What was deleted here stays there, as with SageMaker."""
        bucket, _, prefix = job.parameters["CheckpointConfig"]["S3Uri"].removeprefix("s3://").partition("/")
        for name, path in _below(job.root / "checkpoints").items():
            with suppress(FileNotFoundError):  # it was replaced meanwhile
                written = path.stat().st_mtime_ns
                if job.copied.get(name) != written:
                    self.s3.put_object(Bucket=bucket, Key=prefix + name, Body=path.read_bytes())
                    job.copied[name] = written

    def _log(self, job: _Job) -> None:
        printed = job.root / "printed.txt"
        text = printed.read_text("utf-8", "replace") if printed.exists() else ""
        lines = [line for line in text[job.printed :].splitlines() if line]
        if not lines:
            return
        job.printed = len(text)
        stream = {
            "logGroupName": _LOG_GROUP,
            "logStreamName": f"{job.parameters['TrainingJobName']}/algo-{job.machines}",
        }
        with suppress(self.logs.exceptions.ResourceAlreadyExistsException):
            self.logs.create_log_group(logGroupName=_LOG_GROUP)
        with suppress(self.logs.exceptions.ResourceAlreadyExistsException):
            self.logs.create_log_stream(**stream)
        now = int(datetime.now(timezone.utc).timestamp() * 1000)
        self.logs.put_log_events(**stream, logEvents=[{"timestamp": now, "message": line} for line in lines])


def _below(folder: Path) -> Mapping[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
