"""What every language model looks like to the rest of embedfit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. role: "system", "user" or "assistant".

    A single message of the role "text" is no conversation: the local generator continues it as it stands.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call: everything that decides the reply, so that its hash names the call.

    Few-shot examples are earlier user/assistant turns in messages; providers may share the work of
    a common prefix between requests. stop: the reply ends before the first of these strings.
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


def extra_of(fields: Mapping[str, Any]) -> str:
    """Request.extra of further fields: their canonical JSON, empty where there are none."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False) if fields else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back. finish: "stop", "length" or "refusal"; tokens as the provider counted them."""

    text: str
    input_tokens: int
    output_tokens: int
    finish: str = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that got no reply, after every retry that made sense.

    unwritten: the provider holds replies and has none for this request: nothing went wrong. remedy: what to do where
    no request got a reply.
    """

    error: str
    retryable: bool
    unwritten: bool = False
    remedy: str = ""


class Named(Protocol):
    """What a call's identity and price are made of."""

    @property
    def provider(self) -> str:
        """For example "bedrock", "openai" or "local". Part of a call's identity."""

    @property
    def model(self) -> str:
        """The model's id at the provider (for local models a name with a content hash). Part of a call's identity."""

    @property
    def counts_exactly(self) -> bool:
        """Whether count_tokens counts with the model's own tokenizer, rather than estimates upwards."""

    def count_tokens(self, request: Request) -> int:
        """Input tokens of a request: counted where a tokenizer is at hand, else estimated upwards."""


class LanguageModel(Named, Protocol):
    """A provider of replies. What else one may be: GatedModel (in `metered`), JobModel and BilledAs."""

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        """Yield (index into requests, reply) as replies arrive, in any order, each index once.

        The caller makes each yielded reply durable before it asks for the next, so a provider
        yields as soon as it can and holds nothing back. Closing the iterator cancels what has
        not been sent and keeps what has arrived.
        """


@runtime_checkable
class JobModel(Protocol):
    """A provider whose calls are ordered as jobs: these keep their replies until they are fetched.

    least_calls: what a job takes at least. fallback: asked for what a job leaves out.
    """

    least_calls: int
    fallback: LanguageModel | None


@runtime_checkable
class BilledAs(Protocol):
    """A provider that the price table lists under a name of its own, such as bedrock-batch."""

    @property
    def price_provider(self) -> str:
        """That name."""
