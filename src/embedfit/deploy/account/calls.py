"""One AWS account and region, and the errors of deploying for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

from embedfit.deploy.account.redaction import redact
from embedfit.errors import DeployError, UsageError
from embedfit.network import aws

#: The most attempts at a call, and fewer for calls that only inform.
_ATTEMPTS = {"service-quotas": 2, "ecr": 2}


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

    session: aws.Client
    region: str
    endpoints: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, aws.Client] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, region: str | None = None, profile: str | None = None) -> Aws:
        """The account of the environment, of a profile or of the machine's role. No call is made."""
        session = aws.open_session(region, profile)
        if not session.region_name:
            raise UsageError("No AWS region is known.", remedy="Give --region, for example --region us-east-1")
        return cls(session=session, region=session.region_name)

    def at(self, region: str) -> Aws:
        """The same account in another region."""
        return self if region == self.region else Aws(session=self.session, region=region, endpoints=self.endpoints)

    def client(self, service: str) -> aws.Client:
        """The client of a service, made once."""
        if service not in self._clients:
            self._clients[service] = aws.client(
                service,
                session=self.session,
                region=self.region,
                endpoint_url=self.endpoints.get(service, self.endpoints.get("*")),
                attempts=_ATTEMPTS.get(service, 8),
            )
        return self._clients[service]


def explain(error: Exception, doing: str) -> DeployError:
    """The error for people. doing: the attempted action, as in "making the endpoint x"."""
    return DeployError(f"AWS failed while {doing}: {redact(str(error))}", remedy=_remedy(error))


def _remedy(error: Exception) -> str | None:
    if aws.is_denied(error):
        return "The rights that are needed are in: embedfit deploy sagemaker plan MODEL --json (policies.deployer)."
    if aws.error_code(error) == "ResourceLimitExceeded":
        return "Ask for a higher quota: aws service-quotas list-service-quotas --service-code sagemaker"
    return aws.remedy_of(error)


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn a failed call into an error for people."""
    try:
        yield
    except aws.aws_exceptions() as error:
        raise explain(error, doing) from error
