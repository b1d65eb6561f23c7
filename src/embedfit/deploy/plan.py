"""A plan as plain data: the exact calls, the cost, the rights; the parts that endpoints and jobs share.

Nothing here changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from embedfit.deploy import checks
from embedfit.deploy.account import policies
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.artefact import ModelFile
from embedfit.deploy.checks import AccountFinding, CallerIdentity
from embedfit.deploy.state import Kind
from embedfit.network.aws import Parameters

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


def unchecked(check: str, what: str) -> AccountFinding:
    """The finding about what only the account knows."""
    return AccountFinding(check=check, status="unknown", detail=f"{what}: could not be checked without credentials")


def role_finding(name: str, arn: str, aws: Aws | None, *, made: bool, unnamed: str) -> AccountFinding:
    """The finding about a role. made: whether apply makes it. unnamed: the words for a role that nobody named."""
    if arn == UNKNOWN_ROLE:
        fix = "Give --role ARN, or --create-role to have one made from policies.execution and policies.trust."
        return AccountFinding(check="role", status="missing", detail=unnamed, fix=fix)
    if made:
        return AccountFinding(check="role", status="ok", detail=f"{name} will be made")
    return unchecked("role", arn) if aws is None else checks.role(aws, arn)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as AWS takes them."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def network_of(subnets: Sequence[str], security_groups: Sequence[str]) -> Parameters:
    """The parameter that puts a model or a job into a network; none without subnets."""
    if not subnets:
        return {}
    return {"VpcConfig": {"Subnets": list(subnets), "SecurityGroupIds": list(security_groups)}}


def default_bucket(region: str, account: str) -> str:
    """The bucket that SageMaker's own tools use."""
    return f"sagemaker-{region}-{account}"


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
