"""The status of deployments: the resources that are up, their cost, and their time to live."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from embedfit.deploy.account import sagemaker
from embedfit.deploy.account.calls import Aws, Clock, aws_errors
from embedfit.deploy.account.training import ENDED, describe_job
from embedfit.deploy.destroy import is_over
from embedfit.deploy.state import Deployment, StateFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStatus:
    """A recorded resource. there: whether AWS has it now."""

    kind: str
    name: str
    recorded: str
    there: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """A recorded deployment as it is now.

    endpoint: SageMaker's word for its status, or its job's; "gone" if it is. usd_so_far: since the endpoint was made,
    at its present number of instances; None if the price is not known. up_hours: the endpoint's.
    """

    name: str
    region: str
    endpoint: str
    instances: int
    instance_type: str
    up_hours: float
    usd_per_hour: float | None
    usd_so_far: float | None
    expires: str
    expired: bool
    resources: tuple[ResourceStatus, ...]


def status(
    aws: Aws, state_folder: Path, *, name: str | None = None, clock: Clock | None = None
) -> tuple[DeploymentStatus, ...]:
    """The deployments of a state file, looked up in AWS. Changes nothing."""
    clock = clock or Clock()
    if not state_folder.is_dir():
        return ()
    recorded = StateFile(state_folder, clock.now).read().deployments
    return tuple(_status(aws.at(one.region), one, clock.now()) for one in recorded if name in (None, one.name))


def _status(aws: Aws, deployment: Deployment, now: datetime) -> DeploymentStatus:
    with aws_errors(f"looking at {deployment.name}"):
        endpoint = describe_job(aws, deployment.job) if deployment.job else None
        endpoint = endpoint or sagemaker.describe_endpoint(aws, deployment.name)
        resources = tuple(
            ResourceStatus(
                kind=one.kind,
                name=one.name,
                recorded=one.status,
                there=sagemaker.is_left(aws, one.kind, one.name),
            )
            for one in deployment.resources
            if one.kind not in ("log_group", "job_log")  # it is there only after the container has printed something
        )
    created = endpoint.settings.get("created") if endpoint else None
    hours = max((now - created).total_seconds() / 3600, 0.0) if created else 0.0
    instances = int(endpoint.settings.get("instances") or 1) if endpoint and endpoint.status not in ENDED else 0
    price = deployment.usd_per_instance_hour
    return DeploymentStatus(
        name=deployment.name,
        region=deployment.region,
        endpoint=endpoint.status if endpoint else "gone",
        instances=instances,
        instance_type=deployment.instance_type,
        up_hours=round(hours, 2),
        usd_per_hour=None if price is None else round(price * instances, 4),
        usd_so_far=None if price is None else round(price * instances * hours, 2),
        expires=deployment.expires,
        expired=is_over(deployment.expires, now),
        resources=resources,
    )
