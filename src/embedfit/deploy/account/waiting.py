"""Waiting for an endpoint to come up or to be gone, and for a job to end."""

from __future__ import annotations

from collections.abc import Callable

from embedfit.deploy.account.calls import Aws, Clock, aws_errors
from embedfit.deploy.account.found import ResourceFound
from embedfit.deploy.account.sagemaker import BUSY, describe_endpoint
from embedfit.deploy.account.training import ENDED, describe_job
from embedfit.errors import DeployError
from embedfit.progress import Reporter, duration

#: Seconds between two looks, and until waiting ends. A GPU instance with a large image takes 5 to 10 minutes.
POLL_SECONDS = 10.0
LIMIT_SECONDS = 45 * 60


class EndpointFailed(DeployError):
    """SageMaker gave up on an endpoint. reason: as SageMaker says it."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(
            f"The endpoint {endpoint} failed: {reason or 'SageMaker gives no reason'}", remedy=_remedy(reason)
        )
        self.reason = reason


def wait_in_service(aws: Aws, endpoint: str, *, clock: Clock, report: Reporter) -> ResourceFound:
    """Wait until an endpoint answers requests. Raises EndpointFailed, or DeployError if it takes too long."""

    def settled(found: ResourceFound | None) -> bool:
        if found is None:
            raise DeployError(f"The endpoint {endpoint} was deleted while it started.", remedy="Run apply again.")
        if found.status in ("InService", "Failed", "OutOfService", "UpdateRollbackFailed"):
            return True
        if found.status == "Deleting":
            raise DeployError(f"The endpoint {endpoint} is being deleted by someone else.", remedy="Run apply again.")
        return False

    found = _poll(aws, endpoint, settled, f"starting {endpoint}", clock, report)
    if found is None or found.status != "InService":
        raise EndpointFailed(endpoint, found.reason if found else "")
    return found


def wait_gone(aws: Aws, endpoint: str, *, clock: Clock, report: Reporter) -> None:
    """Wait until an endpoint is deleted."""
    _poll(aws, endpoint, lambda found: found is None, f"deleting {endpoint}", clock, report)


def wait_not_busy(aws: Aws, endpoint: str, *, clock: Clock, report: Reporter) -> None:
    """Wait until SageMaker has finished what it is doing to an endpoint, with whatever result."""
    _poll(
        aws, endpoint, lambda found: found is None or found.status not in BUSY, f"waiting for {endpoint}", clock, report
    )


def wait_ended(aws: Aws, job: str, *, clock: Clock, report: Reporter) -> None:
    """Wait until a job that was told to stop has ended."""

    def ended(found: ResourceFound | None) -> bool:
        return found is None or found.status in ENDED

    _poll(aws, job, ended, f"stopping {job}", clock, report, look=describe_job)


def _poll(
    aws: Aws,
    name: str,
    done: Callable[[ResourceFound | None], bool],
    doing: str,
    clock: Clock,
    report: Reporter,
    look: Callable[[Aws, str], ResourceFound | None] = describe_endpoint,
) -> ResourceFound | None:
    what = "endpoint" if look is describe_endpoint else "training job"
    option = what.replace(" ", "-")
    started = clock.now()
    with report.task(doing, LIMIT_SECONDS / 60, "min at most") as task:
        while True:
            with aws_errors(f"looking at the {what} {name}"):
                found = look(aws, name)
            if done(found):
                return found
            waited = (clock.now() - started).total_seconds()
            if waited > LIMIT_SECONDS:
                raise DeployError(
                    f"The {what} {name} is still {found.status if found else 'there'} after {duration(waited)}.",
                    remedy=f"Run: aws sagemaker describe-{option} --{option}-name {name} --region {aws.region}",
                )
            clock.sleep(POLL_SECONDS)
            task.advance(POLL_SECONDS / 60, note=found.status if found else "")


def _remedy(reason: str) -> str | None:
    low = reason.lower()
    if "insufficient" in low and "capacity" in low:
        return "AWS has no such instance free in this region now. Try another --instance-type or --region."
    if "resourcelimit" in low or "limit exceeded" in low:
        return "Ask for a higher quota: embedfit doctor --aws prints the command."
    if "ping" in low or "health check" in low:
        return "The container did not come up: see its last log lines. The model folder or its size is the usual cause."
    if "ecr" in low or "image" in low:
        return "The role can't pull the image. Compare its rights with policies.execution of the plan."
    if "s3" in low or "model data" in low:
        return "The role can't read the model in S3. Compare its rights with policies.execution of the plan."
    return None
