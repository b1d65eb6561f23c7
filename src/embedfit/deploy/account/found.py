"""A resource as AWS describes it, with its tags."""

from __future__ import annotations

from dataclasses import dataclass, field

from embedfit.deploy.account.calls import Aws
from embedfit.network.aws import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceFound:
    """A resource that is there. tags: empty if its kind has none. status, reason: an endpoint's or a job's."""

    id: str
    tags: dict[str, str] = field(default_factory=dict)
    status: str = ""
    reason: str = ""
    settings: Parameters = field(default_factory=dict)


def tags_of(aws: Aws, arn: str) -> dict[str, str]:
    """The tags of a resource of SageMaker."""
    pages = aws.client("sagemaker").get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
