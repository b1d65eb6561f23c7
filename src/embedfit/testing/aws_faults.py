"""Failures on demand in real boto3 clients: refused calls, lost replies, throttling, Ctrl-C, expired credentials."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from embedfit.network.aws import Client, Parameters

#: "refused": this call fails, and nothing happened. "lost": it works, but no reply to it or its repetitions arrives.
#: "interrupted": Ctrl-C after it worked. "expired": from this call on the credentials are no longer valid.
#: "dead": from this call on nothing answers.
Mode = Literal["refused", "lost", "interrupted", "expired", "dead"]


@dataclass(kw_only=True)
class Faults:
    """Watches every call of the clients of a session, and makes one of them fail.

    calls: the calls so far, as "sagemaker.CreateModel". fail_at: index into them, None for no failure.
    only: operations that count ("sagemaker.CreateModel"); empty for all. throttle_first: every call is throttled
    that many times before it is let through. canned: replies of calls that the server behind does not know.
    refuse: given an operation and its parameters, an error (code, message), or None. answer: given the same, the reply
    of a service that the server behind lacks, or None; it raises Refused.
    """

    fail_at: int | None = None
    mode: Mode = "refused"
    throttle_first: int = 0
    canned: dict[str, Parameters] = field(default_factory=dict)
    refuse: Callable[[str, Parameters], tuple[str, str] | None] | None = None
    answer: Callable[[str, Parameters], Parameters | None] | None = None
    calls: list[str] = field(default_factory=list)
    _throttled: int = 0

    def attach(self, session: Client) -> None:
        """Watch a boto3 session. Clients that it has made before are not watched."""
        session.events.register("provide-client-params", self._on_parameters)
        session.events.register("before-call", self._before_call)
        session.events.register("before-send", self._before_send)

    def reset(self) -> None:
        """Forget the calls so far, and fail no more."""
        self.fail_at, self.mode, self.throttle_first, self.refuse, self.answer = None, "refused", 0, None, None
        self.calls.clear()
        self.canned.clear()

    @property
    def _failing(self) -> bool:
        if self.fail_at is None:
            return False
        index = len(self.calls) - 1
        return index >= self.fail_at if self.mode in ("expired", "dead") else index == self.fail_at

    def _on_parameters(self, params: Parameters, model: Client, **_: object) -> None:
        self._parameters = params

    def _before_call(self, model: Client, **_: object) -> tuple[Client, Parameters] | None:
        name = f"{model.service_model.service_name}.{model.name}"
        self.calls.append(name)
        self._throttled = 0
        if self._failing and self.mode == "refused":
            return _failure(403, "AccessDenied", f"User is not authorized to perform: {name}")
        if self._failing and self.mode == "expired":
            return _failure(403, "ExpiredToken", "The security token included in the request is expired")
        refused = self.refuse(name, self._parameters) if self.refuse else None
        if refused is not None:
            return _failure(400, *refused)
        if name in self.canned:
            return _Status(200), {**self.canned[name], "ResponseMetadata": {"HTTPStatusCode": 200}}
        return self._answered(name)

    def _answered(self, name: str) -> tuple[_Status, Parameters] | None:
        """The reply of `answer`, or the failure that would have come over the network in its place."""
        if self.answer is None:
            return None
        from botocore.exceptions import ConnectionClosedError

        try:
            reply = self.answer(name, self._parameters) if not (self._failing and self.mode == "dead") else None
        except Refused as refused:
            return _failure(400, refused.code, str(refused))
        if reply is None:
            return None  # before-send lets it fail, if it must
        if self._failing and self.mode == "interrupted":
            raise KeyboardInterrupt
        if self._failing:
            raise ConnectionClosedError(endpoint_url=name)  # type: ignore[no-untyped-call]
        return _Status(200), {**reply, "ResponseMetadata": {"HTTPStatusCode": 200}}

    def _before_send(self, request: Client, **_: object) -> Client:
        if self._throttled < self.throttle_first:
            self._throttled += 1
            return _throttling(request.url, self.calls[-1].split(".")[0])
        if not self._failing:
            return None
        from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
        from botocore.httpsession import URLLib3Session

        if self.mode == "dead":
            raise EndpointConnectionError(endpoint_url=request.url)  # type: ignore[no-untyped-call]
        URLLib3Session().send(request)  # type: ignore[no-untyped-call]
        if self.mode == "interrupted":
            raise KeyboardInterrupt
        raise ConnectionClosedError(endpoint_url=request.url)  # type: ignore[no-untyped-call]


class Refused(Exception):
    """An error that a service answers with. code: as AWS names it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Status:
    """The part of an HTTP reply that botocore looks at."""

    status_code: int


def _failure(status: int, code: str, message: str) -> tuple[_Status, Parameters]:
    return _Status(status), {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0},
    }


class _Body(io.BytesIO):
    """An HTTP body as botocore reads it."""

    def stream(self, amount: int = 65536, decode_content: bool | None = None) -> Iterator[bytes]:
        while block := self.read(amount):
            yield block


def _throttling(url: str, service: str) -> Client:
    """A throttled reply in the protocol of the service, so that botocore's own retries see it."""
    from botocore.awsrequest import AWSResponse

    if service == "s3":
        status, code = 503, "SlowDown"
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Reduce your request rate</Message></Error>"
    elif service in ("iam", "sts"):
        status, code = 400, "Throttling"
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>Rate exceeded</Message></Error>"
            "<RequestId>0</RequestId></ErrorResponse>"
        )
    else:
        status, code = 400, "ThrottlingException"
        body = json.dumps({"__type": code, "message": "Rate exceeded"})
    headers = {"x-amzn-ErrorType": code, "content-length": str(len(body))}
    return AWSResponse(url, status, headers, _Body(body.encode()))  # type: ignore[no-untyped-call]
