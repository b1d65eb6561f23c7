"""AWS clients and what their errors mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from embedfit.deploy.redaction import redact
from embedfit.errors import DeployError, MissingDependency, UsageError

_ABSENT_CODES = {
    "404",
    "NoSuchBucket",
    "NoSuchEntity",
    "NoSuchKey",
    "NotFound",
    "ObjectNotFoundException",
    "ResourceNotFound",
    "ResourceNotFoundException",
}
_ABSENT_WORDS = ("could not find", "does not exist", "no scalable target found", "no scaling policy found")
_PRESENT_CODES = {"EntityAlreadyExists", "ResourceAlreadyExistsException", "ResourceInUse"}
_EXPIRED_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "RequestExpired",
    "UnrecognizedClientException",
}
_DENIED_CODES = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"}
_THROTTLED_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "ProvisionedThroughputExceededException",
}

#: How often a call is made at most; fewer where it only informs.
_TRIES = {"service-quotas": 2, "ecr": 2}


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time as an argument: now() with a time zone, and sleep(seconds)."""

    now: Callable[[], datetime] = _now
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Aws:
    """One account and region. session: a boto3 session; endpoints: service → URL, "*" for all others (for tests)."""

    session: Any
    region: str
    endpoints: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, region: str | None = None, profile: str | None = None) -> Aws:
        """The account of the environment, of a profile or of the machine's role. No call is made."""
        boto3 = load_boto3()
        from botocore.exceptions import BotoCoreError  # comes with boto3, an optional package

        try:
            session = boto3.Session(region_name=region, profile_name=profile)
        except BotoCoreError as error:
            raise DeployError(
                f"The AWS configuration can't be used: {error}", remedy="Run: aws configure list"
            ) from error
        if not session.region_name:
            raise UsageError("No AWS region is known.", remedy="Give --region, for example --region us-east-1")
        return cls(session=session, region=session.region_name)

    def at(self, region: str) -> Aws:
        """The same account in another region."""
        return self if region == self.region else Aws(session=self.session, region=region, endpoints=self.endpoints)

    def client(self, service: str) -> Any:  # noqa: ANN401 - boto3's clients have no types
        """The client of a service, made once."""
        if service not in self._clients:
            from botocore.config import Config

            config = Config(  # type: ignore[no-untyped-call]
                retries={"mode": "standard", "total_max_attempts": _TRIES.get(service, 8)},
                connect_timeout=10,
                read_timeout=70,
                user_agent_extra="embedfit",
            )
            url = self.endpoints.get(service, self.endpoints.get("*"))
            self._clients[service] = self.session.client(
                service, region_name=self.region, config=config, endpoint_url=url
            )
        return self._clients[service]


def load_boto3() -> Any:  # noqa: ANN401 - a module without types
    """boto3, or MissingDependency."""
    try:
        import boto3  # an optional package
    except ImportError as error:
        raise MissingDependency("boto3", extra="aws", needed_for="AWS") from error
    return boto3


def aws_exceptions() -> tuple[type[Exception], ...]:
    """The exceptions by which a boto3 call fails."""
    load_boto3()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (ClientError, BotoCoreError, Boto3Error)


def error_code(error: BaseException) -> str:
    """AWS's code of an error ("AccessDenied"), or the exception's name where no reply came."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", "")) or type(error).__name__
    cause = error.__context__ if type(error).__name__ == "S3UploadFailedError" else None
    return error_code(cause) if cause is not None else type(error).__name__


def is_absent(error: BaseException) -> bool:
    """Whether an error says that the thing asked for is not there."""
    if error_code(error) in _ABSENT_CODES:
        return True
    return error_code(error).startswith("Validation") and any(word in str(error).lower() for word in _ABSENT_WORDS)


def is_already_there(error: BaseException) -> bool:
    """Whether an error says that the thing to be made is there already."""
    return error_code(error) in _PRESENT_CODES or "already exist" in str(error).lower()


def is_expired(error: BaseException) -> bool:
    """Whether an error says that the credentials are no longer (or not at all) valid."""
    return error_code(error) in _EXPIRED_CODES


def is_denied(error: BaseException) -> bool:
    """Whether an error says that the caller lacks a right."""
    return error_code(error) in _DENIED_CODES


def is_without_credentials(error: BaseException) -> bool:
    """Whether an error says that there are no credentials, or none that could be completed."""
    names = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError")
    return type(error).__name__ in (*names, "SSOTokenLoadError", "UnauthorizedSSOTokenError", "LoginTokenLoadError")


def explain(error: Exception, doing: str) -> DeployError:
    """The error for people. doing: what was attempted, as in "making the endpoint x"."""
    text = redact(str(error))
    return DeployError(f"AWS failed while {doing}: {text}", remedy=_remedy(error, text))


def _remedy(error: Exception, text: str) -> str | None:
    code = error_code(error)
    if is_without_credentials(error):
        return "Log in first: aws configure sso, then aws sso login (or set AWS_PROFILE)."
    if code in _EXPIRED_CODES:
        return "The credentials have expired or are not valid. Log in again (aws sso login) and repeat the command."
    if code in _DENIED_CODES:
        return "The rights that are needed are in: embedfit deploy sagemaker plan MODEL --json (policies.deployer)."
    if code in _THROTTLED_CODES:
        return "AWS kept throttling after 8 tries. Wait a minute and repeat the command."
    if code == "ResourceLimitExceeded":
        return "Ask for a higher quota: aws service-quotas list-service-quotas --service-code sagemaker"
    if "could not connect" in text.lower() or type(error).__name__ in (
        "EndpointConnectionError",
        "ConnectTimeoutError",
    ):
        return "Check --region and the network (a proxy, a VPC endpoint)."
    return None


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn a failed call into an error for people."""
    try:
        yield
    except aws_exceptions() as error:
        raise explain(error, doing) from error
