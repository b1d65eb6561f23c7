"""The plan of a deployment as plain data: the exact calls, the cost, the rights. Nothing here changes anything."""

from __future__ import annotations

import json
import shlex
import uuid
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path

from embedfit.deploy import checks
from embedfit.deploy.account import autoscaling, images, policies
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.prices import EndpointCost, PriceTable, cost_of
from embedfit.deploy.artefact import Artefact, ModelFile
from embedfit.deploy.checks import AccountFinding, CallerIdentity
from embedfit.deploy.options import MAX_BODY_BYTES, Options, slug
from embedfit.deploy.state import Kind, StateFile
from embedfit.errors import UsageError
from embedfit.network.aws import Parameters
from embedfit.path.workspace import sha256_json

#: Stands for an unknown name, for want of credentials or of a choice. apply refuses such a plan.
UNKNOWN_ACCOUNT = "<ACCOUNT>"
UNKNOWN_ROLE = "<ROLE_ARN>"
#: The beginning of every name that the user did not choose.
DEFAULT_PREFIX = "embedfit-"
#: Where, under its own prefix in S3, a deployment has its files: a model for an endpoint, inputs for a training job.
MODEL_FOLDER = "model/"
JOB_FOLDER = "inputs/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One API call, exactly as it is made: boto3.client(service).operation(**parameters)."""

    service: str
    operation: str
    parameters: Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The calls that make one resource."""

    kind: Kind
    name: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """IAM documents: the trust in the execution role, its rights, and the rights of the person who deploys."""

    trust: policies.Document
    execution: policies.Document
    deployer: policies.Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An endpoint or a job as data: the calls that make it. account, owner: None without credentials.

    model: its model or run folder, as destroy takes it.
    """

    name: str
    region: str
    account: str | None
    owner: str | None
    run: str
    attempt: str
    expires: str
    image: str
    instance_type: str
    model: str
    bucket: str | None
    prefix: str | None
    state_folder: Path
    tags: dict[str, str]
    steps: tuple[Step, ...]
    policies: Policies
    findings: tuple[AccountFinding, ...]
    notes: tuple[str, ...]

    @property
    def usd_per_instance_hour(self) -> float | None:
        """The price of an instance; None if it is not known."""
        return None

    @property
    def client_batch(self) -> int:
        """The most texts in a request to it."""
        return 0

    @property
    def job(self) -> str:
        """The name of its training job; empty for an endpoint."""
        return ""

    @property
    def blockers(self) -> tuple[AccountFinding, ...]:
        """The obstacles that keep apply from starting."""
        return tuple(finding for finding in self.findings if finding.status == "missing")

    def as_json(self) -> Parameters:
        """The plan as JSON values, without the fields that its repr() leaves out."""
        shown = {one.name: getattr(self, one.name) for one in fields(self) if one.repr}
        value: Parameters = json.loads(json.dumps({"schema": 1, **shown}, default=_plain))
        return value


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    return str(value)


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
        steps=_steps(target, documents),
        cost=cost_of(prices, options.instance_type, *options.instance_range, options.region),
        policies=documents,
        findings=(*findings, *_resource_findings(target, aws if who else None)),
        notes=(*artefact.notes, *_notes(options), *_others(artefact, target.name, now)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The data from which the steps are made."""

    options: Options
    artefact: Artefact
    name: str
    image: str
    role_arn: str
    bucket: str | None
    prefix: str | None
    expires: str
    tags: dict[str, str]

    @property
    def tag_list(self) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in sorted(self.tags.items())]


def _target(
    options: Options, artefact: Artefact, who: CallerIdentity | None, *, now: datetime, attempt: str
) -> _Target:
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
    return _Target(
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


def look(aws: Aws | None) -> tuple[CallerIdentity | None, tuple[AccountFinding, ...]]:
    """Who calls AWS, and the finding about it. aws: None if boto3 is not installed."""
    if aws is None:
        missing = AccountFinding(
            check="identity",
            status="missing",
            detail="boto3 is not installed, so nothing in the account could be checked",
            fix="pip install 'embedfit[aws]'",
        )
        return None, (missing,)
    who, finding = checks.identity(aws)
    return who, (finding,)


def _resource_findings(target: _Target, aws: Aws | None) -> tuple[AccountFinding, ...]:
    options = target.options
    if target.role_arn == UNKNOWN_ROLE:
        role = AccountFinding(
            check="role",
            status="missing",
            detail="no execution role was named",
            fix="Give --role ARN, or --create-role to have one made from policies.execution and policies.trust.",
        )
    elif options.create_role:
        role = AccountFinding(check="role", status="ok", detail=f"{target.name} will be made")
    elif aws is None:
        role = unchecked("role", target.role_arn)
    else:
        role = checks.role(aws, target.role_arn)
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


def unchecked(check: str, what: str) -> AccountFinding:
    """The finding about what only the account knows."""
    return AccountFinding(check=check, status="unknown", detail=f"{what}: could not be checked without credentials")


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


def default_bucket(region: str, account: str) -> str:
    """The bucket that SageMaker's own tools use."""
    return f"sagemaker-{region}-{account}"


def _environment(target: _Target) -> dict[str, str]:
    """The container's settings. A key set in this environment is never passed on: it would lock /invocations."""
    options = target.options
    values = {
        "HF_MODEL_ID": target.artefact.hub_id or "/opt/ml/model",
        "AUTO_TRUNCATE": "true",
        "MAX_CLIENT_BATCH_SIZE": str(options.client_batch),
        "PAYLOAD_LIMIT": str(MAX_BODY_BYTES),
    }
    if options.max_batch_tokens:
        values["MAX_BATCH_TOKENS"] = str(options.max_batch_tokens)
    return values


def _steps(target: _Target, documents: Policies) -> tuple[Step, ...]:
    steps = []
    if target.options.create_role:
        words = f"Execution role of the SageMaker endpoint {target.name}"
        steps.append(role_step(target.name, target.tag_list, documents, words))
    if target.artefact.files:
        steps.append(_artefact_step(target))
    steps += [_model_step(target), _config_step(target), _endpoint_step(target)]
    scaling = target.options.autoscaling
    if scaling is not None:
        resource = autoscaling.resource_id(target.name)
        register = Call(
            service="application-autoscaling",
            operation="register_scalable_target",
            parameters=autoscaling.target_parameters(target.name, scaling),
        )
        policy = Call(
            service="application-autoscaling",
            operation="put_scaling_policy",
            parameters=autoscaling.policy_parameters(target.name, scaling),
        )
        steps.append(Step(kind="scalable_target", name=resource, calls=(register,)))
        steps.append(Step(kind="scaling_policy", name=target.name, calls=(policy,)))
    return tuple(steps)


def role_step(name: str, tags: list[dict[str, str]], documents: Policies, words: str) -> Step:
    """The calls that make an execution role. words: its description."""
    create = Call(
        service="iam",
        operation="create_role",
        parameters={
            "RoleName": name,
            "Path": "/embedfit/",
            "AssumeRolePolicyDocument": json.dumps(documents.trust),
            "Description": words,
            "Tags": tags,
        },
    )
    allow = Call(
        service="iam",
        operation="put_role_policy",
        parameters={
            "RoleName": name,
            "PolicyName": "embedfit",
            "PolicyDocument": json.dumps(documents.execution),
        },
    )
    return Step(kind="role", name=name, calls=(create, allow))


def marker_key(name: str) -> str:
    """The object that names the owner of a deployment's files in S3. It is written before them."""
    return f"embedfit/{name}/artefact.json"


def _artefact_step(target: _Target) -> Step:
    options, bucket = target.options, target.bucket
    sse = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": options.kms_key} if options.kms_key else {}
    body = {
        "tags": target.tags,
        "sha256": target.artefact.sha256,
        "files": {file.key: file.size for file in target.artefact.files},
    }
    marker = marker_call(target.name, str(bucket), body, sse)
    uploads = [upload_call(file, str(bucket), str(target.prefix), sse) for file in target.artefact.files]
    return Step(kind="artefact", name=f"s3://{bucket}/embedfit/{target.name}/", calls=(marker, *uploads))


def marker_call(name: str, bucket: str, body: Parameters, encryption: dict[str, str]) -> Call:
    """The call that writes the object which says whose a deployment's files are, and which they are."""
    return Call(
        service="s3",
        operation="put_object",
        parameters={
            "Bucket": bucket,
            "Key": marker_key(name),
            "Body": json.dumps(body, sort_keys=True),
            "ContentType": "application/json",
            **encryption,
        },
    )


def upload_call(file: ModelFile, bucket: str, prefix: str, encryption: dict[str, str]) -> Call:
    """The call that uploads a file under a prefix."""
    return Call(
        service="s3",
        operation="upload_file",
        parameters={
            "Filename": str(file.path),
            "Bucket": bucket,
            "Key": f"{prefix}{file.key}",
            **({"ExtraArgs": dict(encryption)} if encryption else {}),
        },
    )


def _model_step(target: _Target) -> Step:
    options = target.options
    container: Parameters = {"Image": target.image, "Environment": _environment(target)}
    if target.bucket and target.prefix:
        container["ModelDataSource"] = {
            "S3DataSource": {
                "S3Uri": f"s3://{target.bucket}/{target.prefix}",
                "S3DataType": "S3Prefix",
                "CompressionType": "None",
            }
        }
    parameters: Parameters = {
        "ModelName": target.name,
        "PrimaryContainer": container,
        "ExecutionRoleArn": target.role_arn,
        "EnableNetworkIsolation": options.network_isolation,
        "Tags": target.tag_list,
    }
    if options.subnets:
        parameters["VpcConfig"] = {
            "Subnets": list(options.subnets),
            "SecurityGroupIds": list(options.security_groups),
        }
    call = Call(service="sagemaker", operation="create_model", parameters=parameters)
    return Step(kind="model", name=target.name, calls=(call,))


def _config_step(target: _Target) -> Step:
    options = target.options
    variant: Parameters = {
        "VariantName": autoscaling.VARIANT,
        "ModelName": target.name,
        "InstanceType": options.instance_type,
        "InitialInstanceCount": options.instance_count,
        "InitialVariantWeight": 1.0,
        "ContainerStartupHealthCheckTimeoutInSeconds": 900,
        # A request goes to the instance with the fewest open ones; by default it goes to any.
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }
    if options.inference_ami:
        variant["InferenceAmiVersion"] = options.inference_ami
    parameters: Parameters = {
        "EndpointConfigName": target.name,
        "ProductionVariants": [variant],
        "Tags": target.tag_list,
    }
    if options.volume_kms_key:
        parameters["KmsKeyId"] = options.volume_kms_key
    call = Call(service="sagemaker", operation="create_endpoint_config", parameters=parameters)
    return Step(kind="endpoint_config", name=target.name, calls=(call,))


def _endpoint_step(target: _Target) -> Step:
    call = Call(
        service="sagemaker",
        operation="create_endpoint",
        parameters={"EndpointName": target.name, "EndpointConfigName": target.name, "Tags": target.tag_list},
    )
    return Step(kind="endpoint", name=target.name, calls=(call,))


def _policies(target: _Target, account: str) -> Policies:
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
