"""The only module that opens AWS: sessions and clients of boto3, and the reading of their failures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from embedfit.errors import MissingDependency, UsageError

#: A client, a session and a module of boto3: it makes its classes at run time, so a type checker knows nothing of them.
Client: TypeAlias = Any
#: Parameters and replies of AWS's calls.
Parameters: TypeAlias = dict[str, Any]

_ABSENT_CODES = (
    "404", "NoSuchBucket", "NoSuchEntity", "NoSuchKey", "NotFound", "ObjectNotFoundException", "ResourceNotFound",
    "ResourceNotFoundException",
)  # fmt: skip
_ABSENT_WORDS = (
    "could not find", "does not exist", "requested resource not found", "no scalable target found",
    "no scaling policy found",
)  # fmt: skip
_PRESENT_CODES = ("EntityAlreadyExists", "ResourceAlreadyExistsException", "ResourceInUse")
_EXPIRED_CODES = (
    "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired", "UnrecognizedClientException",
)  # fmt: skip
_DENIED_CODES = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
_THROTTLED_CODES = (
    "SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException",
    "RequestLimitExceeded", "ProvisionedThroughputExceededException",
)  # fmt: skip
_NO_CREDENTIALS = (
    "CredentialRetrievalError", "LoginTokenLoadError", "NoCredentialsError", "PartialCredentialsError",
    "SSOTokenLoadError", "TokenRetrievalError", "UnauthorizedSSOTokenError",
)  # fmt: skip
_UNREACHABLE = ("ConnectTimeoutError", "EndpointConnectionError")


def load_boto3(needed_for: str = "AWS") -> Client:
    """boto3, or MissingDependency."""
    try:
        import boto3  # an optional package
    except ImportError as error:
        raise MissingDependency("boto3", extra="aws", needed_for=needed_for) from error
    return boto3


def open_session(region: str | None = None, profile: str | None = None, *, needed_for: str = "AWS") -> Client:
    """A boto3 session of its own: boto3's shared one keeps credentials that have expired. No call is made.

    region: default AWS_REGION, which every SDK but boto3 reads, then what boto3 finds. profile: default AWS_PROFILE.
    Raises MissingDependency without boto3, UsageError if the profile or the configuration can't be used.
    """
    boto3 = load_boto3(needed_for)
    from botocore.exceptions import BotoCoreError  # comes with boto3

    try:
        return boto3.Session(region_name=region or os.environ.get("AWS_REGION") or None, profile_name=profile)
    except BotoCoreError as error:
        raise UsageError(f"The AWS configuration can't be used: {error}", remedy="Run: aws configure list") from error


def client(
    service: str,
    *,
    session: Client | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    attempts: int = 8,
    read_timeout: float = 70.0,
    connections: int = 10,
    needed_for: str = "AWS",
) -> Client:
    """A boto3 client of a service.

    session: default a new one of the region. endpoint_url: the address of a stand-in for AWS, in tests. attempts: for
    one call; 1 if the caller tries again itself. read_timeout: seconds. needed_for: the user's purpose, for errors.
    Raises MissingDependency without boto3, UsageError if no region is known.
    """
    session = session or open_session(region, needed_for=needed_for)
    from botocore.config import Config  # comes with boto3
    from botocore.exceptions import BotoCoreError

    config = Config(  # type: ignore[no-untyped-call]
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=10,
        read_timeout=read_timeout,
        max_pool_connections=connections,
        tcp_keepalive=True,
        user_agent_extra="embedfit",
    )
    try:
        return session.client(service, region_name=region, endpoint_url=endpoint_url, config=config)
    except BotoCoreError as error:
        raise UsageError(
            f"The AWS client for {service} can't be made: {error}",
            remedy="Name a region: export AWS_REGION=us-east-1. A generator's is --set generate.region=us-east-1.",
        ) from error


def aws_exceptions() -> tuple[type[Exception], ...]:
    """The exceptions by which a boto3 call fails."""
    load_boto3()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (ClientError, BotoCoreError, Boto3Error)


def response_of(error: BaseException) -> Mapping[str, Any]:
    """AWS's reply, as botocore parsed it; empty if no reply came."""
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def error_code(error: BaseException) -> str:
    """AWS's code of an error ("AccessDenied"), or the exception's name if no reply came."""
    response = response_of(error)
    if response:
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


def is_throttled(error: BaseException) -> bool:
    """Whether an error says that there were too many calls."""
    return error_code(error) in _THROTTLED_CODES


def is_without_credentials(error: BaseException) -> bool:
    """Whether an error says that there are no credentials, or none that could be completed."""
    return type(error).__name__ in _NO_CREDENTIALS


def remedy_of(error: BaseException) -> str | None:
    """The remedy for an error that any call to AWS may bring, or None."""
    if is_without_credentials(error):
        return "Log in first: aws configure sso, then aws sso login (or set AWS_PROFILE)."
    if is_expired(error):
        return "The credentials have expired or are not valid. Log in again (aws sso login) and repeat the command."
    if is_throttled(error):
        return "AWS kept throttling. Wait a minute and repeat the command."
    if type(error).__name__ in _UNREACHABLE or "could not connect" in str(error).lower():
        return "Check the region and the network (a proxy, a VPC endpoint)."
    return None
