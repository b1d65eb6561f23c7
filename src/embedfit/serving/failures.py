"""The failures that a request can meet, with TEI's types and statuses."""

from __future__ import annotations

from typing import ClassVar


class RequestFailure(Exception):
    """A request that is answered with an error. kind and status are TEI's."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "Backend"
    label: ClassVar[str] = "backend"

    def __init__(self, message: str, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers


class Malformed(RequestFailure):
    """The body is not JSON."""

    status, kind, label = 400, "Validation", "validation"


class Empty(RequestFailure):
    """An input without any text."""

    status, kind, label = 400, "Empty", "validation"


class Unauthorized(RequestFailure):
    """No key, or the wrong one."""

    status, kind, label = 401, "Unauthorized", "unauthorized"


class NotFound(RequestFailure):
    """No such path."""

    status, kind, label = 404, "NotFound", "not_found"


class MethodNotAllowed(RequestFailure):
    """The path exists, but not with this method."""

    status, kind, label = 405, "MethodNotAllowed", "method"


class RequestTimeout(RequestFailure):
    """The client was too slow to send its request."""

    status, kind, label = 408, "Timeout", "timeout"


class PayloadTooLarge(RequestFailure):
    """The body is larger than --payload-limit."""

    status, kind, label = 413, "Validation", "payload"


class UnsupportedMediaType(RequestFailure):
    """The body is declared to be something other than JSON."""

    status, kind, label = 415, "Validation", "validation"


class Invalid(RequestFailure):
    """JSON that is not a valid request."""

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
    """Too many requests or tokens wait. retry_after: seconds until the queue is likely to have room."""

    status, kind, label = 429, "Overloaded", "overloaded"

    def __init__(self, message: str = "Model is overloaded", *, retry_after: int = 1) -> None:
        super().__init__(message, headers=(("retry-after", str(retry_after)),))


class Unhealthy(RequestFailure):
    """Not ready: warming up, shutting down, or broken."""

    status, kind, label = 503, "Unhealthy", "unhealthy"
