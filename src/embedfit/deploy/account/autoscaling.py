"""Target tracking on invocations per instance."""

from __future__ import annotations

from embedfit.deploy.options import Autoscaling
from embedfit.network.aws import Parameters

NAMESPACE = "sagemaker"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
VARIANT = "AllTraffic"


def resource_id(endpoint: str) -> str:
    """How Application Auto Scaling calls an endpoint's variant."""
    return f"endpoint/{endpoint}/variant/{VARIANT}"


def target_parameters(endpoint: str, scaling: Autoscaling) -> Parameters:
    """Parameters of register_scalable_target."""
    return {
        "ServiceNamespace": NAMESPACE,
        "ResourceId": resource_id(endpoint),
        "ScalableDimension": DIMENSION,
        "MinCapacity": scaling.minimum,
        "MaxCapacity": scaling.maximum,
    }


def policy_parameters(endpoint: str, scaling: Autoscaling) -> Parameters:
    """Parameters of put_scaling_policy. The target is invocations a minute and instance."""
    return {
        "PolicyName": endpoint,
        "ServiceNamespace": NAMESPACE,
        "ResourceId": resource_id(endpoint),
        "ScalableDimension": DIMENSION,
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": scaling.target,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
            "ScaleInCooldown": scaling.scale_in_seconds,
            "ScaleOutCooldown": scaling.scale_out_seconds,
        },
    }
