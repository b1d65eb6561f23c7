"""Following a job: its steps, and the lines that it prints, as they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from embedfit.deploy.account.calls import Aws, Clock, aws_errors
from embedfit.deploy.account.found import ResourceFound
from embedfit.deploy.account.redaction import redact
from embedfit.deploy.account.training import ENDED, LOG_GROUP, describe_job, log_streams
from embedfit.errors import DeployError
from embedfit.network.aws import aws_exceptions, is_absent
from embedfit.progress import Reporter

#: Seconds between two looks.
POLL_SECONDS = 10.0


def follow(aws: Aws, job: str, *, log: Path, seconds: float, clock: Clock, report: Reporter) -> ResourceFound:
    """Wait until a job has ended, and show what it prints. Returns how it ended.

    log: the file that keeps the lines. seconds: how long the job may take at most, all in all. Raises DeployError if it
    takes longer, or if AWS can't be asked: the job itself goes on.
    """
    started, step = clock.now(), ""
    lines = _Lines(aws, job, log, report)
    with report.task(f"job {job}", seconds / 60, "min at most") as task:
        while True:
            with aws_errors(f"looking at the training job {job}"):
                found = describe_job(aws, job)
                lines.show()
            if found is None:
                raise DeployError(f"There is no training job {job} (any more).", remedy="Give the same command again.")
            if found.settings["step"] != step:
                step = str(found.settings["step"])
                report.log(f"{job}: {step}")
            if found.status in ENDED:
                return found
            if (clock.now() - started).total_seconds() > seconds + 3600:
                raise DeployError(
                    f"The job {job} is still {found.status} after its time.",
                    remedy=f"Run: aws sagemaker stop-training-job --training-job-name {job} --region {aws.region}",
                )
            clock.sleep(POLL_SECONDS)
            task.advance(POLL_SECONDS / 60, note=step)


@dataclass(slots=True)
class _Lines:
    """What a job has printed. tokens: of each stream, where the next look goes on."""

    aws: Aws
    job: str
    log: Path
    report: Reporter
    tokens: dict[str, str] = field(default_factory=dict)

    def show(self) -> None:
        """Show the lines that are new, without secrets, and add them to the file."""
        for stream in log_streams(self.aws, f"{self.job}/"):
            while new := self._next(stream):
                for line in new:
                    self.report.log(f"  {line}")
                with self.log.open("a", encoding="utf-8") as file:
                    file.writelines(f"{line}\n" for line in new)

    def _next(self, stream: str) -> list[str]:
        after = {"nextToken": self.tokens[stream]} if stream in self.tokens else {}
        try:
            reply = self.aws.client("logs").get_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **after
            )
        except aws_exceptions() as error:
            if is_absent(error):
                return []
            raise
        self.tokens[stream] = reply["nextForwardToken"]
        return [redact(event["message"].rstrip("\n")) for event in reply["events"]]
