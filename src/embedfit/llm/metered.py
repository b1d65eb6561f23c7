"""A language model behind the ledger: nothing is paid for twice, nothing beyond the budget is spent."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from embedfit.errors import BudgetExceeded, GeneratorError, UsageError
from embedfit.llm.ledger import Experience, Ledger, Usage, call_id, encode_request
from embedfit.llm.prices import Price, Prices
from embedfit.llm.protocol import BilledAs, Failure, JobModel, LanguageModel, Reply, Request
from embedfit.progress import Reporter

Answered = tuple[int, Reply | Failure, str]

#: Why something was not asked for, where max_cost did not reach for its call.
OVER_BUDGET = "not asked: --max-cost was reached"
#: Seconds between two looks at the ledger while another process holds a call.
FOREIGN_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a set of requests would take.

    calls: to be sent; cached: answered by the ledger. input_tokens, output_tokens, usd: of the calls
    to be sent; usd is None where no price is known. ceiling_usd: what they can cost at most.
    basis: how the tokens were found, in words. price: the entry used.
    """

    calls: int
    cached: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    ceiling_usd: float | None
    basis: str
    price: Price | None

    def __str__(self) -> str:
        if not self.calls:
            return f"no calls: all {self.cached:,} replies are in the ledger"
        money = "cost unknown (no price for this model)"
        if self.usd is not None and self.price is not None:
            dated = f", prices of {self.price.date}" if self.price.date else ""
            money = (
                f"about ${self.usd:,.2f}, at most ${self.ceiling_usd:,.2f}{dated}" if self.price.usd(1, 1) else "free"
            )
        cached = f", {self.cached:,} more from the ledger" if self.cached else ""
        tokens = f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out ({self.basis})"
        return f"{self.calls:,} calls{cached}; {tokens}; {money}"


def ceiling_tokens(request: Request) -> int:
    """An upper bound of a request's input tokens under any byte-level tokenizer.

    A token stands for at least one byte of UTF-8; 16 more a message, and 64 in all, cover every
    common chat template.
    """
    content = sum(len(message.content.encode("utf-8", "replace")) + 16 for message in request.messages)
    return content + 64


class Budget:
    """USD that may still be spent, counting calls in flight. Thread-safe. limit: None for no limit."""

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._spent = spent
        self._reserved: dict[str, float] = {}
        self._in_flight = 0.0

    @property
    def spent(self) -> float:
        """USD that are gone, calls in flight not counted."""
        return self._spent

    def reserve(self, key: str, usd: float) -> bool | None:
        """Set money aside for a call: True; None: not now, but calls in flight may free some; False: never."""
        with self._lock:
            if self.limit is not None and self._spent + self._in_flight + usd > self.limit + 1e-9:
                return None if self._reserved else False
            self._reserved[key] = usd
            self._in_flight += usd
            return True

    def adopt(self, key: str, usd: float) -> None:
        """Set money aside for a call that an earlier process sent. Until now the ledger counted it as spent."""
        with self._lock:
            self._spent -= min(usd, self._spent)
            self._reserved[key] = usd
            self._in_flight += usd

    def settle(self, key: str, usd: float) -> None:
        """Replace what was set aside by what it cost (0 where nothing was billed)."""
        with self._lock:
            self._take(key)
            self._spent += usd

    def lost(self, key: str) -> float:
        """Count what was set aside as spent: the call may have been billed. Returns it."""
        with self._lock:
            usd = self._take(key)
            self._spent += usd
            return usd

    def _take(self, key: str) -> float:
        usd = self._reserved.pop(key, 0.0)
        self._in_flight = self._in_flight - usd if self._reserved else 0.0  # no drift of rounding errors
        return usd


Admission = Literal["send", "wait", "later", "never"]


class Gate(Protocol):
    """What a provider that sends many calls at once asks about each of them. Thread-safe.

    admit comes before every attempt. "wait": nothing may be sent until a call in flight has ended;
    "later": ask again about this one in a while; "never": leave it out. A Reply: it is there already.
    returned and lost end an attempt that will be made again or given up; settle ends the call.
    """

    def admit(self, index: int) -> Admission | Reply:
        """Whether to send now."""

    def settle(self, index: int, outcome: Reply | Failure) -> None:
        """Take the final outcome, in the thread that received it. A reply is durable when this returns."""

    def returned(self, index: int) -> None:
        """Take note of an attempt that failed and was not billed."""

    def lost(self, index: int) -> None:
        """Take note of an attempt that failed and may have been billed."""

    def tick(self) -> None:
        """Take note of time passing."""


@runtime_checkable
class GatedModel(Protocol):
    """A provider that sends many calls at once, each through a gate."""

    def complete_through(self, requests: Sequence[Request], gate: Gate) -> Iterator[tuple[int, Reply | Failure]]:
        """As complete(), asking the gate. Indices that the gate never admits are not yielded."""


class LedgeredModel:
    """A language model whose replies come from the ledger where they are there, and go into it otherwise.

    prices: to count what calls cost. max_cost: USD that this run may spend, calls in flight, time-outs
    and what earlier processes of the same run spent included; BudgetExceeded ends complete() when the
    next call would not fit. run: the name under which money is booked; the default is this process's
    own. fallback: asked for what the model failed to answer though it could; default: the model's own
    (bedrock-batch has one: on demand).
    """

    def __init__(
        self,
        model: LanguageModel,
        ledger: Ledger,
        prices: Prices,
        max_cost: float | None = None,
        report: Reporter | None = None,
        *,
        run: str = "",
        fallback: LanguageModel | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.model = model
        self.ledger = ledger
        self.run = run or ledger.owner
        self.price = _price_of(model, prices)
        self._fallback = fallback or (model.fallback if isinstance(model, JobModel) else None)
        self._fallback_price = _price_of(self._fallback, prices) if self._fallback is not None else None
        self._report = report
        self._sleep = sleep
        unpriced = self.price is None or (self._fallback is not None and self._fallback_price is None)
        if max_cost is not None and unpriced:
            raise UsageError(
                f"No price is known for {model.model} at {_billed_by(model)}, so --max-cost can't be kept.",
                remedy="Add a [[price]] entry for it to a TOML file named in EMBEDFIT_PRICES, or leave --max-cost out.",
            )
        self.budget = Budget(max_cost, ledger.spent(self.run) if max_cost is not None else 0.0)
        self._new = Usage()
        self._usage_lock = threading.Lock()

    @property
    def provider(self) -> str:
        """The wrapped model's provider."""
        return self.model.provider

    @property
    def name(self) -> str:
        """The wrapped model's id."""
        return self.model.model

    @property
    def usage(self) -> Usage:
        """What this object's own calls have consumed; replies from the ledger cost nothing."""
        return self._new

    def call_id(self, request: Request) -> str:
        """The ledger's key of a request to this model."""
        return call_id(self.model.provider, self.model.model, request)

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What the requests would take. Sends nothing."""
        distinct = {self.call_id(request): request for request in requests}
        cached = self.ledger.find(distinct)
        missing = [request for key, request in distinct.items() if key not in cached]
        experience = self.ledger.experience(self.model.provider, self.model.model) if missing else None
        tokens_in, basis = self._input_tokens(missing, experience)
        tokens_out = sum(request.max_tokens for request in missing)
        if experience is not None:
            tokens_out = min(tokens_out, round(experience.output_tokens * len(missing)))
        price = self.price
        return Estimate(
            calls=len(missing),
            cached=len(cached),
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            usd=price.usd(tokens_in, tokens_out) if price else None,
            ceiling_usd=sum(_ceiling(price, self.model, request) for request in missing) if price else None,
            basis=basis,
            price=price,
        )

    def _input_tokens(self, requests: Sequence[Request], experience: Experience | None) -> tuple[int, str]:
        if self.model.counts_exactly:
            return sum(self.model.count_tokens(request) for request in requests), "counted"
        if experience is not None:
            characters = sum(len(encode_request(request)) for request in requests)
            return round(experience.input_tokens_per_character * characters), "from earlier calls to this model"
        return sum(self.model.count_tokens(request) for request in requests), "estimated upwards"

    def stored(self, requests: Sequence[Request]) -> list[Reply | None]:
        """What the ledger has for each request."""
        keys = [self.call_id(request) for request in requests]
        found = self.ledger.find(set(keys))
        return [found.get(key) for key in keys]

    def can_split(self, requests: Sequence[Request], first: int) -> bool:
        """Whether `first` of the requests can be asked ahead of the others at no loss.

        Not where a job of an earlier process owes their replies, for jobs are fetched whole, and not where too
        few for a job would be left, for they would be asked at the full price.
        """
        if not isinstance(self.model, JobModel):
            return True
        missing = {self.call_id(request) for request in requests}
        missing -= set(self.ledger.find(missing))
        return len(missing) - first >= self.model.least_calls and not self.ledger.in_open_jobs(missing, self.run)

    # --- asking

    def complete(self, requests: Sequence[Request]) -> Generator[Answered, None, None]:
        """Yield (index, reply or failure, key), each index once: first what the ledger has, then the rest.

        Every reply is durable when it is yielded. Equal requests share one call. Closing the
        iterator cancels what has not been sent and keeps what has arrived. Raises BudgetExceeded,
        after everything that could be paid for was yielded, if something could not.
        """
        indices: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            indices[self.call_id(request)].append(index)
        keys = {key: requests[found[0]] for key, found in indices.items()}
        cached = self.ledger.find(keys)
        for key, reply in cached.items():
            for index in indices[key]:
                yield index, reply, key
        missing = {key: request for key, request in keys.items() if key not in cached}
        if not missing:
            return
        refused = 0
        for last, session in self._sessions(missing):
            with closing(session.answers()) as answers:
                for key, outcome in answers:
                    if last or not (isinstance(outcome, Failure) and outcome.retryable):
                        missing.pop(key)
                        for index in indices[key]:
                            yield index, outcome, key
            refused += session.refused
        if refused:
            raise self._over_budget(refused)

    def _sessions(self, missing: dict[str, Request]) -> Iterator[tuple[bool, _Session]]:
        """(whether no other follows, session): the model's, then the fallback's over what is still missing."""
        session = _Session(self, self.model, self.price, dict(missing))
        yield self._fallback is None, session
        failed = {key: request for key, request in missing.items() if not session.has_refused(key)}
        if self._fallback is not None and failed:
            if self._report is not None:
                self._report.log(
                    f"{len(failed):,} calls without a reply of {_billed_by(self.model)} are asked on demand"
                )
            yield True, _Session(self, self._fallback, self._fallback_price, failed)

    def _over_budget(self, refused: int) -> BudgetExceeded:
        return BudgetExceeded(
            f"{refused:,} calls were not sent: with them the cost could pass --max-cost ${self.budget.limit:,.2f}"
            f" (${self.budget.spent:,.4f} spent so far).",
            remedy="Every reply so far is in the ledger. Allow more with --max-cost, or ask for fewer queries.",
        )

    def _count(self, reply: Reply, usd: float) -> None:
        with self._usage_lock:
            self._new = Usage(
                calls=self._new.calls + 1,
                input_tokens=self._new.input_tokens + reply.input_tokens,
                output_tokens=self._new.output_tokens + reply.output_tokens,
                usd=self._new.usd + usd,
            )


class _Session:
    """One pass over the requests that the ledger does not have. Its gate is called from many threads."""

    def __init__(
        self, owner: LedgeredModel, model: LanguageModel, price: Price | None, missing: dict[str, Request]
    ) -> None:
        self._owner, self._model, self._price = owner, model, price
        self._ledger, self._budget = owner.ledger, owner.budget
        self._missing = missing
        self._keys = list(missing)
        self._refused: set[str] = set()
        self._foreign_until: dict[str, float] = {}
        self._keeps_jobs = isinstance(model, JobModel)
        self._adopted: set[str] = set()

    @property
    def refused(self) -> int:
        """Calls that did not fit the budget."""
        return len(self._refused)

    def has_refused(self, key: str) -> bool:
        """Whether a call did not fit the budget."""
        return key in self._refused

    def answers(self) -> Generator[tuple[str, Reply | Failure], None, None]:
        if isinstance(self._model, GatedModel):
            requests = list(self._missing.values())
            with closing(_as_generator(self._model.complete_through(requests, self))) as outcomes:
                for index, outcome in outcomes:
                    yield self._keys[index], outcome
        else:
            yield from self._in_waves()

    # --- the gate

    def admit(self, index: int) -> Admission | Reply:
        key = self._keys[index]
        if time.monotonic() < self._foreign_until.get(key, 0.0):
            return "later"
        ceiling = _ceiling(self._price, self._model, self._missing[key])
        fits = self._budget.reserve(key, ceiling)
        if fits is None:
            return "wait"
        if not fits:
            self._refused.add(key)
            return "never"
        claimed, _ = self._ledger.claim({key: ceiling}, run=self._owner.run)
        if claimed:
            return "send"
        self._budget.settle(key, 0.0)
        found = self._ledger.find([key])
        if found:
            return found[key]
        self._foreign_until[key] = time.monotonic() + FOREIGN_POLL_S
        return "later"

    def settle(self, index: int, outcome: Reply | Failure) -> None:
        self._settle(self._keys[index], outcome)

    def returned(self, index: int) -> None:
        key = self._keys[index]
        self._ledger.release([key])
        self._budget.settle(key, 0.0)

    def lost(self, index: int) -> None:
        key = self._keys[index]
        usd = self._budget.lost(key)
        self._ledger.doubt(usd, "no reply", run=self._owner.run)
        self._ledger.release([key])

    def tick(self) -> None:
        self._ledger.renew()

    def _settle(self, key: str, outcome: Reply | Failure) -> None:
        if isinstance(outcome, Failure):
            self._ledger.release([key])
            self._budget.settle(key, 0.0)
            return
        usd = self._price.usd(outcome.input_tokens, outcome.output_tokens) if self._price else 0.0
        model = self._model
        self._ledger.put(
            key,
            model.provider,
            model.model,
            self._missing[key],
            outcome,
            usd=usd,
            run=self._owner.run,
            fetchable=self._keeps_jobs,
        )
        self._budget.settle(key, usd)
        self._owner._count(outcome, usd)

    # --- providers that take all requests at once

    def _in_waves(self) -> Generator[tuple[str, Reply | Failure], None, None]:
        """Send as many as the budget surely covers; with what they left over, send more."""
        pending = dict(self._missing)
        pause = FOREIGN_POLL_S
        while pending:
            wave, waiting = self._wave(pending)
            if wave:
                pause = FOREIGN_POLL_S
                yield from self._send(wave)
            for key in (*wave, *self._refused):
                pending.pop(key, None)
            if waiting and not wave:
                self._owner._sleep(pause)
                pause = min(2 * pause, 10 * FOREIGN_POLL_S)
            for key, reply in self._ledger.find(waiting).items():
                pending.pop(key)
                yield key, reply

    def _wave(self, pending: dict[str, Request]) -> tuple[list[str], list[str]]:
        """(to be sent now, another process's). What never fits the budget is refused."""
        ordered = self._ledger.in_open_jobs(pending, self._owner.run) if self._keeps_jobs else {}
        wave: dict[str, float] = {}
        for key, request in pending.items():
            fits: bool | None = True
            if key in ordered:  # its money is set aside already
                usd = ordered[key]
                if key not in self._adopted:
                    self._adopted.add(key)
                    self._budget.adopt(key, usd)
            else:
                usd = _ceiling(self._price, self._model, request)
                fits = self._budget.reserve(key, usd)
            if fits:
                wave[key] = usd
            elif fits is False:  # nothing in flight and still too dear
                self._refused.add(key)
            else:
                break
        # A batch job keeps its own account in the ledger: there a claim must not count the same money again.
        claims = dict.fromkeys(wave, 0.0) if self._keeps_jobs else wave
        claimed, foreign = self._ledger.claim(claims, run=self._owner.run)
        for key in foreign:
            self._budget.settle(key, 0.0)
        return claimed, foreign

    def _send(self, wave: list[str]) -> Generator[tuple[str, Reply | Failure], None, None]:
        unanswered = set(wave)
        requests = [self._missing[key] for key in wave]
        try:
            with closing(_as_generator(self._model.complete(requests))) as outcomes:
                for index, outcome in outcomes:
                    key = wave[index]
                    self._settle(key, outcome)
                    unanswered.discard(key)
                    self.tick()
                    yield key, outcome
        finally:
            self._ledger.release(unanswered)
            for key in unanswered:
                self._budget.settle(key, 0.0)
        if unanswered:
            raise GeneratorError(
                f"{_billed_by(self._model)} left {len(unanswered)} of {len(wave)} requests unanswered."
            )


def _as_generator(
    outcomes: Iterator[tuple[int, Reply | Failure]],
) -> Generator[tuple[int, Reply | Failure], None, None]:
    """The iterator as something with close(), which ends the provider's own work where it is a generator."""
    try:
        yield from outcomes
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()


def most_tokens(model: LanguageModel, request: Request) -> int:
    """The most input tokens that a request can take at a model: counted where its tokenizer is at hand."""
    if model.counts_exactly:
        return model.count_tokens(request) + 64  # for a chat template that says more than ours
    return ceiling_tokens(request)


def _ceiling(price: Price | None, model: LanguageModel, request: Request) -> float:
    return price.usd(most_tokens(model, request), request.max_tokens) if price else 0.0


def _billed_by(model: LanguageModel) -> str:
    """The provider under which the price table lists a model: "bedrock-batch" bills otherwise than "bedrock"."""
    return model.price_provider if isinstance(model, BilledAs) else model.provider


def _price_of(model: LanguageModel, prices: Prices) -> Price | None:
    price = prices.find(_billed_by(model), model.model)
    return replace(price, model=model.model) if price else None
