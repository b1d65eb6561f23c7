"""Training jobs of SageMaker: finding, stopping and listing them, and what they print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.found import ResourceFound, tags_of
from embedfit.network.aws import aws_exceptions, is_absent

#: The log group of every training job of an account.
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
#: Statuses after which a job costs nothing more. Its record stays in the account's history; SageMaker keeps it.
ENDED = ("Completed", "Failed", "Stopped")


def describe_job(aws: Aws, name: str) -> ResourceFound | None:
    """A job without its tags: one call, for waiting. settings: step, billed seconds, start."""
    try:
        reply = aws.client("sagemaker").describe_training_job(TrainingJobName=name)
    except aws_exceptions() as error:
        if is_absent(error):
            return None
        raise
    return ResourceFound(
        id=reply["TrainingJobArn"],
        status=reply["TrainingJobStatus"],
        reason=reply.get("FailureReason", ""),
        settings={
            "created": reply.get("CreationTime"),
            "step": reply.get("SecondaryStatus", ""),
            "billed": reply.get("BillableTimeInSeconds"),
            "seconds": reply.get("TrainingTimeInSeconds"),
        },
    )


def find_job(aws: Aws, name: str) -> ResourceFound | None:
    """A job with its tags, whether or not it has ended."""
    found = describe_job(aws, name)
    return None if found is None else replace(found, tags=tags_of(aws, found.id))


def stop_job(aws: Aws, name: str) -> None:
    """Ask SageMaker to stop a job. One that has ended, or is being stopped, is left as it is."""
    found = describe_job(aws, name)
    if found is None or found.status in ENDED or found.status == "Stopping":
        return
    try:
        aws.client("sagemaker").stop_training_job(TrainingJobName=name)
    except aws_exceptions():
        now = describe_job(aws, name)
        if now is not None and now.status not in (*ENDED, "Stopping"):  # it did not end by itself meanwhile
            raise


def running_jobs(aws: Aws, prefix: str) -> Iterator[tuple[str, str]]:
    """(name, ARN) of the jobs that cost money now and whose name begins with prefix."""
    for status in ("InProgress", "Stopping"):
        pages = aws.client("sagemaker").get_paginator("list_training_jobs")
        for page in pages.paginate(NameContains=prefix, StatusEquals=status):
            for one in page["TrainingJobSummaries"]:
                if one["TrainingJobName"].startswith(prefix):
                    yield one["TrainingJobName"], one["TrainingJobArn"]


def log_streams(aws: Aws, prefix: str) -> list[str]:
    """The streams of the jobs' log whose names begin with prefix; each begins with its job's name and a slash."""
    pages = aws.client("logs").get_paginator("describe_log_streams")
    try:
        found = [
            stream["logStreamName"]
            for page in pages.paginate(logGroupName=LOG_GROUP, logStreamNamePrefix=prefix)
            for stream in page["logStreams"]
        ]
    except aws_exceptions() as error:
        if is_absent(error):
            return []
        raise
    return sorted(found)


def find_log(aws: Aws, job: str) -> ResourceFound | None:
    """The log of a job; None if it printed nothing."""
    return ResourceFound(id=f"{LOG_GROUP}/{job}") if log_streams(aws, f"{job}/") else None


def delete_log(aws: Aws, job: str) -> None:
    """Delete what a job printed."""
    for stream in log_streams(aws, f"{job}/"):
        aws.client("logs").delete_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
