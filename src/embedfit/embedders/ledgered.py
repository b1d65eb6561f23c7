"""Embedders whose vectors are paid for: every vector is a call in the ledger, and none is paid for twice."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from embedfit.embedders.client import ServerEmbedder
from embedfit.embedders.registry import Opening, PaidEmbedder
from embedfit.errors import ProviderError, UsageError
from embedfit.llm.ledger import Ledger, Usage
from embedfit.llm.metered import Estimate, LedgeredModel
from embedfit.llm.prices import Prices, load_prices
from embedfit.llm.protocol import Failure, LanguageModel, Message, Outcome, Reply, Request
from embedfit.llm.transport.retry import CallError
from embedfit.models.store.vectors import Storage
from embedfit.numerics.arrays import Vectors

#: Texts of a server's model between two writes of the ledger: a killed process pays for these again.
_TOGETHER = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What decides the vectors of a paid embedder. request: a text → the ledger's form of its call."""

    name: str
    key: str
    instruction: str
    request: Callable[[str], Request]


class LedgeredEmbedder(PaidEmbedder):
    """An embedder whose vectors come from the ledger if they are there, and go into it otherwise.

    model: its replies' texts are vectors, see as_text. opening: limits the run's cost, its earlier calls included; its
    runtime confirms before the first call that costs money.
    """

    storage: Storage = "own"

    def __init__(
        self,
        identity: Identity,
        model: LanguageModel,
        ledger: Ledger,
        opening: Opening,
        *,
        prices: Prices | None = None,
        owns_ledger: bool = False,
    ) -> None:
        self.name, self.key, self.instruction = identity.name, identity.key, identity.instruction
        self._request = identity.request
        self._report = opening.runtime.report
        self._ledger, self._owns_ledger = ledger, owns_ledger
        self._model = LedgeredModel(model, ledger, prices or load_prices(), opening.max_cost, run=opening.run)
        self._confirm = opening.runtime.confirm
        self._confirmed = False
        self._call_ids: set[str] = set()

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, H); (0, 0) for no texts.

        Raises UsageError if the user does not confirm the cost, BudgetExceeded if it may pass max_cost,
        ProviderError naming the first text that got no vector.
        """
        requests = self._requests(texts, is_query)
        self._ask_consent(self._model.estimate(requests))
        found: dict[int, Vectors] = {}
        work = f"{self.name}: {'queries' if is_query else 'passages'}"
        with self._report.task(work, len(texts), "texts") as task, closing(self._model.complete(requests)) as answers:
            for index, outcome, call_id in answers:
                if isinstance(outcome, Failure):
                    raise ProviderError(
                        f"{self.name} gave no vector for text {index + 1} of {len(texts)}: {outcome.error}",
                        remedy=outcome.remedy
                        or "Run the same command again: vectors that were paid for are in the ledger.",
                        retryable=outcome.retryable,
                    )
                found[index] = np.frombuffer(base64.b64decode(outcome.text), "<f4")
                self._call_ids.add(call_id)
                task.advance()
        if not found:
            return np.zeros((0, 0), np.float32)
        vectors = np.stack([found[index] for index in range(len(texts))])
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    def estimate(self, texts: Sequence[str], *, is_query: bool) -> Estimate:
        """The cost of the texts' vectors that are not in the ledger yet. It sends nothing."""
        return self._model.estimate(self._requests(texts, is_query))

    def _requests(self, texts: Sequence[str], is_query: bool) -> list[Request]:
        prefix = self.instruction if is_query else ""
        return [self._request(prefix + text) for text in texts]

    def _ask_consent(self, estimate: Estimate) -> None:
        """Ask the user once: passages come first and make up nearly all of the cost."""
        self._report.log(f"{self.name}: {estimate}")
        if estimate.calls and not self._confirmed and not self._confirm(f"Go on with {self.name} ({estimate})?"):
            raise UsageError("Nothing was spent: the calls were not confirmed.", remedy="To go on, add --yes.")
        self._confirmed = True

    @property
    def usage(self) -> Usage:
        """The cost of the vectors that were asked for so far, whenever they were paid for."""
        return self._ledger.usage_of(self._call_ids)

    def release(self) -> None:
        """Close the connections; new ones are opened where they are needed."""
        self._model.model.close()

    def close(self) -> None:
        """Close the ledger too, if it is this object's own."""
        self.release()
        if self._owns_ledger:
            self._ledger.close()


def as_text(vector: Vectors) -> str:
    """A vector (H,) as the text of a reply: little-endian float32 in base64."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def about_tokens(request: Request) -> int:
    """Input tokens of a call, estimated upwards: three characters a token."""
    return len(request.messages[-1].content) // 3 + 1


class ServerModel(LanguageModel):
    """A server's embedder as a model whose replies are vectors."""

    provider = "openai"

    def __init__(self, embedder: ServerEmbedder, model: str) -> None:
        """model: its id in the price table."""
        self.model = model
        self._embedder = embedder

    def count_tokens(self, request: Request) -> int:
        """Input tokens, estimated upwards."""
        return about_tokens(request)

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yield the vectors of the requests' last messages, some requests at a time."""
        for start in range(0, len(requests), _TOGETHER):
            some = range(start, min(start + _TOGETHER, len(requests)))
            try:
                vectors = self._embedder.embed([requests[index].messages[-1].content for index in some])
            except CallError as error:
                failure = Failure(error=error.message, retryable=error.retryable, remedy=error.remedy or "")
                yield from ((index, failure) for index in some)
                continue
            for index, vector in zip(some, vectors, strict=True):
                tokens = self.count_tokens(requests[index])
                yield index, Reply(text=as_text(vector), input_tokens=tokens, output_tokens=0)

    def close(self) -> None:
        """Close the connections."""
        self._embedder.release()


def ledgered(embedder: ServerEmbedder, model: str, opening: Opening, *, url: str) -> LedgeredEmbedder:
    """A server's embedder that bills, with its calls in the user's ledger. url: is part of a call's identity."""

    def request(text: str) -> Request:
        messages = (Message(role="system", content=f"vector by {url}"), Message(role="user", content=text))
        return Request(messages=messages, max_tokens=0, temperature=0.0, top_p=1.0)

    identity = Identity(name=embedder.name, key=embedder.key, instruction=embedder.instruction, request=request)
    ledger = Ledger(opening.runtime.ledger)
    return LedgeredEmbedder(identity, ServerModel(embedder, model), ledger, opening, owns_ledger=True)
