"""The calls that make an endpoint of SageMaker and its automatic scaling."""

from __future__ import annotations

from dataclasses import dataclass

from embedfit.deploy.account import autoscaling
from embedfit.deploy.artefact import Artefact
from embedfit.deploy.options import MAX_BODY_BYTES, Options
from embedfit.deploy.plan import Call, Policies, Step, marker_call, network_of, role_step, tag_list, upload_call
from embedfit.network.aws import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The data of an endpoint from which the steps are made. bucket, prefix: None for a model of the hub."""

    options: Options
    artefact: Artefact
    name: str
    image: str
    role_arn: str
    bucket: str | None
    prefix: str | None
    expires: str
    tags: dict[str, str]


def _environment(target: Target) -> dict[str, str]:
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


def steps(target: Target, documents: Policies) -> tuple[Step, ...]:
    """The steps that make an endpoint, in their order."""
    found = []
    if target.options.create_role:
        words = f"Execution role of the SageMaker endpoint {target.name}"
        found.append(role_step(target.name, tag_list(target.tags), documents, words))
    if target.artefact.files:
        found.append(_artefact_step(target))
    found += [_model_step(target), _config_step(target), _endpoint_step(target)]
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
        found.append(Step(kind="scalable_target", name=resource, calls=(register,)))
        found.append(Step(kind="scaling_policy", name=target.name, calls=(policy,)))
    return tuple(found)


def _artefact_step(target: Target) -> Step:
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


def _model_step(target: Target) -> Step:
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
        "Tags": tag_list(target.tags),
    }
    parameters |= network_of(options.subnets, options.security_groups)
    call = Call(service="sagemaker", operation="create_model", parameters=parameters)
    return Step(kind="model", name=target.name, calls=(call,))


def _config_step(target: Target) -> Step:
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
        "Tags": tag_list(target.tags),
    }
    if options.volume_kms_key:
        parameters["KmsKeyId"] = options.volume_kms_key
    call = Call(service="sagemaker", operation="create_endpoint_config", parameters=parameters)
    return Step(kind="endpoint_config", name=target.name, calls=(call,))


def _endpoint_step(target: Target) -> Step:
    call = Call(
        service="sagemaker",
        operation="create_endpoint",
        parameters={"EndpointName": target.name, "EndpointConfigName": target.name, "Tags": tag_list(target.tags)},
    )
    return Step(kind="endpoint", name=target.name, calls=(call,))
