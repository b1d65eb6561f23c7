"""Asking a judge many calls: the cost is said first, useless replies end it early, and short limits are raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from embedfit.errors import BudgetExceeded
from embedfit.llm.consent import agree
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.probing import LIMITS, LimitTooLow, Tally, parts, within_limit
from embedfit.llm.protocol import Failure, Reply, Request
from embedfit.runtime import Runtime

#: Takes the number of a call, its outcome and the ledger's key; says whether the outcome was of use.
Take = Callable[[int, Reply | Failure, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a judge is asked.

    name: of the work, for the log. unit: what a reply should hold, such as "score". another: how another judge is
    named. without: how to go on without the judge. free: nobody is paid. max_tokens: of a reply, 0 for what the calls
    ask for, and more for a model whose thoughts take all of it. extra: further fields of each call, as in Request.
    """

    name: str
    unit: str
    another: str
    without: str
    free: bool = False
    max_tokens: int = 0
    extra: str = ""


def ask_all(
    model: LedgeredModel, requests: Sequence[Request], how: Asking, what: str, runtime: Runtime, take: Take
) -> None:
    """Ask every call once, and hand each outcome to `take`; of calls that --max-cost left out nothing is heard.

    what: the work, for the question whether to go on. Raises GeneratorError where no reply of the first calls was of
    use, UsageError where the user does not agree.
    """
    limits = (0,) if how.free else (how.max_tokens,) if how.max_tokens else LIMITS
    for limit, higher in zip(limits, (*limits[1:], 0), strict=True):
        calls = within_limit(model, [replace(call, extra=how.extra) for call in requests], limit)
        try:
            _ask(model, calls, how, what, limit, runtime, take)
            return
        except LimitTooLow as error:
            if not higher:
                raise
            runtime.report.log(f"{how.name}: {error.message}")
            runtime.report.log(f"{how.name}: asking again, with up to {higher:,} tokens a reply")


def _ask(
    model: LedgeredModel, calls: Sequence[Request], how: Asking, what: str, limit: int, runtime: Runtime, take: Take
) -> None:
    agree(model, calls, what, runtime, free=how.free)
    kinds = [how.name] * len(calls)
    tally = Tally(kinds, how.unit, limit, another=how.another, without=how.without)
    with runtime.report.task(how.name, len(calls), "calls") as task:
        try:
            for part in parts(model, calls, kinds, free=how.free):
                with closing(model.complete([calls[number] for number in part])) as answers:
                    for place, outcome, key in answers:
                        tally.add(how.name, outcome, useful=take(part[place], outcome, key))
                        task.advance()
                tally.check()
        except BudgetExceeded as error:
            runtime.report.log(f"{how.name}: {error.message}")
