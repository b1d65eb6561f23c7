"""The failures that a request can meet, with TEI's statuses and types. The OpenAPI document shows their docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class RequestFailure(Exception):
    """A request that is answered with an error."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "Backend"
    label: ClassVar[str] = "backend"

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})


class Malformed(RequestFailure):
    """The body is not JSON."""

    status, kind, label = 400, "Validation", "validation"


class Empty(RequestFailure):
    """An input is empty."""

    status, kind, label = 400, "Empty", "validation"


class Unauthorized(RequestFailure):
    """The API key is missing or wrong."""

    status, kind, label = 401, "Unauthorized", "unauthorized"


class Forbidden(RequestFailure):
    """A page of a browser may not ask this."""

    status, kind, label = 403, "Forbidden", "forbidden"


class NotFound(RequestFailure):
    """No such route, or no index is served."""

    status, kind, label = 404, "NotFound", "not_found"


class MethodNotAllowed(RequestFailure):
    """The route has other methods."""

    status, kind, label = 405, "MethodNotAllowed", "method"


class RequestTimeout(RequestFailure):
    """The body came too slowly."""

    status, kind, label = 408, "Timeout", "timeout"


class PayloadTooLarge(RequestFailure):
    """The body is larger than --payload-limit."""

    status, kind, label = 413, "Validation", "payload"


class UnsupportedMediaType(RequestFailure):
    """The body is not declared as JSON, or is compressed."""

    status, kind, label = 415, "Validation", "validation"


class Invalid(RequestFailure):
    """Not a valid request, or an input that is too long."""

    status, kind, label = 422, "Validation", "validation"


class BatchTooLarge(Invalid):
    """More inputs than --max-client-batch-size."""

    label = "batch_size"


class TokenizerFailure(RequestFailure):
    """The tokenizer refused an input."""

    status, kind, label = 422, "Tokenizer", "tokenizer"


class BackendFailure(RequestFailure):
    """The model failed, or gave numbers that are no numbers."""

    status, kind, label = 424, "Backend", "inference"


class Overloaded(RequestFailure):
    """Too much waits: try again after the seconds in the retry-after header."""

    status, kind, label = 429, "Overloaded", "overloaded"

    def __init__(self, message: str = "Model is overloaded", *, retry_after: int = 1) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after)})


class Unhealthy(RequestFailure):
    """Not ready: warming up, shutting down, or broken."""

    status, kind, label = 503, "Unhealthy", "unhealthy"
