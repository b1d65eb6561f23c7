"""The rules by which failed calls are tried again."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from embedfit.errors import ProviderError

#: HTTP statuses after which the same call may succeed: time-outs, model errors, throttling, overload.
RETRYABLE_STATUSES = frozenset({408, 409, 424, 425, 429, 500, 502, 503, 504, 529})
#: Statuses that say something about every call, not about this one: key, access, model.
HOPELESS_STATUSES = frozenset({401, 402, 403, 404})


class CallError(ProviderError):
    """One attempt at a call failed.

    throttled: whether the provider took no more calls for now. retry_after: seconds that the provider asks to wait, or
    None. maybe_billed: the provider may have done, and billed, the work, though its reply did not arrive.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        status: int | None = None,
        throttled: bool = False,
        retry_after: float | None = None,
        maybe_billed: bool = False,
    ) -> None:
        retryable = status is None or status in RETRYABLE_STATUSES
        super().__init__(message, remedy=remedy, status=status, retryable=retryable)
        self.throttled = throttled
        self.retry_after = retry_after
        self.maybe_billed = maybe_billed

    @property
    def hopeless(self) -> bool:
        """Whether every other call would fail the same way."""
        return self.status in HOPELESS_STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter (Brooker, "Exponential backoff and jitter", 2015).

    attempts: of one call, throttled ones not counted: those say nothing about the call.
    patience_s: how long throttling may last without a single reply before calls are given up; first_patience_s:
    the same as long as there has never been a reply.
    """

    attempts: int = 6
    base_s: float = 0.5
    cap_s: float = 30.0
    patience_s: float = 900.0
    first_patience_s: float = 180.0

    def gives_up(self, error: CallError, attempt: int, starved_s: float, *, ever: bool = True) -> bool:
        """Whether a call that failed for the attempt-th time (1-based) is not tried again.

        starved_s: seconds since a call succeeded. ever: whether any call has succeeded yet.
        """
        if not error.retryable:
            return True
        if error.throttled:
            patience = self.patience_s if ever else min(self.patience_s, self.first_patience_s)
            return max(starved_s, error.retry_after or 0.0) > patience
        return attempt >= self.attempts

    def delay(self, error: CallError, attempt: int, rng: random.Random) -> float:
        """Seconds to wait before the next attempt. attempt: 1-based number of the one that failed.

        Throttled calls go back to the queue at once, in random order within one base_s: the throttle
        alone decides when anything may be sent.
        """
        if error.throttled:
            return rng.uniform(0.0, self.base_s)
        wait = rng.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** (attempt - 1)))
        return max(wait, min(error.retry_after or 0.0, 4 * self.cap_s))


_TRY_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) (\d{1,5}(?:\.\d{1,3})?) ?(ms|milliseconds?|s|sec|seconds?|m|min|minutes?)\b",
    re.I,
)


def retry_after(headers: Mapping[str, str], text: str = "") -> float | None:
    """Seconds that the server asks to wait, in its headers or in its words ("try again in 1.5s")."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    said = _TRY_AGAIN.search(text)
    if said is None:
        return None
    return float(said[1]) * {"ms": 1e-3, "m": 60.0}.get(said[2].lower()[:2].rstrip("i"), 1.0)
