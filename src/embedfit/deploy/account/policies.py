"""The least rights that a deployment needs, as IAM policy documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from embedfit.network.aws import Parameters

#: An IAM policy document, as JSON.
Document: TypeAlias = Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names in policies. "*" stands for a name that is not known yet.

    prefix: the artefact's in the bucket, with a slash at its end; bucket and prefix are None for a hub model.
    repository: ARN of the image's ECR repository, None for an image elsewhere.
    """

    partition: str
    region: str
    account: str
    deployment: str
    role_arn: str
    bucket: str | None
    prefix: str | None
    repository: str | None
    kms_key: str | None
    vpc: bool
    uploads: bool
    creates_role: bool
    scales: bool
    log_group: str

    @property
    def arn(self) -> str:
        """The beginning of every ARN."""
        return f"arn:{self.partition}"

    @property
    def log_arn(self) -> str:
        """The ARN of the log group."""
        return f"{self.arn}:logs:{self.region}:{self.account}:log-group:{self.log_group}"


def trust_policy(account: str) -> Document:
    """The policy by which only SageMaker, on behalf of this account, may take on the execution role."""
    statement: Document = {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    if account != "*":
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return {"Version": "2012-10-17", "Statement": [statement]}


def execution_policy(names: Names) -> Document:
    """The rights of what runs: to read its files and image, and to write its log and metrics."""
    arn = f"arn:{names.partition}"
    statements = [
        allow(
            "WriteLog",
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            [names.log_arn, f"{names.log_arn}:*"],
        ),
        {
            **allow("WriteMetrics", ["cloudwatch:PutMetricData"], ["*"]),
            "Condition": {"StringLike": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/*"]}},
        },
    ]
    if names.bucket:
        statements.append(allow("ReadModel", ["s3:GetObject"], [f"{arn}:s3:::{names.bucket}/{names.prefix}*"]))
        statements.append(
            {
                **allow("ListModel", ["s3:ListBucket"], [f"{arn}:s3:::{names.bucket}"]),
                "Condition": {"StringLike": {"s3:prefix": [f"{names.prefix}*"]}},
            }
        )
    if names.repository:
        statements.append(
            allow(
                "PullImage",
                ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                [names.repository],
            )
        )
        statements.append(allow("PullImageToken", ["ecr:GetAuthorizationToken"], ["*"]))
    if names.kms_key:
        statements.append(
            allow("UseKey", ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"], [_key(names)])
        )
    if names.vpc:
        statements.append(
            allow(
                "JoinVpc",
                [
                    "ec2:CreateNetworkInterface",
                    "ec2:CreateNetworkInterfacePermission",
                    "ec2:DeleteNetworkInterface",
                    "ec2:DeleteNetworkInterfacePermission",
                    "ec2:DescribeDhcpOptions",
                    "ec2:DescribeNetworkInterfaces",
                    "ec2:DescribeSecurityGroups",
                    "ec2:DescribeSubnets",
                    "ec2:DescribeVpcs",
                ],
                ["*"],  # most of the actions above have no resource-level rights
            )
        )
    return {"Version": "2012-10-17", "Statement": statements}


def deployer_policy(names: Names) -> Document:
    """The rights of the person who runs plan, apply, status, test and destroy."""
    arn = f"arn:{names.partition}"
    own = [
        f"{arn}:sagemaker:{names.region}:{names.account}:{kind}/{names.deployment.lower()}"
        for kind in ("model", "endpoint-config", "endpoint")
    ]
    statements = [
        allow(
            "OwnResources",
            [
                "sagemaker:AddTags",
                "sagemaker:CreateEndpoint",
                "sagemaker:CreateEndpointConfig",
                "sagemaker:CreateModel",
                "sagemaker:DeleteEndpoint",
                "sagemaker:DeleteEndpointConfig",
                "sagemaker:DeleteModel",
                "sagemaker:DescribeEndpoint",
                "sagemaker:DescribeEndpointConfig",
                "sagemaker:DescribeModel",
                "sagemaker:InvokeEndpoint",
                "sagemaker:ListTags",
            ],
            own,
        ),
        allow(
            "FindByTag",
            [
                "sagemaker:ListEndpointConfigs",
                "sagemaker:ListEndpoints",
                "sagemaker:ListModels",
                "sagemaker:ListTags",
                "sagemaker:ListTrainingJobs",
                "servicequotas:ListServiceQuotas",
                "sts:GetCallerIdentity",
                "logs:DescribeLogStreams",
            ],
            ["*"],
        ),
        role_statement(names),
        allow(
            "ReadLog",
            ["logs:DeleteLogGroup", "logs:DescribeLogGroups", "logs:DescribeLogStreams", "logs:GetLogEvents"],
            [f"{names.log_arn}*"],
        ),
    ]
    if names.repository:
        statements.append(allow("CheckImage", ["ecr:BatchGetImage"], [names.repository]))
    if names.creates_role:
        statements += making_statements(names)
    statements += _scaling_statements(names)
    if names.uploads and names.bucket:
        statements += upload_statements(names)
    return {"Version": "2012-10-17", "Statement": statements}


def making_statements(names: Names) -> list[Document]:
    """The rights to make and delete the role."""
    make = ["iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:PutRolePolicy", "iam:TagRole"]
    return [allow("MakeRole", make, [names.role_arn]), allow("FindRoles", ["iam:ListRoles"], ["*"])]


def role_statement(names: Names) -> Document:
    """The right to hand the role to SageMaker."""
    return {
        **allow("PassRole", ["iam:GetRole", "iam:PassRole"], [names.role_arn]),
        "Condition": {"StringEqualsIfExists": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
    }


def _scaling_statements(names: Names) -> list[Document]:
    find = allow(
        "FindScaling",
        ["application-autoscaling:DescribeScalableTargets", "application-autoscaling:DescribeScalingPolicies"],
        ["*"],
    )
    if not names.scales:
        return [find]
    arn = f"arn:{names.partition}"
    return [
        find,
        allow(
            "Scale",
            [
                "application-autoscaling:DeleteScalingPolicy",
                "application-autoscaling:DeregisterScalableTarget",
                "application-autoscaling:PutScalingPolicy",
                "application-autoscaling:RegisterScalableTarget",
                "application-autoscaling:TagResource",
            ],
            [f"{arn}:application-autoscaling:{names.region}:{names.account}:scalable-target/*"],
        ),
        allow(
            "ScaleAlarms",
            ["cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm"],
            [f"{arn}:cloudwatch:{names.region}:{names.account}:alarm:TargetTracking-endpoint/{names.deployment}/*"],
        ),
        allow(
            "ScaleEndpoint",
            ["sagemaker:DescribeEndpoint", "sagemaker:UpdateEndpointWeightsAndCapacities"],
            [f"{arn}:sagemaker:{names.region}:{names.account}:endpoint/{names.deployment.lower()}"],
        ),
        {
            **allow(
                "ScaleServiceRole",
                ["iam:CreateServiceLinkedRole"],
                [f"{arn}:iam::*:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/*"],
            ),
            "Condition": {"StringLike": {"iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com"}},
        },
    ]


def upload_statements(names: Names) -> list[Document]:
    """The rights to upload files, and to delete them with all their versions."""
    arn = f"arn:{names.partition}:s3:::{names.bucket}"
    statements = [
        allow(
            "WriteModel",
            [
                "s3:AbortMultipartUpload",
                "s3:DeleteObject",
                "s3:DeleteObjectVersion",
                "s3:GetObject",
                "s3:ListMultipartUploadParts",
                "s3:PutObject",
            ],
            [f"{arn}/embedfit/*"],
        ),
        allow("ListBucket", ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListBucketVersions"], [arn]),
    ]
    if names.kms_key:
        statements.append(allow("EncryptModel", ["kms:Decrypt", "kms:GenerateDataKey"], [_key(names)]))
    return statements


def _key(names: Names) -> str:
    key = names.kms_key or "*"
    if key.startswith("arn:") or key == "*":
        return key
    return f"arn:{names.partition}:kms:{names.region}:{names.account}:key/{key}"


def allow(sid: str, actions: list[str], resources: list[str]) -> Document:
    """A statement that allows actions on resources."""
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
