"""Saying what calls would cost, and going on only if the user agrees."""

from __future__ import annotations

from collections.abc import Sequence

from embedfit.errors import UsageError
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.protocol import Request
from embedfit.runtime import Runtime


def agree(
    model: LedgeredModel, requests: Sequence[Request], what: str, runtime: Runtime, *, free: bool = False
) -> None:
    """Log the estimate of the requests, and ask where they may cost money: unknown prices count as money.

    what: the work, for people. free: nobody is paid, as on this machine. Raises UsageError if the user
    does not agree.
    """
    estimate = model.estimate(requests)
    runtime.report.log(f"{what} by {model.name}: {estimate}")
    free = free or (estimate.price is not None and estimate.price.usd(1_000_000, 1_000_000) == 0)
    if estimate.calls and not free and not runtime.confirm(f"Go on ({estimate})?"):
        raise UsageError("Nothing was spent: the calls were not confirmed.", remedy="To go on, add --yes.")
