"""The user's options of a run in a training job."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from embedfit.deploy.account.images import family_of, is_arm
from embedfit.deploy.options import check_access, tags_given
from embedfit.display.options import CommandOption, CommandRecord
from embedfit.errors import UsageError

#: The form of --on.
FORM = "sagemaker:INSTANCE"
_EXAMPLE = "For example: --on sagemaker:ml.g5.2xlarge"
#: Instance families on which AWS's image of PyTorch can't compute, with the reason.
_UNUSABLE = {
    "inf": "AWS Inferentia: PyTorch's image has no Neuron build",
    "trn": "AWS Trainium: PyTorch's image has no Neuron build",
    "dl": "Gaudi: PyTorch's image has no Gaudi build",
    "p2": "its NVIDIA K80 is too old for the CUDA of PyTorch's image",
    "p3": "its NVIDIA V100 is too old for the CUDA of PyTorch's image",
}
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET = re.compile(r"arn:[\w-]+:secretsmanager:[\w-]+:\d{12}:secret:[\w/+=.@-]+")

Cloud = partial(CommandOption, panel="On SageMaker (--on)")


def _secrets(value: object) -> object:
    """Secrets as the command line gives them, ["OPENAI_API_KEY=arn:…"], as a dictionary."""
    return dict(map(_secret, value)) if isinstance(value, (list, tuple)) else value


def _secret(assignment: str) -> tuple[str, str]:
    variable, _, arn = assignment.partition("=")
    if not _VARIABLE.fullmatch(variable) or not _SECRET.fullmatch(arn):
        raise UsageError(
            f"--secret {variable}=… is not VARIABLE=ARN of a secret of Secrets Manager.",  # the rest may be the secret
            remedy="For example: --secret OPENAI_API_KEY=arn:aws:secretsmanager:us-east-1:123456789012:secret:openai",
        )
    return variable, arn


class JobOptions(CommandRecord):
    """A job as the user asks for it. `embedfit run` makes options from the fields. Raises UsageError."""

    instance_type: str
    region: str
    project: str = "embedfit"
    role_arn: Annotated[str | None, Cloud("ARN of the job's role.", ("--role",))] = None
    create_role: Annotated[bool, Cloud("Make a role of exactly the rights it needs.", ("--create-role",))] = False
    bucket: Annotated[str | None, Cloud("Bucket for inputs and results.", shown="sagemaker-REGION-ACCOUNT")] = None
    max_hours: Annotated[float, Field(gt=0, le=24 * 28), Cloud("The job is stopped after so many hours.")] = 8.0
    spot: Annotated[
        bool, Cloud("Spare capacity: cheaper; an interrupted job goes on from its checkpoints.", ("--spot/--no-spot",))
    ] = True
    max_wait_hours: Annotated[
        float | None, Field(gt=0, le=24 * 28), Cloud("Hours with the waiting for spare capacity.", shown="two days")
    ] = None
    volume_gb: Annotated[int | None, Field(ge=10, le=16384), Cloud("Disk of the job.", shown="by the inputs")] = None
    image_uri: Annotated[str | None, Cloud("Another image with PyTorch.", shown="AWS's")] = None
    secrets: Annotated[
        dict[str, str],
        BeforeValidator(_secrets),
        Cloud("VARIABLE=ARN: the job reads a key from Secrets Manager.", ("--secret",), shown=""),
    ] = Field(default_factory=dict)
    tags: Annotated[
        dict[str, str], BeforeValidator(tags_given), Cloud("A further tag, KEY=VALUE.", ("--tag",), shown="")
    ] = Field(default_factory=dict)
    subnets: Annotated[tuple[str, ...], Cloud("Subnet of your VPC.", ("--subnet",), shown="")] = ()
    security_groups: Annotated[tuple[str, ...], Cloud("Security group.", ("--security-group",), shown="")] = ()
    kms_key: Annotated[str | None, Cloud("KMS key for S3 and the job's disk.")] = None
    keep: Annotated[bool, Cloud("Leave inputs, results and log in AWS.", ("--keep",))] = False

    @model_validator(mode="after")
    def _checked(self) -> Self:
        device_of(self.instance_type)
        check_access(self)
        if self.max_wait_hours is not None and self.max_wait_hours < self.max_hours:
            raise UsageError(
                f"--max-wait-hours {self.max_wait_hours:g} is less than --max-hours {self.max_hours:g}.",
                remedy="The waiting counts the run itself too: name more hours.",
            )
        return self

    @property
    def run_seconds(self) -> int:
        """The most seconds of computing."""
        return int(self.max_hours * 3600)

    @property
    def wait_seconds(self) -> int:
        """The most seconds from the start to the end, waiting for spare capacity included."""
        return int((self.max_wait_hours or max(48.0, 2 * self.max_hours)) * 3600)


def instance_of(target: str) -> str:
    """The instance type of --on sagemaker:INSTANCE. Raises UsageError for another form."""
    kind, separator, instance = target.partition(":")
    if kind != "sagemaker" or not separator or not instance:
        raise UsageError(f"--on {target!r} is not {FORM}.", remedy=_EXAMPLE)
    device_of(instance)
    return instance


def device_of(instance_type: str) -> Literal["cpu", "gpu"]:
    """The image that an instance needs. Raises UsageError if neither computes on it."""
    try:
        family = family_of(instance_type)
    except UsageError as error:
        raise UsageError(error.message, remedy=_EXAMPLE) from error
    for prefix, reason in _UNUSABLE.items():
        if family.startswith(prefix):
            raise UsageError(f"{instance_type} can't run the job: {reason}.", remedy=_EXAMPLE)
    if is_arm(family) or "gb" in family:
        raise UsageError(f"{instance_type} is ARM; AWS's image of PyTorch for training is x86-64.", remedy=_EXAMPLE)
    return "gpu" if family[0] in "gp" else "cpu"
