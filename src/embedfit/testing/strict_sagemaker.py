"""Refusals of the real SageMaker that simple fakes of it lack."""

from __future__ import annotations

from dataclasses import dataclass

from embedfit.network.aws import Client, Parameters

_MAKES = {
    "sagemaker.CreateModel": ("describe_model", "ModelName", "model"),
    "sagemaker.CreateEndpointConfig": ("describe_endpoint_config", "EndpointConfigName", "endpoint configuration"),
    "sagemaker.CreateEndpoint": ("describe_endpoint", "EndpointName", "endpoint"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StrictSagemaker:
    """Refuses to make a resource that is there already. client: a SageMaker client that is not watched itself.

    It is the `refuse` of embedfit.testing.aws_faults.Faults.
    """

    client: Client

    def __call__(self, operation: str, parameters: Parameters) -> tuple[str, str] | None:
        """The error of a call, as (code, message), or None."""
        if operation not in _MAKES:
            return None
        describe, key, words = _MAKES[operation]
        try:
            getattr(self.client, describe)(**{key: parameters[key]})
        except self.client.exceptions.ClientError:
            return None
        return "ValidationException", f"Cannot create already existing {words} {parameters[key]}."
