"""Finding and deleting each kind of cloud resource."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from embedfit.deploy.account import autoscaling
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.found import ResourceFound, tags_of
from embedfit.deploy.account.redaction import redact
from embedfit.deploy.account.training import (
    ENDED,
    LOG_GROUP,
    delete_log,
    find_job,
    find_log,
    log_streams,
    running_jobs,
    stop_job,
)
from embedfit.deploy.plan import DEFAULT_PREFIX, JOB_FOLDER, MODEL_FOLDER, marker_key
from embedfit.deploy.state import KINDS, Kind, Resource
from embedfit.network.aws import Parameters, aws_exceptions, is_absent, is_denied

_T = TypeVar("_T")

#: Statuses of an endpoint in which SageMaker is at work on it.
BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack")


def log_group_of(endpoint: str) -> str:
    """The log group to which SageMaker writes the output of an endpoint's containers."""
    return f"/aws/sagemaker/Endpoints/{endpoint}"


# --- finding


def _tagged(aws: Aws, arn: str) -> ResourceFound:
    return ResourceFound(id=arn, tags=tags_of(aws, arn))


def _find_role(aws: Aws, name: str) -> ResourceFound | None:
    role = aws.client("iam").get_role(RoleName=name)["Role"]
    return ResourceFound(id=role["Arn"], tags={tag["Key"]: tag["Value"] for tag in role.get("Tags", [])})


def _find_artefact(aws: Aws, name: str) -> ResourceFound | None:
    """name: s3://bucket/embedfit/DEPLOYMENT/. settings: the marker's files and the files that are there, key → size."""
    bucket, prefix = _split(name)
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    there = {one["Key"]: int(one["Size"]) for page in pages for one in page.get("Contents", [])}
    if not there:
        return None
    marker: Parameters = {}
    key = marker_key(prefix.rstrip("/").rsplit("/", 1)[-1])
    if key in there:
        body = aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        try:
            marker = json.loads(body)
        except ValueError:
            marker = {}
    folder = marker.get("folder", MODEL_FOLDER)
    expected = {f"{prefix}{folder}{key}": size for key, size in marker.get("files", {}).items()}
    return ResourceFound(
        id=name,
        tags=dict(marker.get("tags", {})),
        settings={
            "sha256": marker.get("sha256"),
            "complete": bool(expected) and all(there.get(key) == size for key, size in expected.items()),
        },
    )


def _find_endpoint(aws: Aws, name: str) -> ResourceFound | None:
    found = describe_endpoint(aws, name)
    return None if found is None else replace(found, tags=tags_of(aws, found.id))


def describe_endpoint(aws: Aws, name: str) -> ResourceFound | None:
    """An endpoint without its tags: one call, for waiting. settings: creation time, instances."""
    try:
        reply = aws.client("sagemaker").describe_endpoint(EndpointName=name)
    except aws_exceptions() as error:
        if is_absent(error):
            return None
        raise
    variant: Parameters = next(iter(reply.get("ProductionVariants") or []), {})
    return ResourceFound(
        id=reply["EndpointArn"],
        status=reply["EndpointStatus"],
        reason=reply.get("FailureReason", ""),
        settings={
            "created": reply.get("CreationTime"),
            "instances": variant.get("CurrentInstanceCount"),
            "desired": variant.get("DesiredInstanceCount"),
        },
    )


def _find_log_group(aws: Aws, name: str) -> ResourceFound | None:
    reply = aws.client("logs").describe_log_groups(logGroupNamePrefix=name)
    found = next((one for one in reply["logGroups"] if one["logGroupName"] == name), None)
    return ResourceFound(id=found.get("arn", name)) if found else None


def _find_scalable_target(aws: Aws, name: str) -> ResourceFound | None:
    reply = aws.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace=autoscaling.NAMESPACE, ResourceIds=[name], ScalableDimension=autoscaling.DIMENSION
    )
    target = next(iter(reply["ScalableTargets"]), None)
    if target is None:
        return None
    limits = {key: target[key] for key in ("MinCapacity", "MaxCapacity")}
    return ResourceFound(id=target.get("ScalableTargetARN", name), settings=limits)


def _find_scaling_policy(aws: Aws, name: str) -> ResourceFound | None:
    reply = aws.client("application-autoscaling").describe_scaling_policies(
        ServiceNamespace=autoscaling.NAMESPACE,
        ResourceId=autoscaling.resource_id(name),
        ScalableDimension=autoscaling.DIMENSION,
    )
    policy = next((one for one in reply["ScalingPolicies"] if one["PolicyName"] == name), None)
    if policy is None:
        return None
    return ResourceFound(id=policy["PolicyARN"], settings=policy.get("TargetTrackingScalingPolicyConfiguration", {}))


# --- deleting


def _delete_role(aws: Aws, name: str) -> None:
    iam = aws.client("iam")
    try:
        iam.delete_role_policy(RoleName=name, PolicyName="embedfit")
    except aws_exceptions() as error:
        if not is_absent(error):
            raise
    iam.delete_role(RoleName=name)


def _delete_artefact(aws: Aws, name: str) -> None:
    """Every version of every object, and parts of uploads that a killed process left: all of them cost money."""
    bucket, prefix = _split(name)
    s3 = aws.client("s3")
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        for upload in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    marker = marker_key(prefix.rstrip("/").rsplit("/", 1)[-1])
    versions = [
        {"Key": one["Key"], "VersionId": one["VersionId"]}
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
        for one in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
    ]
    # The marker goes last, because it tells whose the remaining files are.
    versions.sort(key=lambda one: one["Key"] == marker)
    for start in range(0, len(versions), 1000):
        batch = versions[start : start + 1000]
        reply = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for failure in reply.get("Errors", [])[:1]:
            raise _s3_error(failure)


def _s3_error(failure: Parameters) -> Exception:
    from botocore.exceptions import ClientError  # boto3 is an optional package

    error: Exception = ClientError(  # type: ignore[no-untyped-call]
        {"Error": {"Code": failure.get("Code"), "Message": failure.get("Message")}}, "DeleteObjects"
    )
    return error


_SCALED = {"ServiceNamespace": autoscaling.NAMESPACE, "ScalableDimension": autoscaling.DIMENSION}
_SCALING = f"--service-namespace {autoscaling.NAMESPACE} --scalable-dimension {autoscaling.DIMENSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResourceKind:
    """The functions on one kind of resource, by its name.

    find, delete: raise boto3's error for a resource that is not there. command: the command by which a person deletes
    it.
    """

    find: Callable[[Aws, str], ResourceFound | None]
    delete: Callable[[Aws, str], object]
    command: Callable[[str], str]


_RESOURCES: dict[Kind, _ResourceKind] = {
    "role": _ResourceKind(
        find=_find_role,
        delete=_delete_role,
        command=lambda name: (
            f"aws iam delete-role-policy --role-name {name} --policy-name embedfit && "
            f"aws iam delete-role --role-name {name}"
        ),
    ),
    "artefact": _ResourceKind(
        find=_find_artefact, delete=_delete_artefact, command=lambda name: f"aws s3 rm --recursive {name}"
    ),
    "model": _ResourceKind(
        find=lambda aws, name: _tagged(aws, aws.client("sagemaker").describe_model(ModelName=name)["ModelArn"]),
        delete=lambda aws, name: aws.client("sagemaker").delete_model(ModelName=name),
        command=lambda name: f"aws sagemaker delete-model --model-name {name}",
    ),
    "endpoint_config": _ResourceKind(
        find=lambda aws, name: _tagged(
            aws, aws.client("sagemaker").describe_endpoint_config(EndpointConfigName=name)["EndpointConfigArn"]
        ),
        delete=lambda aws, name: aws.client("sagemaker").delete_endpoint_config(EndpointConfigName=name),
        command=lambda name: f"aws sagemaker delete-endpoint-config --endpoint-config-name {name}",
    ),
    "endpoint": _ResourceKind(
        find=_find_endpoint,
        delete=lambda aws, name: aws.client("sagemaker").delete_endpoint(EndpointName=name),
        command=lambda name: f"aws sagemaker delete-endpoint --endpoint-name {name}",
    ),
    "training_job": _ResourceKind(
        find=find_job,
        delete=stop_job,
        command=lambda name: f"aws sagemaker stop-training-job --training-job-name {name}",
    ),
    "job_log": _ResourceKind(
        find=find_log,
        delete=delete_log,
        command=lambda name: (
            f"aws logs describe-log-streams --log-group-name {LOG_GROUP} --log-stream-name-prefix {name}/ "
            "(then aws logs delete-log-stream for each)"
        ),
    ),
    "log_group": _ResourceKind(
        find=_find_log_group,
        delete=lambda aws, name: aws.client("logs").delete_log_group(logGroupName=name),
        command=lambda name: f"aws logs delete-log-group --log-group-name {name}",
    ),
    "scalable_target": _ResourceKind(
        find=_find_scalable_target,
        delete=lambda aws, name: aws.client("application-autoscaling").deregister_scalable_target(
            ResourceId=name, **_SCALED
        ),
        command=lambda name: f"aws application-autoscaling deregister-scalable-target --resource-id {name} {_SCALING}",
    ),
    "scaling_policy": _ResourceKind(
        find=_find_scaling_policy,
        delete=lambda aws, name: aws.client("application-autoscaling").delete_scaling_policy(
            PolicyName=name, ResourceId=autoscaling.resource_id(name), **_SCALED
        ),
        command=lambda name: (
            f"aws application-autoscaling delete-scaling-policy --policy-name {name} "
            f"--resource-id {autoscaling.resource_id(name)} {_SCALING}"
        ),
    ),
}


def find(aws: Aws, kind: Kind, name: str) -> ResourceFound | None:
    """The resource of that kind and name, or None."""
    try:
        return _RESOURCES[kind].find(aws, name)
    except aws_exceptions() as error:
        if is_absent(error):
            return None
        raise


def is_left(aws: Aws, kind: Kind, name: str) -> bool:
    """Whether a resource is there and may cost money. The record of a job that has ended costs none."""
    found = find(aws, kind, name)
    return found is not None and not (kind == "training_job" and found.status in ENDED)


def delete(aws: Aws, kind: Kind, name: str) -> None:
    """Delete a resource; a job is stopped. One that is gone already is no error."""
    try:
        _RESOURCES[kind].delete(aws, name)
    except aws_exceptions() as error:
        if not is_absent(error):
            raise


def manual_command(resource: Resource, region: str) -> str:
    """The command by which a person deletes a resource."""
    return f"{_RESOURCES[resource.kind].command(resource.name)} --region {region}"


# --- discovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """One deployment as the tags in an account describe it."""

    name: str
    tags: dict[str, str]
    resources: tuple[Resource, ...]


def discover(
    aws: Aws, *, buckets: tuple[str, ...] = (), name: str | None = None, warn: Callable[[str], None]
) -> tuple[Discovered, ...]:
    """Every deployment of embedfit in the region, by its tags, or those of one name.

    buckets: searched for uploaded models, besides the buckets that the models' own tags name. warn: gets a message for
    each source that it had no right to read.
    """
    found: dict[str, list[tuple[Resource, dict[str, str]]]] = {}
    # Without a name, not to be allowed to list endpoints means to find nothing: that is an error, not a warning.
    listed = _sagemaker_resources(aws, name)
    sources = [_readable(listed, warn) if name else listed, _readable(_roles(aws, name), warn)]
    sources.append(_readable(_jobs(aws, name), warn))
    sources += [_readable(_artefacts(aws, bucket, name), warn) for bucket in buckets]
    for source in sources:
        for resource, tags in source:
            deployment = tags.get("embedfit:deployment", "")
            if deployment and name in (None, deployment):
                found.setdefault(deployment, []).append((resource, tags))
    for deployment, resource in _readable(_untagged(aws, name, frozenset(found)), warn):
        found.setdefault(deployment, []).append((resource, {}))
    return tuple(_gathered(aws, deployment, parts) for deployment, parts in sorted(found.items()))


def _gathered(aws: Aws, name: str, parts: list[tuple[Resource, dict[str, str]]]) -> Discovered:
    # The endpoint's own tags count most: a changed time to live is written there.
    tags: dict[str, str] = {}
    for _, own in sorted(parts, key=lambda part: part[0].kind == "endpoint"):
        tags.update(own)
    resources = {(resource.kind, resource.name): resource for resource, _ in parts}
    location = tags.get("embedfit:artefact", "")
    if location and not any(kind == "artefact" for kind, _ in resources):
        prefix = location.removesuffix(MODEL_FOLDER).removesuffix(JOB_FOLDER)
        if find(aws, "artefact", prefix) is not None:
            resources["artefact", prefix] = Resource(kind="artefact", name=prefix, id=prefix, status="adopted")
    ordered = sorted(resources.values(), key=lambda one: KINDS.index(one.kind))
    return Discovered(name=name, tags=tags, resources=tuple(ordered))


def _readable(source: Iterator[_T], warn: Callable[[str], None]) -> Iterator[_T]:
    """The items of a source, up to the first for which a right is missing."""
    try:
        yield from source
    except aws_exceptions() as error:
        if not is_denied(error):
            raise
        warn(f"Not everything could be looked at: {redact(str(error))}")


def _sagemaker_resources(aws: Aws, name: str | None) -> Iterator[tuple[Resource, dict[str, str]]]:
    listed: tuple[tuple[Kind, str, str, str, str], ...] = (
        ("endpoint", "list_endpoints", "Endpoints", "EndpointName", "EndpointArn"),
        ("endpoint_config", "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", "EndpointConfigArn"),
        ("model", "list_models", "Models", "ModelName", "ModelArn"),
    )
    only = {"NameContains": name} if name else {}
    for kind, operation, key, name_key, arn_key in listed:
        for page in aws.client("sagemaker").get_paginator(operation).paginate(**only):
            for one in page[key]:
                if name in (None, one[name_key]):
                    resource = Resource(kind=kind, name=one[name_key], id=one[arn_key], status="adopted")
                    yield resource, _tags_if_there(aws, one[arn_key])


def _deployment_of_job(job: str) -> str:
    return job.rpartition("-")[0]


def _jobs(aws: Aws, name: str | None) -> Iterator[tuple[Resource, dict[str, str]]]:
    """Jobs that run now."""
    for job, arn in running_jobs(aws, f"{name}-" if name else DEFAULT_PREFIX):
        if name in (None, _deployment_of_job(job)):
            tags = _tags_if_there(aws, arn)
            yield Resource(kind="training_job", name=job, id=arn, status="adopted"), tags


def _tags_if_there(aws: Aws, arn: str) -> dict[str, str]:
    try:
        return tags_of(aws, arn)
    except aws_exceptions() as error:
        if is_absent(error):  # deleted since it was listed
            return {}
        raise


def _roles(aws: Aws, name: str | None) -> Iterator[tuple[Resource, dict[str, str]]]:
    for page in aws.client("iam").get_paginator("list_roles").paginate(PathPrefix="/embedfit/"):
        for one in page["Roles"]:
            found = find(aws, "role", one["RoleName"]) if name in (None, one["RoleName"]) else None
            if found is not None:
                yield Resource(kind="role", name=one["RoleName"], id=found.id, status="adopted"), found.tags


def _artefacts(aws: Aws, bucket: str, name: str | None) -> Iterator[tuple[Resource, dict[str, str]]]:
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="embedfit/", Delimiter="/")
    try:
        prefixes = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])]
    except aws_exceptions() as error:
        if is_absent(error):
            return
        raise
    for prefix in prefixes:
        if name in (None, prefix.split("/")[1]):
            uri = f"s3://{bucket}/{prefix}"
            found = find(aws, "artefact", uri)
            if found is not None:
                yield Resource(kind="artefact", name=uri, id=uri, status="adopted"), found.tags


def _untagged(aws: Aws, name: str | None, tagged: frozenset[str]) -> Iterator[tuple[str, Resource]]:
    """Scaling and logs, whose tags can't be listed, found by the name of the endpoint that they belong to.

    Without a tagged resource of that name they count as ours only if the name is one that embedfit gives and the
    endpoint is gone.
    """
    client = aws.client("application-autoscaling")
    pages = client.get_paginator("describe_scalable_targets").paginate(
        ServiceNamespace=autoscaling.NAMESPACE, ScalableDimension=autoscaling.DIMENSION
    )
    targets = [target["ResourceId"] for page in pages for target in page["ScalableTargets"]]
    groups = aws.client("logs").get_paginator("describe_log_groups").paginate(logGroupNamePrefix=log_group_of(""))
    logs = [group["logGroupName"] for page in groups for group in page["logGroups"]]
    ours: dict[str, bool] = {}

    def is_ours(endpoint: str) -> bool:
        if endpoint not in ours:
            ours[endpoint] = name in (None, endpoint) and (
                endpoint in tagged or (endpoint.startswith(DEFAULT_PREFIX) and describe_endpoint(aws, endpoint) is None)
            )
        return ours[endpoint]

    for target in targets:
        endpoint = target.split("/")[1]
        if is_ours(endpoint):
            yield endpoint, Resource(kind="scalable_target", name=target, status="adopted")
            if find(aws, "scaling_policy", endpoint) is not None:
                yield endpoint, Resource(kind="scaling_policy", name=endpoint, status="adopted")
    for group in logs:
        endpoint = group.rsplit("/", 1)[-1]
        if is_ours(endpoint):
            yield endpoint, Resource(kind="log_group", name=group, status="adopted")
    for job in sorted({stream.split("/")[0] for stream in log_streams(aws, name or DEFAULT_PREFIX)}):
        if (deployment := _deployment_of_job(job)) in tagged or deployment == name:
            yield deployment, Resource(kind="job_log", name=job, status="adopted")


def _split(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix
