"""The interface of language models, as the rest of embedfit uses it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from embedfit.errors import GeneratorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. role: "system", "user" or "assistant".

    A single message of the role "text" is no conversation: the local generator continues it as it stands.
    """

    role: str
    content: str

    def harmless(self, specials: Sequence[str]) -> str:
        """The content, unable to end its own turn: control tokens in it are broken up. specials: the longest first."""
        text = self.content
        for special in specials:
            text = text.replace(special, special[0] + " " + special[1:])
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call: everything that decides the reply, so that its hash names the call.

    Few-shot examples are earlier user/assistant turns in messages; providers may share the work of
    a common prefix between requests. stop: strings; the reply ends before the first that occurs.
    seed: distinguishes several samples of one prompt, and makes the local generator repeatable.
    extra: a JSON object of further fields for the provider, as text; empty for none.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.9
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int = 0
    extra: str = ""


def extra_of(fields: Mapping[str, object]) -> str:
    """Request.extra of further fields: their canonical JSON, empty if there are none."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False) if fields else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A model's reply. finish: "stop", "length" or "refusal"; tokens as the provider counted them."""

    text: str
    input_tokens: int
    output_tokens: int
    finish: str = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that got no reply, after every retry that made sense.

    unwritten: nothing went wrong, but the provider, which only holds replies, has none for this request. remedy: the
    advice if no request got a reply.
    """

    error: str
    retryable: bool
    unwritten: bool = False
    remedy: str = ""


Outcome: TypeAlias = Reply | Failure


class Gate:
    """A guard of the money: a provider asks it before each attempt. Thread-safe.

    An attempt that was admitted ends in exactly one of received, returned and lost. This gate lets everything through.
    """

    def admit(self, index: int) -> bool | None:
        """Whether request `index` may be sent. False: never. None: not before a call in flight has ended."""
        return True

    def received(self, index: int, reply: Reply) -> None:
        """Take the reply, in the thread that received it. It is durable when this returns."""

    def returned(self, index: int) -> None:
        """Take note of an attempt that failed and was not billed."""

    def lost(self, index: int) -> None:
        """Take note of an attempt that failed and may have been billed."""


class LanguageModel(ABC):
    """A provider of replies. A subclass sets `provider` and `model` and writes `complete`; the rest has defaults.

    provider: for example "bedrock", "openai" or "local"; model: its id there, for local models a name with a content
    hash. Both are part of a call's identity. price_provider: the provider's name in the price table; default: provider.
    counts_exactly: whether count_tokens counts with the model's own tokenizer, rather than estimates upwards.
    takes_turns: whether other runs wait while this one asks, so that none pays for the same call; not for a model that
    runs in this process. least_calls: the fewest calls of a job, if the provider takes calls as jobs and keeps the
    replies until they are fetched; else 0. fallback: the model for calls that this one fails at.
    """

    provider: str
    model: str
    price_provider: str = ""
    counts_exactly: bool = False
    takes_turns: ClassVar[bool] = True
    least_calls: ClassVar[int] = 0
    fallback: LanguageModel | None = None

    def count_tokens(self, request: Request) -> int:
        """Input tokens of a request: counted if a tokenizer is at hand, else estimated; the default counts words."""
        return sum(len(message.content.split()) for message in request.messages)

    @abstractmethod
    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index into requests, outcome) as replies arrive, in any order, each index once.

        The caller makes each reply durable before it asks for the next, so a provider yields as soon as it can and
        holds nothing back. Closing the iterator cancels what has not been sent.
        """

    def complete_through(self, requests: Sequence[Request], gate: Gate) -> Generator[tuple[int, Outcome], None, None]:
        """As complete(), but the gate admits each call. Calls that it refuses are not yielded.

        This default sends as many as the gate admits at once, and then more from the money that those left over.
        """
        waiting = deque(range(len(requests)))
        while waiting:
            wave: list[int] = []
            while waiting and (admitted := gate.admit(waiting[0])) is not None:
                index = waiting.popleft()
                if admitted:
                    wave.append(index)
            yield from self._wave(requests, wave, gate)

    def _wave(self, requests: Sequence[Request], wave: list[int], gate: Gate) -> Iterator[tuple[int, Outcome]]:
        unanswered = dict.fromkeys(wave)
        outcomes = self.complete([requests[index] for index in wave]) if wave else iter(())
        try:
            for place, outcome in outcomes:
                index = wave[place]
                if isinstance(outcome, Reply):
                    gate.received(index, outcome)
                else:
                    gate.returned(index)
                del unanswered[index]
                yield index, outcome
            if unanswered:
                name = self.price_provider or self.provider
                raise GeneratorError(f"{name} left {len(unanswered)} of {len(wave)} requests unanswered.")
        finally:
            if isinstance(outcomes, Generator):
                outcomes.close()  # so that the provider cancels calls that were not sent
            for index in unanswered:
                gate.returned(index)

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close connections; nothing can be asked afterwards."""
