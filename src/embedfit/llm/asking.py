"""Asking many calls: the user sees the cost first, useless replies end the work, and a low token limit is raised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from embedfit.errors import BudgetExceeded, UsageError
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.probing import FIRST, FIRST_OF_LIMIT, LIMITS, LimitTooLow, Tally, Wanted, Worth
from embedfit.llm.protocol import Outcome, Request
from embedfit.runtime import Runtime

T = TypeVar("T")
#: Reads a call's outcome. Its arguments: number, outcome, the ledger's key, whether its worth is still in doubt.
Read = Callable[[int, Outcome, str, bool], tuple[T, Worth]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The settings of a work of many calls.

    work: its name, for the log. what: the work in words, for the question whether to go on. wanted: what the replies
    should hold. free: the calls cost no money, so the user confirms nothing and no call is tried before the others.
    max_tokens: of a reply; 0 takes the calls' own limits, and more if the model's thoughts use them up. essential: the
    stage can't go on without any reply.
    """

    work: str
    what: str
    wanted: Wanted
    free: bool = False
    max_tokens: int = 0
    essential: bool = False


def ask_all(
    model: LedgeredModel,
    requests: Sequence[Request],
    how: Asking,
    read: Read[T],
    runtime: Runtime,
    kinds: Sequence[str] | None = None,
) -> list[T | None]:
    """The value that was read from each call's outcome; None for calls that --max-cost left out.

    kinds: each call's kind; the replies of every kind must be of use. Raises GeneratorError if no reply of the first
    calls was of use, UsageError if the user does not agree, BudgetExceeded if nothing essential could be paid.
    """
    kinds = kinds if kinds is not None else [how.work] * len(requests)
    limits = (0,) if how.free else (how.max_tokens,) if how.max_tokens else LIMITS
    for limit, higher in itertools.zip_longest(limits, limits[1:]):
        calls = within_limit(model, requests, limit)
        try:
            return _ask(model, calls, how, read, runtime, Tally(kinds, how.wanted, limit))
        except LimitTooLow as error:
            if not higher:
                raise
            runtime.report.log(f"{how.work}: {error.message}")
            runtime.report.log(f"{how.work}: asking again, with up to {higher:,} tokens a reply")
    raise AssertionError("there is always a limit")


def _ask(
    model: LedgeredModel, calls: Sequence[Request], how: Asking, read: Read[T], runtime: Runtime, tally: Tally
) -> list[T | None]:
    agree(model, calls, how, runtime)
    found: list[T | None] = [None] * len(calls)
    with runtime.report.task(how.work, len(calls), "calls") as task:
        try:
            for part in parts(model, calls, tally.kinds, free=how.free):
                # On an interrupt, closing cancels the calls that were not sent and keeps the replies that have arrived.
                with closing(model.complete([calls[number] for number in part])) as answers:
                    for place, outcome, key in answers:
                        number = part[place]
                        doubtful = not how.free and tally.doubts(number)
                        found[number], worth = read(number, outcome, key, doubtful)
                        tally.add(number, outcome, worth if doubtful else replace(worth, said=()))
                        task.advance()
                tally.check()
        except BudgetExceeded as error:
            if how.essential and all(value is None for value in found):
                raise
            runtime.report.log(f"{how.work}: {error.message}")
            tally.check()
    return found


def agree(model: LedgeredModel, requests: Sequence[Request], how: Asking, runtime: Runtime) -> None:
    """Log the estimate of the requests, and ask if they may cost money: unknown prices count as money.

    Raises UsageError if the user does not agree.
    """
    estimate = model.estimate(requests)
    runtime.report.log(f"{how.what} by {model.name}: {estimate}")
    free = how.free or (estimate.price is not None and estimate.price.usd(1_000_000, 1_000_000) == 0)
    if estimate.calls and not free and not runtime.confirm(f"Go on ({estimate})?"):
        raise UsageError("Nothing was spent: the calls were not confirmed.", remedy="To go on, add --yes.")


def parts(model: LedgeredModel, requests: Sequence[Request], kinds: Sequence[str], *, free: bool) -> list[list[int]]:
    """The requests, by number, in parts to be asked one after the other: FIRST of them in two parts, then the others.

    kinds: each request's kind; they take turns in the first parts. free: the requests cost no money, so all are one
    part.
    """
    everything = list(range(len(requests)))
    if free or len(requests) <= FIRST_OF_LIMIT or not model.can_split(requests, FIRST):
        return [everything]
    of_kind = [[n for n in everything if kinds[n] == kind] for kind in dict.fromkeys(kinds)]
    in_turn = [n for row in itertools.zip_longest(*of_kind) for n in row if n is not None][:FIRST]
    rest = [n for n in everything if n not in set(in_turn)]
    return [part for part in (in_turn[:FIRST_OF_LIMIT], in_turn[FIRST_OF_LIMIT:], rest) if part]


def within_limit(model: LedgeredModel, requests: Sequence[Request], limit: int) -> list[Request]:
    """The requests with a limit of tokens, 0 for their own. A whole reply under a lower limit is used again."""
    result = [_limited(request, limit) for request in requests]
    for lower in reversed([tokens for tokens in LIMITS if tokens < limit]):
        tried = [_limited(request, lower) for request in requests]
        for number, reply in enumerate(model.stored(tried)):
            if reply is not None and reply.finish != "length":
                result[number] = tried[number]
    return result


def _limited(request: Request, limit: int) -> Request:
    return replace(request, max_tokens=max(limit, request.max_tokens))
