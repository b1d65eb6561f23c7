"""The ledger's records: calls and their keys, batch jobs, and sums over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from embedfit.llm.protocol import Message, Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A call that was paid for. usd: at the price of the day; created: UTC, ISO 8601; run: the run that paid."""

    call_id: str
    provider: str
    model: str
    request: Request
    reply: Reply
    usd: float
    run: str
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The tokens and money that a set of calls took."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    def plus(self, reply: Reply, usd: float) -> Usage:
        """The usage with one call more."""
        return Usage(
            calls=self.calls + 1,
            input_tokens=self.input_tokens + reply.input_tokens,
            output_tokens=self.output_tokens + reply.output_tokens,
            usd=self.usd + usd,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTotals:
    """The sums of one model's calls over the ledger's life. first, last: UTC, ISO 8601."""

    provider: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """A batch job at a provider. state: "creating", "open", or the final state that the provider named."""

    name: str
    provider: str
    model: str
    arn: str
    input_uri: str
    output_uri: str
    state: str
    run: str
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A line of a batch job. usd: the most that it can cost; counted as spent while the job is open."""

    record_id: str
    call_id: str
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """Mean sizes of earlier calls. Characters are those of the canonical request."""

    input_tokens_per_character: float
    output_tokens: float


def encode_request(request: Request) -> str:
    """Canonical JSON of a request. Changing it changes every key, and everybody pays again."""
    return canonical(value_of(request, request.messages))


def value_of(request: Request, messages: Sequence[Message]) -> dict[str, object]:
    """A request as JSON values, with some of its messages."""
    value: dict[str, object] = {
        "messages": [[message.role, message.content] for message in messages],
        "max_tokens": request.max_tokens,
        "temperature": float(request.temperature),
        "top_p": float(request.top_p),
        "stop": list(request.stop),
        "seed": request.seed,
    }
    if request.extra:  # left out if empty: keys of calls without it are older than the field
        value["extra"] = request.extra
    return value


def canonical(value: object) -> str:
    """The canonical JSON text of a value."""
    # ASCII only: a lone surrogate in a document must not stop SQLite from taking the row.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def decode_request(text: str, prompt: str = "[]") -> Request:
    """The request of a canonical JSON text. prompt: JSON of the messages that come before its own."""
    value = json.loads(text)
    turns = json.loads(prompt) + value.pop("messages")
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    return Request(messages=messages, stop=tuple(value.pop("stop")), **value)


def call_id(provider: str, model: str, request: Request) -> str:
    """The key of a call: 32 hex digits (128 bits) of a SHA-256 over provider, model and canonical request."""
    content = f"{provider}\0{model}\0{encode_request(request)}"
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
