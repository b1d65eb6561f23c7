"""The plan of an endpoint, from the options, the model and a look at the account."""

from __future__ import annotations

import shlex
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from embedfit.deploy import checks
from embedfit.deploy.account import images, policies
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.prices import EndpointCost, PriceTable, cost_of
from embedfit.deploy.artefact import Artefact
from embedfit.deploy.checks import AccountFinding, CallerIdentity
from embedfit.deploy.endpoint.steps import Target, steps
from embedfit.deploy.options import Options, slug
from embedfit.deploy.plan import (
    DEFAULT_PREFIX,
    MODEL_FOLDER,
    UNKNOWN_ACCOUNT,
    UNKNOWN_ROLE,
    Plan,
    Policies,
    default_bucket,
    look,
    role_finding,
    unchecked,
)
from embedfit.deploy.state import StateFile
from embedfit.errors import UsageError
from embedfit.path.workspace import sha256_json


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployPlan(Plan):
    """The plan of an endpoint."""

    max_client_batch: int
    cost: EndpointCost

    @property
    def usd_per_instance_hour(self) -> float | None:
        """The price of an instance; None if it is not known."""
        return self.cost.instance_usd_per_hour

    @property
    def client_batch(self) -> int:
        """The most texts in a request to it."""
        return self.max_client_batch


def make_plan(
    options: Options,
    artefact: Artefact,
    *,
    aws: Aws | None,
    prices: PriceTable,
    now: datetime,
    attempt: str | None = None,
) -> DeployPlan:
    """The plan of a deployment.

    aws: None if boto3 is not installed; the account is only read. attempt: a unique id by which this apply tells its
    own resources from those of another apply at the same time.
    """
    if artefact.hub_id and options.network_isolation:
        raise UsageError(
            "With network isolation the container can't download a model from the hub.",
            remedy=f"Download {artefact.hub_id} and deploy its folder, or leave --network-isolation out.",
        )
    who, findings = look(aws)
    account = who.account if who else UNKNOWN_ACCOUNT
    target = _target(options, artefact, who, now=now, attempt=attempt or uuid.uuid4().hex)
    documents = _policies(target, account)
    return DeployPlan(
        name=target.name,
        region=options.region,
        account=who.account if who else None,
        owner=who.arn if who else None,
        run=target.tags["embedfit:run"],
        attempt=target.tags["embedfit:attempt"],
        expires=target.expires,
        image=target.image,
        instance_type=options.instance_type,
        max_client_batch=options.client_batch,
        model=str(artefact.folder or artefact.s3_uri or artefact.hub_id),
        bucket=target.bucket,
        prefix=target.prefix,
        state_folder=artefact.state_folder,
        tags=target.tags,
        steps=steps(target, documents),
        cost=cost_of(prices, options.instance_type, *options.instance_range, options.region),
        policies=documents,
        findings=(*findings, *_resource_findings(target, aws if who else None)),
        notes=(*artefact.notes, *_notes(options), *_others(artefact, target.name, now)),
    )


def _target(options: Options, artefact: Artefact, who: CallerIdentity | None, *, now: datetime, attempt: str) -> Target:
    account = who.account if who else UNKNOWN_ACCOUNT
    image = options.image_uri or images.image_uri(options.region, images.device_of(options.instance_type))
    if artefact.has_dense:
        images.check_dense(image)
    name = options.name or _default_name(options, artefact, image)
    bucket, prefix = _location(options, artefact, account, name)
    expires = ""
    if options.ttl_seconds:
        expires = (now + timedelta(seconds=options.ttl_seconds)).isoformat(timespec="seconds")
    tags = {
        **options.tags,
        "embedfit:project": options.project,
        "embedfit:run": slug(options.run or artefact.run, 40),
        "embedfit:owner": (who.arn if who else UNKNOWN_ACCOUNT)[:256],
        "embedfit:ttl": expires or "none",
        "embedfit:deployment": name,
        "embedfit:attempt": attempt,
        "embedfit:hash": _hash(options, artefact, image),
    }
    if artefact.files:
        tags["embedfit:artefact"] = f"s3://{bucket}/{prefix}"[:256]
    return Target(
        options=options,
        artefact=artefact,
        name=name,
        image=image,
        role_arn=_role_arn(options, account, name),
        bucket=bucket,
        prefix=prefix,
        expires=expires,
        tags=tags,
    )


def _others(artefact: Artefact, name: str, now: datetime) -> tuple[str, ...]:
    """Notes on endpoints of the same run that are recorded under other names, and still cost money."""
    recorded = StateFile(artefact.state_folder, lambda: now).read().deployments
    model = shlex.quote(str(artefact.folder or artefact.s3_uri or artefact.hub_id))
    return tuple(
        f"{one.name} on {one.instance_type} is recorded for this run and stays as it is; this plan makes a second "
        f"endpoint. When your callers use the new one: "
        f"embedfit deploy sagemaker destroy {model} --name {one.name} --region {one.region}"
        for one in recorded
        if one.name != name and any(resource.kind == "endpoint" for resource in one.resources)
    )


def _resource_findings(target: Target, aws: Aws | None) -> tuple[AccountFinding, ...]:
    options = target.options
    role = role_finding(
        target.name, target.role_arn, aws, made=options.create_role, unnamed="no execution role was named"
    )
    uploads = bool(target.artefact.files)
    if aws is None:
        parts = [("bucket", f"s3://{target.bucket}")] if uploads else []
        parts.append(("quota", f"{options.instance_range[1]} × {options.instance_type}"))
        return (role, *(unchecked(check, what) for check, what in parts))
    found = [role]
    if uploads and target.bucket:
        found.append(checks.bucket(aws, target.bucket))
    found.append(checks.quota(aws, options.instance_type, options.instance_count, options.instance_range[1]))
    return tuple(found)


def _hash(options: Options, artefact: Artefact, image: str) -> str:
    """The hash of an endpoint's parts: equal hash, equal endpoint. Scaling, time to live and tags may change."""
    return sha256_json(
        {
            "artefact": artefact.sha256,
            "image": image,
            "instance": [options.instance_type, options.instance_count, options.inference_ami],
            "network": [sorted(options.subnets), sorted(options.security_groups), options.network_isolation],
            "kms": options.kms_key,
            "role": options.role_arn,
            "batch": [options.client_batch, options.max_batch_tokens],
        }
    )[:12]


def _default_name(options: Options, artefact: Artefact, image: str) -> str:
    run = slug(options.run or artefact.run, 40)
    return f"{DEFAULT_PREFIX}{run}-{_hash(options, artefact, image)[:8]}"


def _role_arn(options: Options, account: str, name: str) -> str:
    if options.role_arn:
        return options.role_arn
    if options.create_role:
        return f"arn:{images.partition_of(options.region).name}:iam::{account}:role/embedfit/{name}"
    return UNKNOWN_ROLE


def _location(options: Options, artefact: Artefact, account: str, name: str) -> tuple[str | None, str | None]:
    """Bucket and prefix (with a slash at its end) of the model in S3, or None for a hub model."""
    if artefact.hub_id:
        return None, None
    if artefact.s3_uri:
        bucket, _, prefix = artefact.s3_uri.removeprefix("s3://").partition("/")
        return bucket, prefix
    return options.bucket or default_bucket(options.region, account), f"embedfit/{name}/{MODEL_FOLDER}"


def _policies(target: Target, account: str) -> Policies:
    options = target.options
    known = account if account != UNKNOWN_ACCOUNT else "*"
    partition = images.partition_of(options.region).name
    image = images.split_image_uri(target.image)
    names = policies.Names(
        partition=partition,
        region=options.region,
        account=known,
        deployment=target.name,
        role_arn=target.role_arn.replace(UNKNOWN_ROLE, f"arn:{partition}:iam::{known}:role/*").replace(
            UNKNOWN_ACCOUNT, "*"
        ),
        bucket=target.bucket.replace(UNKNOWN_ACCOUNT, "*") if target.bucket else None,
        prefix=target.prefix,
        repository=f"arn:{partition}:ecr:{image.region}:{image.account}:repository/{image.repository}"
        if image
        else None,
        kms_key=options.kms_key,
        vpc=bool(options.subnets),
        uploads=bool(target.artefact.files),
        creates_role=options.create_role,
        scales=options.autoscaling is not None,
        log_group=f"/aws/sagemaker/Endpoints/{target.name}",
    )
    return Policies(
        trust=policies.trust_policy(known),
        execution=policies.execution_policy(names),
        deployer=policies.deployer_policy(names),
    )


def _notes(options: Options) -> tuple[str, ...]:
    notes = []
    if options.kms_key and options.volume_kms_key is None:
        notes.append(
            f"{options.instance_type} keeps data on a local disk that its hardware encrypts; SageMaker refuses a key "
            "for it, so the KMS key is used for S3 only."
        )
    if options.ttl_seconds is None:
        notes.append("The endpoint costs money until it is destroyed; --ttl 8h lets `sweep` delete it after 8 hours.")
    if options.instance_range[0] == 1:
        notes.append("One instance is one availability zone: give --instance-count 2 where an outage must not show.")
    return tuple(notes)
