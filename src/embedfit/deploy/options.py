"""The user's options of a deployment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Protocol

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)
from typing_extensions import Self

from embedfit.deploy.account.images import device_of, has_local_disk
from embedfit.display.options import CommandOption, CommandRecord
from embedfit.errors import UsageError

#: The most bytes that invoke_endpoint accepts in one request.
MAX_BODY_BYTES = 6_291_456

_NAME = re.compile(r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$")
_TTL = re.compile(r"^(\d+(?:\.\d+)?)([mhd])$")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}

#: Invocations a minute and instance that a target of 70% of TEI's published rates gives (bge-like model, 256 tokens:
#: about 5 requests/s on ml.c6i.2xlarge, 130 on ml.g5.xlarge).
_DEFAULT_TARGET = {"cpu": 200.0, "gpu": 5000.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """Autoscaling: the least and most instances, and the invocations a minute and instance to aim at."""

    minimum: int
    maximum: int
    target: float
    scale_in_seconds: int = 300
    scale_out_seconds: int = 60


Cost = partial(CommandOption, panel="Size and cost")
Security = partial(CommandOption, panel="Security")


def tags_given(value: object) -> object:
    """Tags as the command line gives them, ["team=search"], as a dictionary."""
    return dict(map(_tag, value)) if isinstance(value, (list, tuple)) else value


def _tag(assignment: str) -> tuple[str, str]:
    key, separator, value = assignment.partition("=")
    if not separator or not key:
        raise UsageError(f"--tag {assignment!r} is not KEY=VALUE.", remedy="For example: --tag team=search")
    return key, value


def _ttl(text: str | None) -> str | None:
    if text is not None:
        parse_ttl(text)
    return text


class Options(CommandRecord):
    """A deployment as the user asks for it. The commands plan and apply make their options from the fields.

    model: folder, run folder, s3://bucket/prefix/, hub id or alias. Raises UsageError for options that can't work.
    """

    model: str
    region: str
    project: str = "embedfit"
    name: Annotated[str | None, CommandOption("Name of the endpoint.", shown="from run and content")] = None
    run: Annotated[
        str | None, CommandOption("What groups deployments.", ("--run-label",), shown="the run folder's name")
    ] = None
    bucket: Annotated[str | None, CommandOption("Bucket for the model.", shown="sagemaker-REGION-ACCOUNT")] = None
    tags: Annotated[
        dict[str, str],
        BeforeValidator(tags_given),
        CommandOption("A further tag, KEY=VALUE; may be given several times.", ("--tag",), shown=""),
    ] = Field(default_factory=dict)
    image_uri: Annotated[str | None, CommandOption("Another container image.")] = None
    max_client_batch: Annotated[
        int | None, Field(ge=1), CommandOption("Texts in a request.", shown="32 on CPU, 256 on GPU")
    ] = None
    max_batch_tokens: Annotated[int | None, Field(ge=1), CommandOption("Tokens in a batch.", shown="TEI's 16384")] = (
        None
    )
    instance_type: Annotated[str, Cost("Type of the instances.")] = "ml.c6i.2xlarge"
    instance_count: Annotated[int, Cost("Instances at the start.")] = 1
    max_instances: Annotated[int | None, Cost("Scale up to so many.", shown="no autoscaling")] = None
    min_instances: Annotated[int | None, Cost("Scale down to so many.", shown="--instance-count")] = None
    target_invocations: Annotated[
        float | None, Cost("Requests a minute and instance to aim at.", shown="200 on CPU, 5000 on GPU")
    ] = None
    ttl: Annotated[
        str | None, AfterValidator(_ttl), Cost("`sweep` may delete it after 90m, 8h, 3d.", shown="never")
    ] = None
    role_arn: Annotated[str | None, Security("ARN of the execution role.", ("--role",))] = None
    create_role: Annotated[bool, Security("Make a role with exactly the rights it needs.", ("--create-role",))] = False
    subnets: Annotated[
        tuple[str, ...], Security("Subnet of your VPC; may be given several times.", ("--subnet",), shown="")
    ] = ()
    security_groups: Annotated[
        tuple[str, ...], Security("May be given several times.", ("--security-group",), shown="")
    ] = ()
    kms_key: Annotated[str | None, Security("KMS key for the model in S3 and the instances' storage.")] = None
    network_isolation: Annotated[bool, Security("No network for the container.", ("--network-isolation",))] = False
    inference_ami: Annotated[str | None, Security("Version of the host's AMI (driver of the GPU).")] = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        device_of(self.instance_type)
        _check_name(self.name)
        _check_counts(self)
        check_access(self)
        return self

    @property
    def ttl_seconds(self) -> int | None:
        """The seconds after which `sweep` may delete it; None: never."""
        return parse_ttl(self.ttl) if self.ttl else None

    @property
    def autoscaling(self) -> Autoscaling | None:
        """The limits of autoscaling; None if the number of instances is fixed."""
        if self.max_instances is None:
            return None
        default = _DEFAULT_TARGET[device_of(self.instance_type)]
        return Autoscaling(
            minimum=self.instance_count if self.min_instances is None else self.min_instances,
            maximum=self.max_instances,
            target=default if self.target_invocations is None else self.target_invocations,
        )

    @property
    def client_batch(self) -> int:
        """Texts in one request. A CPU does a few of 512 tokens a second, so 256 of them would pass the 60 s."""
        return self.max_client_batch or (256 if device_of(self.instance_type) == "gpu" else 32)

    @property
    def volume_kms_key(self) -> str | None:
        """The KMS key of the instances' storage: none for a local disk, which the hardware encrypts itself."""
        return None if has_local_disk(self.instance_type) else self.kms_key

    @property
    def instance_range(self) -> tuple[int, int]:
        """The fewest and the most instances that may run."""
        scaling = self.autoscaling
        return (scaling.minimum, scaling.maximum) if scaling else (self.instance_count, self.instance_count)


class Access(Protocol):
    """What options of an endpoint and of a job have in common."""

    @property
    def subnets(self) -> tuple[str, ...]:
        """Subnets of a VPC."""

    @property
    def security_groups(self) -> tuple[str, ...]:
        """Security groups of a VPC."""

    @property
    def role_arn(self) -> str | None:
        """The execution role."""

    @property
    def create_role(self) -> bool:
        """Whether a role is made."""

    @property
    def tags(self) -> dict[str, str]:
        """The user's own tags."""


def check_access(options: Access) -> None:
    """Raise UsageError for a VPC, a role or tags that can't work."""
    if bool(options.subnets) != bool(options.security_groups):
        raise UsageError("A VPC needs both subnets and security groups.", remedy="Give --subnet and --security-group.")
    if options.role_arn and options.create_role:
        raise UsageError("--role and --create-role exclude each other.", remedy="Give one of them.")
    if options.role_arn and not re.match(r"^arn:[\w-]+:iam::\d{12}:role/", options.role_arn):
        raise UsageError(
            f"{options.role_arn!r} is not the ARN of a role.",
            remedy="It looks like arn:aws:iam::123456789012:role/NAME.",
        )
    reserved = [key for key in options.tags if key.startswith(("embedfit:", "aws:"))]
    if reserved:
        raise UsageError(f"The tag {reserved[0]} is reserved.", remedy="Use another key.")


def _check_name(name: str | None) -> None:
    if name is not None and (len(name) > 63 or not _NAME.match(name)):
        raise UsageError(
            f"{name!r} can't name an endpoint.", remedy="Use up to 63 letters, digits and single hyphens between them."
        )


def _check_counts(options: Options) -> None:
    if options.instance_count < 1:
        raise UsageError("An endpoint needs at least one instance.", remedy="Give --instance-count 1 or more.")
    scaling = options.autoscaling
    if scaling is None:
        if options.min_instances is not None or options.target_invocations is not None:
            raise UsageError("Autoscaling needs a limit.", remedy="Give --max-instances too.")
        return
    if scaling.minimum < 1:
        raise UsageError(
            "A real-time endpoint can't scale to zero (that takes inference components or an async endpoint).",
            remedy="Give --min-instances 1 or more, or --ttl to have it deleted.",
        )
    if not scaling.minimum <= options.instance_count <= scaling.maximum:
        raise UsageError(
            f"{options.instance_count} instances at the start are not between {scaling.minimum} and {scaling.maximum}.",
            remedy="Make --min-instances ≤ --instance-count ≤ --max-instances.",
        )
    if scaling.target <= 0:
        raise UsageError("The target of autoscaling must be above 0.", remedy="For example: --target-invocations 200")


def parse_ttl(text: str) -> int:
    """Seconds of "90m", "8h" or "3d". Raises UsageError."""
    match = _TTL.match(text.strip())
    if match is None or not float(match.group(1)):
        raise UsageError(f"{text!r} is not a time to live.", remedy="Write it as 90m, 8h or 3d.")
    return int(float(match.group(1)) * _SECONDS[match.group(2)])


def refuse_serverless() -> None:
    """Raise UsageError with the reason."""
    raise UsageError(
        "Serverless endpoints can't run Text Embeddings Inference: its image does not start there, and they have "
        "no GPU and at most 6 GB of memory.",
        remedy="Deploy a small real-time endpoint with a time to live: --instance-type ml.c6i.xlarge --ttl 8h",
    )


def slug(text: str, limit: int = 40) -> str:
    """A name's lower-case letters, digits and single hyphens; "model" if nothing is left."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-")
    return cleaned or "model"
