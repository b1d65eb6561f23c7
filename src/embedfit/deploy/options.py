"""What the user decides about a deployment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from embedfit.deploy.account.images import device_of, has_local_disk
from embedfit.errors import UsageError

#: What invoke_endpoint accepts in one request, in bytes.
MAX_BODY_BYTES = 6_291_456

_NAME = re.compile(r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$")
_TTL = re.compile(r"^(\d+(?:\.\d+)?)([mhd])$")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}

#: Invocations a minute and instance that a target of 70% of TEI's published rates gives (bge-like model, 256 tokens:
#: about 5 requests/s on ml.c6i.2xlarge, 130 on ml.g5.xlarge).
_DEFAULT_TARGET = {"cpu": 200.0, "gpu": 5000.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """Between how many instances, and at how many invocations a minute and instance another one is started."""

    minimum: int
    maximum: int
    target: float
    scale_in_seconds: int = 300
    scale_out_seconds: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A deployment as asked for.

    model: folder, run folder, s3://bucket/prefix/, hub id or alias. name: of the endpoint and all that
    belongs to it; None: from the run and a hash. run: label that groups deployments; None: from the model.
    ttl_seconds: after which `sweep` may delete it; None: never.
    role_arn: execution role; None with create_role: one is made with exactly the rights it needs.
    max_client_batch: texts in one request; None: what the instance answers well within SageMaker's 60 s.
    """

    model: str
    region: str
    name: str | None = None
    run: str | None = None
    project: str = "embedfit"
    ttl_seconds: int | None = None
    instance_type: str = "ml.c6i.2xlarge"
    instance_count: int = 1
    autoscaling: Autoscaling | None = None
    image_uri: str | None = None
    inference_ami: str | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    kms_key: str | None = None
    network_isolation: bool = False
    role_arn: str | None = None
    create_role: bool = False
    bucket: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    max_client_batch: int | None = None
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        device_of(self.instance_type)
        _check_name(self.name)
        _check_counts(self)
        if bool(self.subnets) != bool(self.security_groups):
            raise UsageError(
                "A VPC needs both subnets and security groups.", remedy="Give --subnet and --security-group."
            )
        if self.role_arn and self.create_role:
            raise UsageError("--role and --create-role exclude each other.", remedy="Give one of them.")
        if self.role_arn and not re.match(r"^arn:[\w-]+:iam::\d{12}:role/", self.role_arn):
            raise UsageError(
                f"{self.role_arn!r} is not the ARN of a role.",
                remedy="It looks like arn:aws:iam::123456789012:role/NAME.",
            )
        reserved = [key for key in self.tags if key.startswith(("embedfit:", "aws:"))]
        if reserved:
            raise UsageError(f"The tag {reserved[0]} is reserved.", remedy="Use another key.")

    @property
    def client_batch(self) -> int:
        """Texts in one request. A CPU does a few of 512 tokens a second, so 256 of them would pass the 60 s."""
        return self.max_client_batch or (256 if device_of(self.instance_type) == "gpu" else 32)

    @property
    def volume_kms_key(self) -> str | None:
        """The KMS key of the instances' storage: none where the disk is local, which SageMaker encrypts itself."""
        return None if has_local_disk(self.instance_type) else self.kms_key

    @property
    def instance_range(self) -> tuple[int, int]:
        """The fewest and the most instances that may run."""
        if self.autoscaling is None:
            return self.instance_count, self.instance_count
        return self.autoscaling.minimum, self.autoscaling.maximum


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


def default_target(instance_type: str) -> float:
    """Invocations a minute and instance to aim at where the user names none."""
    return _DEFAULT_TARGET[device_of(instance_type)]


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
    """A name's lower-case letters, digits and single hyphens; "model" where nothing is left."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-")
    return cleaned or "model"
