"""The check of an account for deploying: every requirement, and the command for each that is missing."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

from embedfit.deploy import checks
from embedfit.deploy.account import images, policies
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.checks import AccountFinding
from embedfit.deploy.plan import default_bucket
from embedfit.errors import EmbedfitError, ProviderError, UsageError
from embedfit.llm.providers.bedrock import DEFAULT_FAMILY, resolve_model

_ROLE = "embedfit-endpoint"
#: The cheapest sensible CPU and GPU instance, for which most plans are made.
INSTANCE_TYPES = ("ml.c6i.2xlarge", "ml.g5.xlarge")


def diagnose(
    aws: Aws,
    *,
    role_arn: str | None = None,
    bucket: str | None = None,
    instance_types: tuple[str, ...] = INSTANCE_TYPES,
) -> tuple[AccountFinding, ...]:
    """Identity, rights, execution role, language model, bucket, image and quota of an account. Changes nothing.

    Without credentials that is the only finding. Raises DeployError if they have expired.
    """
    who, first = checks.identity(aws)
    if who is None:
        return (first,)
    where = bucket or default_bucket(aws.region, who.account)
    names = _names(aws.region, who.account, where, role_arn)
    found = [first, _caller_rights(aws, who.arn, policies.deployer_policy(names))]
    found += _role(aws, names, role_arn)
    found.append(checks.bucket(aws, where))
    found += _language_model(aws)
    for instance_type in instance_types:
        found.append(checks.image(aws, images.image_uri(aws.region, images.device_of(instance_type))))
        found.append(checks.quota(aws, instance_type, 1, 1))
    return tuple(found)


def _language_model(aws: Aws) -> list[AccountFinding]:
    """Whether the default language model of generating is there, and may be used."""
    try:
        resolved = resolve_model(aws.client("bedrock"), None)
    except UsageError as error:
        return [AccountFinding(check="Bedrock model", status="missing", detail=error.message, fix=error.remedy or "")]
    except ProviderError:
        return [checks.model_access(aws, DEFAULT_FAMILY[0])]  # its text names the call that was denied
    access = checks.model_access(aws, resolved.model)
    if access.status == "ok" and resolved.notice:
        access = replace(access, status="unknown", detail=resolved.notice)
    return [access]


def aws_findings(region: str | None = None) -> list[dict[str, str]]:
    """The findings in the form of embedfit.commands.doctor: what, state, found, fix."""
    try:
        found = diagnose(Aws.open(region))
    except EmbedfitError as error:
        fix = (error.remedy or "").removeprefix("Run: ")
        return [{"what": "AWS", "state": "missing", "found": error.message, "fix": fix}]
    states = {"ok": "ok", "missing": "missing", "unknown": "warning"}
    return [
        {"what": f"AWS {one.check}", "state": states[one.status], "found": one.detail, "fix": one.fix} for one in found
    ]


def _names(region: str, account: str, bucket: str, role_arn: str | None) -> policies.Names:
    """The names in policies for any deployment of embedfit."""
    partition = images.partition_of(region).name
    image = images.split_image_uri(images.image_uri(region, "cpu"))
    owner = image.account if image else "*"
    return policies.Names(
        partition=partition,
        region=region,
        account=account,
        deployment="embedfit-*",
        role_arn=role_arn or f"arn:{partition}:iam::{account}:role/{_ROLE}",
        bucket=bucket,
        prefix="embedfit/",
        repository=f"arn:{partition}:ecr:{region}:{owner}:repository/tei*",
        kms_key=None,
        vpc=False,
        uploads=True,
        creates_role=False,
        scales=True,
        log_group="/aws/sagemaker/Endpoints/embedfit-*",
    )


def _caller_rights(aws: Aws, arn: str, document: policies.Document) -> AccountFinding:
    principal = _principal(arn)
    if principal is None:
        return AccountFinding(check="rights", status="unknown", detail=f"the rights of {arn} can't be simulated")
    kind, name = principal.split(":", 5)[5].split("/", 1)
    name = name.rsplit("/", 1)[-1]
    fix = (
        f"aws iam put-{kind}-policy --{kind}-name {name} --policy-name embedfit-deploy "
        f"--policy-document {_quoted(document)}"
    )
    return checks.rights(aws, "rights", principal, document, fix)


def _principal(arn: str) -> str | None:
    """The user or role behind a caller's ARN, which IAM can simulate; None for the root user and others."""
    if re.match(r"^arn:[\w-]+:iam::\d+:(user|role)/", arn):
        return arn
    assumed = re.match(r"^arn:([\w-]+):sts::(\d+):assumed-role/([^/]+)/", arn)
    return f"arn:{assumed[1]}:iam::{assumed[2]}:role/{assumed[3]}" if assumed else None


def _role(aws: Aws, names: policies.Names, role_arn: str | None) -> list[AccountFinding]:
    """The execution role and its rights."""
    execution = policies.execution_policy(names)
    make = (
        f"aws iam create-role --role-name {_ROLE} "
        f"--assume-role-policy-document {_quoted(policies.trust_policy(names.account))} && {_allow(_ROLE, execution)}"
    )
    if role_arn is not None:
        found = checks.role(aws, role_arn)
        arn: str | None = role_arn if found.status == "ok" else None
    else:
        arn, found = checks.trusting_role(aws, make)
    if arn is None:
        return [found]
    fix = _allow(arn.rsplit("/", 1)[-1], execution)
    return [found, checks.rights(aws, "role's rights", arn, execution, fix)]


def _allow(role: str, document: policies.Document) -> str:
    return f"aws iam put-role-policy --role-name {role} --policy-name embedfit --policy-document {_quoted(document)}"


def _quoted(document: policies.Document) -> str:
    return shlex.quote(json.dumps(document, separators=(",", ":")))
