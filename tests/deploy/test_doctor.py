from __future__ import annotations

import json
import shlex

import boto3
import pytest

from embedfit.deploy.account.calls import Aws
from embedfit.deploy.doctor import aws_findings, diagnose
from embedfit.errors import DeployError
from tests.deploy.fake_account import BUCKET, ROLE, TRUST

AVAILABLE = {
    "modelId": "meta.llama3-3-70b-instruct-v1:0",
    "agreementAvailability": {"status": "AVAILABLE"},
    "authorizationStatus": "AUTHORIZED",
    "entitlementAvailability": "AVAILABLE",
    "regionAvailability": "AVAILABLE",
}
MODEL = "Bedrock model meta.llama3-3-70b-instruct-v1:0"


def language_model(version: str, **more):
    return {
        "modelId": f"meta.llama3-{version}70b-instruct-v1:0", "modelArn": f"arn:aws:bedrock:us-east-1::m/{version}",
        "inferenceTypesSupported": ["ON_DEMAND"], "modelLifecycle": {"status": "ACTIVE"}, **more,
    }  # fmt: skip


@pytest.fixture
def complete(account):
    """An account in which nothing is missing: what moto does not know is canned."""
    quotas = [
        {"QuotaName": f"{name} for endpoint usage", "QuotaCode": f"L-{name}", "Value": 2.0}
        for name in ("ml.c6i.2xlarge", "ml.g5.xlarge")
    ]
    account.faults.canned.update(
        {
            "sts.GetCallerIdentity": {"Account": "123456789012", "Arn": "arn:aws:iam::123456789012:user/me"},
            "service-quotas.ListServiceQuotas": {"Quotas": quotas},
            "ecr.BatchGetImage": {"images": [{"imageId": {"imageTag": "x"}}], "failures": []},
            "bedrock.ListFoundationModels": {"modelSummaries": [language_model("3-")]},
            "bedrock.ListInferenceProfiles": {"inferenceProfileSummaries": []},
            "bedrock.GetFoundationModelAvailability": AVAILABLE,
            "iam.SimulatePrincipalPolicy": {"EvaluationResults": [], "IsTruncated": False},
        }
    )
    return account


def found(account, **arguments):
    return {finding.check: finding for finding in diagnose(account.aws(), **arguments)}


def test_a_complete_account(complete):
    findings = diagnose(complete.aws())
    assert {finding.status for finding in findings} == {"ok"}
    assert [finding.check for finding in findings] == [
        "identity", "rights", "role", "role's rights", "bucket", MODEL, "image", "quota", "image", "quota",
    ]  # fmt: skip


def test_without_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert aws_findings("us-east-1") == [
        {
            "what": "AWS identity",
            "state": "missing",
            "found": "there are no AWS credentials",
            "fix": "aws configure sso",
        }
    ]
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    (only,) = aws_findings(None)
    assert only["found"] == "No AWS region is known." and "--region" in only["fix"]


def test_expired_credentials(complete):
    complete.faults.refuse = lambda call, _: ("ExpiredToken", "it has expired")
    with pytest.raises(DeployError, match="aws sso login"):
        diagnose(complete.aws())


def test_a_missing_bucket(complete):
    complete.plain("s3").delete_bucket(Bucket=BUCKET)
    assert found(complete)["bucket"].fix == f"aws s3 mb s3://{BUCKET} --region us-east-1"
    complete.plain("s3").create_bucket(Bucket=BUCKET)  # what the advice does
    assert found(complete)["bucket"].status == "ok"


def test_a_missing_role_and_its_commands_work(complete):
    iam = complete.plain("iam")
    iam.delete_role(RoleName="endpoint")
    finding = found(complete)["role"]
    assert finding.status == "missing"
    create, put = (shlex.split(command) for command in finding.fix.split(" && "))
    assert create[:3] == ["aws", "iam", "create-role"] and put[:3] == ["aws", "iam", "put-role-policy"]
    options = {
        flag: value
        for command in (create[3:], put[3:])
        for flag, value in zip(command[::2], command[1::2], strict=True)
    }
    iam.create_role(RoleName=options["--role-name"], AssumeRolePolicyDocument=options["--assume-role-policy-document"])
    iam.put_role_policy(
        RoleName=options["--role-name"],
        PolicyName=options["--policy-name"],
        PolicyDocument=options["--policy-document"],
    )
    assert found(complete)["role"].status == "ok"
    assert json.loads(options["--policy-document"])["Version"] == "2012-10-17"


def test_a_role_for_something_else(complete):
    complete.plain("iam").delete_role(RoleName="endpoint")
    trust = TRUST.replace("sagemaker.", "lambda.")
    complete.plain("iam").create_role(RoleName="endpoint", AssumeRolePolicyDocument=trust)
    assert found(complete)["role"].status == "missing"
    finding = found(complete, role_arn=ROLE)["role"]
    assert finding.status == "missing" and "update-assume-role-policy --role-name endpoint" in finding.fix


def test_lacking_rights(complete):
    denied = [{"EvalActionName": "sagemaker:CreateEndpoint", "EvalDecision": "implicitDeny"}]
    complete.faults.canned["iam.SimulatePrincipalPolicy"] = {"EvaluationResults": denied, "IsTruncated": False}
    finding = found(complete)["rights"]
    assert finding.status == "missing" and "lacks sagemaker:CreateEndpoint" in finding.detail
    assert finding.fix.startswith("aws iam put-user-policy --user-name me --policy-name embedfit-deploy ")
    document = json.loads(shlex.split(finding.fix)[-1])
    assert any("sagemaker:CreateEndpoint" in statement["Action"] for statement in document["Statement"])


@pytest.mark.parametrize(
    ("change", "detail", "fix"),
    [
        ({"agreementAvailability": {"status": "NOT_AVAILABLE"}}, "terms", "create-foundation-model-agreement"),
        ({"regionAvailability": "NOT_AVAILABLE"}, "not available in us-east-1", "list-foundation-models"),
        ({"authorizationStatus": "NOT_AUTHORIZED"}, "may not use it", "organisation"),
    ],
)
def test_missing_model_access(complete, change, detail, fix):
    complete.faults.canned["bedrock.GetFoundationModelAvailability"] = {**AVAILABLE, **change}
    finding = found(complete)[MODEL]
    assert finding.status == "missing" and detail in finding.detail and fix in finding.fix


def test_the_language_model_is_the_one_that_the_region_has(complete):
    canned = complete.faults.canned
    canned["bedrock.ListFoundationModels"] = {"modelSummaries": [language_model("1-")]}
    assert found(complete)["Bedrock model meta.llama3-1-70b-instruct-v1:0"].status == "ok"
    ending = language_model("", modelLifecycle={"status": "LEGACY"})
    canned["bedrock.ListFoundationModels"] = {"modelSummaries": [ending]}
    finding = found(complete)["Bedrock model meta.llama3-70b-instruct-v1:0"]
    assert finding.status == "unknown" and "will switch it off" in finding.detail
    canned["bedrock.ListFoundationModels"] = {"modelSummaries": [{**ending, "modelId": "other.model"}]}
    finding = found(complete)["Bedrock model"]
    assert finding.status == "missing" and "other.model" in finding.detail and "generate.llm=ID" in finding.fix


def test_a_missing_image_and_quota(complete):
    complete.faults.canned["ecr.BatchGetImage"] = {"images": [], "failures": [{"failureCode": "ImageNotFound"}]}
    quota = {"QuotaName": "ml.g5.xlarge for endpoint usage", "QuotaCode": "L-1928E07B", "Value": 0.0}
    complete.faults.canned["service-quotas.ListServiceQuotas"] = {"Quotas": [quota]}
    findings = found(complete)
    assert findings["image"].status == "missing" and "--image-uri" in findings["image"].fix
    assert "--quota-code L-1928E07B --desired-value 1" in findings["quota"].fix


def test_what_may_not_be_asked_is_unknown_not_missing(complete):
    complete.faults.canned.clear()
    complete.faults.refuse = lambda call, _: None if call.startswith("sts.") else ("AccessDenied", "no")
    findings = [one for one in diagnose(complete.aws()) if one.check not in ("identity", "bucket")]
    assert {finding.status for finding in findings} == {"unknown"}
    assert any("iam:ListRoles" in finding.detail for finding in findings)


def test_who_is_behind_a_session():
    from embedfit.deploy.doctor import _principal

    assert _principal("arn:aws:sts::1:assumed-role/Admin/me@x.org") == "arn:aws:iam::1:role/Admin"
    assert _principal("arn:aws-cn:iam::1:user/team/me") == "arn:aws-cn:iam::1:user/team/me"
    assert _principal("arn:aws:iam::1:root") is None


def test_clients_are_made_once():
    aws = Aws(session=boto3.Session(aws_access_key_id="a", aws_secret_access_key="b"), region="us-east-1")
    assert aws.client("sts") is aws.client("sts")
    assert aws.at("us-east-1") is aws and aws.at("eu-west-1").region == "eu-west-1"
