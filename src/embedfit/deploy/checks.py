"""Checks of an account: each finds out, by reading only, whether one requirement is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embedfit.deploy.account.calls import Aws, explain
from embedfit.deploy.account.images import split_image_uri
from embedfit.deploy.account.policies import Document
from embedfit.errors import DeployError
from embedfit.network.aws import aws_exceptions, is_absent, is_denied, is_without_credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFinding:
    """The result of one check. status: "unknown" if the check could not be made. fix: a command, or None."""

    check: str
    status: Literal["ok", "missing", "unknown"]
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerIdentity:
    """The caller of AWS. account: 12 digits; arn: the user's or assumed role's."""

    account: str
    arn: str


def identity(aws: Aws) -> tuple[CallerIdentity | None, AccountFinding]:
    """The owner of the credentials; without credentials None, and a finding with the fix. Expired ones are an error."""
    try:
        reply = aws.client("sts").get_caller_identity()
    except aws_exceptions() as error:
        if is_without_credentials(error):
            return None, AccountFinding(
                check="identity", status="missing", detail="there are no AWS credentials", fix="aws configure sso"
            )
        raise explain(error, "asking who the credentials belong to") from error
    who = CallerIdentity(account=str(reply["Account"]), arn=str(reply["Arn"]))
    return who, AccountFinding(check="identity", status="ok", detail=f"{who.arn} in account {who.account}")


def trusting_role(aws: Aws, fix: str) -> tuple[str | None, AccountFinding]:
    """The first role that lets SageMaker use it, and the finding about it. fix: the command if there is none."""
    try:
        pages = aws.client("iam").get_paginator("list_roles").paginate()
        found = next(
            (
                one["Arn"]
                for page in pages
                for one in page["Roles"]
                if "/aws-service-role/" not in one["Arn"] and _trusts_sagemaker(one.get("AssumeRolePolicyDocument", {}))
            ),
            None,
        )
    except aws_exceptions() as error:
        return None, _unknown("role", error, "iam:ListRoles")
    if found is None:
        return None, AccountFinding(
            check="role", status="missing", detail="no role in the account lets SageMaker use it", fix=fix
        )
    return str(found), AccountFinding(check="role", status="ok", detail=found)


def role(aws: Aws, role_arn: str) -> AccountFinding:
    """Whether the execution role is there and lets SageMaker use it."""
    name = role_arn.rsplit("/", 1)[-1]
    try:
        found = aws.client("iam").get_role(RoleName=name)["Role"]
    except aws_exceptions() as error:
        if is_absent(error):
            return AccountFinding(
                check="role", status="missing", detail=f"there is no role {name}", fix=create_role_command(name)
            )
        return _unknown("role", error, "iam:GetRole")
    if found["Arn"] != role_arn:
        return AccountFinding(check="role", status="missing", detail=f"{name} is {found['Arn']}, not {role_arn}")
    if not _trusts_sagemaker(found.get("AssumeRolePolicyDocument", {})):
        return AccountFinding(
            check="role",
            status="missing",
            detail=f"{role_arn} does not let SageMaker use it",
            fix=f"aws iam update-assume-role-policy --role-name {name} --policy-document file://trust.json",
        )
    return AccountFinding(check="role", status="ok", detail=role_arn)


def create_role_command(name: str) -> str:
    """The commands that make a role of the plan's policies."""
    return (
        f"aws iam create-role --role-name {name} --assume-role-policy-document file://trust.json && "
        f"aws iam put-role-policy --role-name {name} --policy-name embedfit --policy-document file://execution.json"
    )


def _trusts_sagemaker(document: Document) -> bool:
    for statement in document.get("Statement", []):
        principals = statement.get("Principal", {})
        services = principals.get("Service", []) if isinstance(principals, dict) else []
        services = [services] if isinstance(services, str) else services
        if statement.get("Effect") == "Allow" and any(service.startswith("sagemaker.") for service in services):
            return True
    return False


def bucket(aws: Aws, name: str) -> AccountFinding:
    """Whether the bucket for the model is there, in this account's reach."""
    make = f"aws s3 mb s3://{name} --region {aws.region}"
    try:
        aws.client("s3").head_bucket(Bucket=name)
    except aws_exceptions() as error:
        if is_absent(error):
            return AccountFinding(check="bucket", status="missing", detail=f"there is no bucket {name}", fix=make)
        if is_denied(error):
            return AccountFinding(
                check="bucket",
                status="missing",
                detail=f"the bucket {name} belongs to someone else or may not be listed",
                fix="Give one of your own with --bucket.",
            )
        return _unknown("bucket", error, "s3:ListBucket")
    return AccountFinding(check="bucket", status="ok", detail=f"s3://{name}")


def image(aws: Aws, uri: str) -> AccountFinding:
    """Whether the container image can be read from its registry."""
    parts = split_image_uri(uri)
    if parts is None:
        return AccountFinding(
            check="image", status="unknown", detail=f"{uri} is not in ECR; only AWS can tell if it can pull it"
        )
    try:
        reply = aws.client("ecr").batch_get_image(
            registryId=parts.account, repositoryName=parts.repository, imageIds=[{"imageTag": parts.tag}]
        )
    except aws_exceptions() as error:
        if is_absent(error) or "RepositoryNotFound" in str(error):
            return AccountFinding(
                check="image", status="missing", detail=f"{uri} is not there", fix="Give another --image-uri."
            )
        return _unknown("image", error, "ecr:BatchGetImage")
    if reply.get("images"):
        return AccountFinding(check="image", status="ok", detail=uri)
    return AccountFinding(
        check="image", status="missing", detail=f"{uri} is not there", fix="Give another --image-uri."
    )


def quota(
    aws: Aws, instance_type: str, count: int = 1, most: int = 1, *, use: str = "endpoint usage"
) -> AccountFinding:
    """Whether the account may run that many instances. most: the most that autoscaling may add later.

    use: in the words of AWS's quotas: endpoint usage, training job usage, spot training job usage.
    """
    wanted = f"{instance_type} for {use}"
    try:
        pages = aws.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
        found = next((one for page in pages for one in page["Quotas"] if one["QuotaName"] == wanted), None)
    except aws_exceptions() as error:
        return _unknown("quota", error, "servicequotas:ListServiceQuotas")
    if found is None:
        return AccountFinding(check="quota", status="unknown", detail=f"AWS lists no quota {wanted!r} in {aws.region}")
    allowed = int(found["Value"])
    if count <= allowed < most:
        return AccountFinding(
            check="quota",
            status="unknown",
            detail=f"{allowed} × {wanted}: enough to start, not for autoscaling to {most}",
            fix=_raise_quota(aws, found["QuotaCode"], most),
        )
    if allowed >= count:
        return AccountFinding(check="quota", status="ok", detail=f"{allowed} × {wanted}")
    return AccountFinding(
        check="quota",
        status="missing",
        detail=f"{allowed} × {wanted}, and {count} needed",
        fix=_raise_quota(aws, found["QuotaCode"], most),
    )


def _raise_quota(aws: Aws, code: str, wanted: int) -> str:
    return (
        "aws service-quotas request-service-quota-increase --service-code sagemaker "
        f"--quota-code {code} --desired-value {wanted} --region {aws.region}"
    )


def rights(aws: Aws, check: str, principal: str, document: Document, fix: str) -> AccountFinding:
    """Whether a user or role has the rights of a policy document, by simulating them. fix: gives the rights."""
    lacking: list[str] = []
    try:
        for statement in document["Statement"]:
            pages = (
                aws.client("iam")
                .get_paginator("simulate_principal_policy")
                .paginate(
                    PolicySourceArn=principal, ActionNames=statement["Action"], ResourceArns=statement["Resource"]
                )
            )
            for page in pages:
                denied = (one for one in page["EvaluationResults"] if one["EvalDecision"] != "allowed")
                lacking += [one["EvalActionName"] for one in denied if one["EvalActionName"] not in lacking]
    except aws_exceptions() as error:
        return _unknown(check, error, "iam:SimulatePrincipalPolicy")
    if lacking:
        return AccountFinding(
            check=check, status="missing", detail=f"{principal} lacks {', '.join(sorted(lacking))}", fix=fix
        )
    return AccountFinding(check=check, status="ok", detail=f"{principal} has every right that is needed")


def model_access(aws: Aws, model_id: str) -> AccountFinding:
    """Whether Bedrock lets the account use a language model. model_id: without a region's prefix ("us.")."""
    check = f"Bedrock model {model_id}"
    try:
        reply = aws.client("bedrock").get_foundation_model_availability(modelId=model_id)
    except aws_exceptions() as error:
        if is_absent(error):
            return AccountFinding(
                check=check,
                status="missing",
                detail=f"Bedrock has no such model in {aws.region}",
                fix=f"aws bedrock list-foundation-models --region {aws.region}",
            )
        return _unknown(check, error, "bedrock:GetFoundationModelAvailability")
    if reply.get("regionAvailability") == "NOT_AVAILABLE":
        return AccountFinding(
            check=check,
            status="missing",
            detail=f"not available in {aws.region}",
            fix=f"aws bedrock list-foundation-models --region {aws.region}",
        )
    if reply.get("authorizationStatus") == "NOT_AUTHORIZED":
        return AccountFinding(
            check=check,
            status="missing",
            detail="the account may not use it",
            fix="Ask who manages the account's organisation: a policy of it denies the model.",
        )
    agreement = reply.get("agreementAvailability", {}).get("status")
    if agreement not in (None, "AVAILABLE") or reply.get("entitlementAvailability") == "NOT_AVAILABLE":
        offer = (
            f"$(aws bedrock list-foundation-model-agreement-offers --model-id {model_id} "
            f"--region {aws.region} --query 'offers[0].offerToken' --output text)"
        )
        return AccountFinding(
            check=check,
            status="missing",
            detail="its terms have not been accepted",
            fix=(
                f"aws bedrock create-foundation-model-agreement --model-id {model_id} "
                f'--region {aws.region} --offer-token "{offer}"'
            ),
        )
    return AccountFinding(check=check, status="ok", detail=f"available in {aws.region}")


def _unknown(check: str, error: Exception, right: str) -> AccountFinding:
    explained: DeployError = explain(error, f"checking the {check}")
    detail = f"it needs the right {right}" if is_denied(error) else explained.message
    return AccountFinding(check=check, status="unknown", detail=f"could not be checked: {detail}")
