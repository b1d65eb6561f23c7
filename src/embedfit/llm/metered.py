"""A language model behind the ledger: nothing is paid for twice, nothing beyond the budget is spent."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

from embedfit.errors import BudgetExceeded, UsageError
from embedfit.llm.budget import Budget
from embedfit.llm.ledger import Experience, Ledger, Usage, call_id, encode_request
from embedfit.llm.prices import Price, Prices
from embedfit.llm.protocol import Failure, Gate, LanguageModel, Outcome, Reply, Request
from embedfit.progress import Reporter, Silent

#: The reason of a query or score whose call did not fit max_cost.
OVER_BUDGET = "not asked: --max-cost was reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimated cost of a set of requests.

    calls: to be sent; cached: answered by the ledger. input_tokens, output_tokens, usd: of the calls
    to be sent; usd is None if no price is known. ceiling_usd: the most that they can cost.
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
                f"about {_dollars(self.usd)}, at most {_dollars(self.ceiling_usd or 0.0)}{dated}"
                if self.price.usd(1, 1)
                else "free"
            )
        cached = f", {self.cached:,} more from the ledger" if self.cached else ""
        tokens = f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out ({self.basis})"
        return f"{self.calls:,} calls{cached}; {tokens}; {money}"


def _dollars(usd: float) -> str:
    """An amount for people; one below a cent is not shown as nothing."""
    return f"${usd:,.2f}" if usd >= 0.005 or not usd else f"${usd:.1g}" if usd >= 0.0001 else "$0.0001"


class LedgeredModel:
    """A language model whose replies come from the ledger if they are there, and go into it otherwise.

    prices: the price table. max_cost: USD that this run may spend; calls in flight, time-outs and the cost of the same
    run's earlier processes count. BudgetExceeded ends complete() when the next call would not fit. run: the name under
    which money is booked; the default is this ledger object's own.
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
    ) -> None:
        self.model = model
        self.ledger = ledger
        self.run = run or ledger.owner
        #: The model, then the model for calls that it fails at, each with its price.
        self._asked = [(one, _price_of(one, prices)) for one in (model, model.fallback) if one is not None]
        self.price = self._asked[0][1]
        self._report = report or Silent()
        if max_cost is not None and any(price is None for _, price in self._asked):
            raise UsageError(
                f"No price is known for {model.model} at {_billed_by(model)}, so --max-cost can't be kept.",
                remedy="Add a [[price]] entry for it to a TOML file named in EMBEDFIT_PRICES, or leave --max-cost out.",
            )
        self.budget = Budget(max_cost, ledger.spent(self.run) if max_cost is not None else 0.0)
        self._usage = Usage()
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
        """The usage of this object's own calls; replies from the ledger cost nothing."""
        return self._usage

    def call_id(self, request: Request) -> str:
        """The ledger's key of a request to this model."""
        return call_id(self.model.provider, self.model.model, request)

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """The cost of the requests before they are sent. Sends nothing."""
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
            ceiling_usd=sum(ceiling(price, self.model, request) for request in missing) if price else None,
            basis=basis,
            price=price,
        )

    def _input_tokens(self, requests: Sequence[Request], experience: Experience | None) -> tuple[int, str]:
        if experience is None or self.model.counts_exactly:
            basis = "counted" if self.model.counts_exactly else "estimated upwards"
            return sum(self.model.count_tokens(request) for request in requests), basis
        characters = sum(len(encode_request(request)) for request in requests)
        return round(experience.input_tokens_per_character * characters), "from earlier calls to this model"

    def stored(self, requests: Sequence[Request]) -> list[Reply | None]:
        """The ledger's reply for each request, or None."""
        keys = [self.call_id(request) for request in requests]
        found = self.ledger.find(set(keys))
        return [found.get(key) for key in keys]

    def can_split(self, requests: Sequence[Request], first: int) -> bool:
        """Whether asking `first` of the requests ahead of the others costs nothing more.

        It costs more if a job of an earlier process owes their replies, because jobs are fetched whole; and if the
        others were too few for a job, because each would be asked at the full price.
        """
        if not self.model.least_calls:
            return True
        missing = {self.call_id(request) for request in requests}
        missing -= set(self.ledger.find(missing))
        return len(missing) - first >= self.model.least_calls and not self.ledger.in_open_jobs(missing, self.run)

    # --- asking

    def complete(self, requests: Sequence[Request]) -> Generator[tuple[int, Outcome, str], None, None]:
        """Yield (index, outcome, key), each index once: the ledger's replies first.

        Every reply is durable when it is yielded. Equal requests share one call. Closing the
        iterator cancels what has not been sent and keeps what has arrived. Raises BudgetExceeded,
        after everything that could be paid for was yielded, if something could not. Waits while another
        run pays from the same ledger.
        """
        indices: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            indices[self.call_id(request)].append(index)
        missing = {key: requests[found[0]] for key, found in indices.items()}
        with closing(self._outcomes(missing)) as outcomes:
            for key, outcome in outcomes:
                for index in indices[key]:
                    yield index, outcome, key

    def _outcomes(self, missing: dict[str, Request]) -> Generator[tuple[str, Outcome], None, None]:
        """The outcome of each call by its key, which is then no longer missing."""
        yield from self._found(missing)
        if not missing:
            return
        takes_turns = self.model.takes_turns or any(price is None or price.usd(1, 1) for _, price in self._asked)
        with self.ledger.paying(self._report) if takes_turns else nullcontext():
            yield from self._found(missing)  # another run may have paid for some of them in the meantime
            refused: set[str] = set()
            for model, price in self._asked:
                gate = _LedgerGate(self, model, price, {k: r for k, r in missing.items() if k not in refused})
                if not gate.calls:
                    break
                if model is not self.model:
                    self._report.log(
                        f"{len(gate.calls):,} calls without a reply of {_billed_by(self.model)} are asked on demand"
                    )
                last = model is self._asked[-1][0]
                with closing(model.complete_through(list(gate.calls.values()), gate)) as outcomes:
                    for index, outcome in outcomes:
                        if last or not (isinstance(outcome, Failure) and outcome.retryable):
                            key = gate.keys[index]
                            del missing[key]
                            yield key, outcome
                refused |= gate.refused
        if refused:
            raise BudgetExceeded(
                f"{len(refused):,} calls were not sent: with them the cost could pass --max-cost"
                f" ${self.budget.limit or 0:,.2f} (${self.budget.spent:,.4f} spent so far).",
                remedy="Every reply so far is in the ledger. Allow more with --max-cost, or ask for fewer queries.",
            )

    def _found(self, missing: dict[str, Request]) -> Iterator[tuple[str, Reply]]:
        for key, reply in self.ledger.find(missing).items():
            del missing[key]
            yield key, reply

    def count(self, reply: Reply, usd: float) -> None:
        """Add a call to the usage. Called from many threads."""
        with self._usage_lock:
            self._usage = self._usage.plus(reply, usd)


class _LedgerGate(Gate):
    """Books the calls of one model in ledger and budget. Called from many threads.

    calls: the requests by key. refused: the keys of calls that did not fit the budget.
    """

    def __init__(
        self, owner: LedgeredModel, model: LanguageModel, price: Price | None, calls: dict[str, Request]
    ) -> None:
        self._owner, self._model, self._price = owner, model, price
        self._ledger, self._budget = owner.ledger, owner.budget
        self.calls, self.keys = calls, list(calls)
        self.refused: set[str] = set()
        # A batch job keeps an account of its own in the ledger, and its money is set aside there.
        self._keeps_jobs = model.least_calls > 0
        self._ordered = owner.ledger.in_open_jobs(calls, owner.run) if self._keeps_jobs else {}

    def admit(self, index: int) -> bool | None:
        key = self.keys[index]
        if key in self._ordered:
            self._budget.adopt(key, self._ordered[key])
            return True
        usd = ceiling(self._price, self._model, self.calls[key])
        fits = self._budget.reserve(key, usd)
        if fits is False:
            self.refused.add(key)
        elif fits and usd and not self._keeps_jobs:
            self._ledger.sending(key, usd, run=self._owner.run)
        return fits

    def received(self, index: int, reply: Reply) -> None:
        key, model = self.keys[index], self._model
        usd = self._price.usd(reply.input_tokens, reply.output_tokens) if self._price else 0.0
        self._ledger.put(
            key,
            model.provider,
            model.model,
            self.calls[key],
            reply,
            usd=usd,
            run=self._owner.run,
            fetchable=self._keeps_jobs,
        )
        self._budget.settle(key, usd)
        self._owner.count(reply, usd)

    def returned(self, index: int) -> None:
        key = self.keys[index]
        if not self._keeps_jobs:
            self._ledger.returned(key)
        self._budget.settle(key, 0.0)

    def lost(self, index: int) -> None:
        key = self.keys[index]
        if not self._keeps_jobs:
            self._ledger.lost(key)
        self._budget.settle(key, None)


def ceiling_tokens(request: Request) -> int:
    """An upper bound of a request's input tokens under any byte-level tokenizer.

    A token stands for at least one byte of UTF-8; 16 for each message and 64 for the whole cover every common chat
    template.
    """
    return sum(len(message.content.encode("utf-8", "replace")) + 16 for message in request.messages) + 64


def ceiling(price: Price | None, model: LanguageModel, request: Request) -> float:
    """USD that a call can cost at most; 0 without a price. Tokens are counted if the model's tokenizer is there."""
    if price is None:
        return 0.0
    # 64 more, in case the provider's chat template is longer than ours.
    most = model.count_tokens(request) + 64 if model.counts_exactly else ceiling_tokens(request)
    return price.usd(most, request.max_tokens)


def _billed_by(model: LanguageModel) -> str:
    """The provider under which the price table lists a model: "bedrock-batch" has other prices than "bedrock"."""
    return model.price_provider or model.provider


def _price_of(model: LanguageModel, prices: Prices) -> Price | None:
    price = prices.find(_billed_by(model), model.model)
    return replace(price, model=model.model) if price else None
