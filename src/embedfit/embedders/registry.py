"""The table of embedders, which parses names such as tei:http://localhost:8080 and opens the embedder.

    minilm, bge-base, owner/name, a folder     a model on this machine, with its own query instruction
    titan-v2, titan-v2:256                     Amazon Titan Text Embeddings V2 through Bedrock, 1024 or 512 or 256 wide
    openai:URL#MODEL                           any OpenAI-compatible embeddings endpoint (key in OPENAI_API_KEY); calls
                                               to one outside the local network are paid for, and go into the ledger
    tei:URL                                    Text Embeddings Inference, or `embedfit serve` (key in EMBEDFIT_API_KEY)
    sagemaker:NAME@REGION                      a SageMaker endpoint that runs either of them

A name may end in |INSTRUCTION to put that text before every query, such as "bge-base|query: ".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from embedfit import plugins
from embedfit.errors import UsageError
from embedfit.llm.ledger import Usage
from embedfit.llm.metered import Estimate
from embedfit.models.store.vectors import Embedder
from embedfit.network.addresses import checked_address
from embedfit.runtime import Runtime

#: Entry points of this group name an EmbedderKind as "module:NAME"; the entry point's name comes before the colon of
#: its embedders' names.
GROUP = "embedfit.embedders"
#: The kind of a name without a colon: a model on this machine.
LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """An embedder's name, taken apart. target: the text behind the kind. instruction: None for the model's own."""

    name: str
    kind: str
    target: str
    instruction: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Arguments for an embedder. max_cost: USD that may be spent under the name `run`, None for no limit.

    passes_on: whether vectors are passed on to others, who pay for them, so that none is booked or kept.
    """

    runtime: Runtime
    max_cost: float | None = None
    run: str = ""
    passes_on: bool = False


class PaidEmbedder(ABC):
    """The base of embedders whose vectors are calls in the ledger."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """The cost of the vectors that were asked for so far, whenever they were paid for."""

    @abstractmethod
    def estimate(self, texts: Sequence[str], *, is_query: bool) -> Estimate:
        """The cost of the texts' vectors that are not in the ledger yet. It sends nothing."""

    @abstractmethod
    def close(self) -> None:
        """Close the ledger, if it is this object's own. Nothing can be asked afterwards, not even usage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderKind:
    """One kind of embedder.

    The module that holds it is imported for every run: it imports heavy packages when it opens one.

    form: an example of its names. check: raises UsageError for a target of another form. open: opens it, without a call
    yet. Raises MissingDependency, naming the extra. bills: whether somebody may send a bill for the vectors of a
    target.
    """

    form: str
    check: Callable[[str], object]
    open: Callable[[Spec, Opening], Embedder]
    bills: Callable[[str], bool] = lambda target: False


def kinds() -> dict[str, EmbedderKind]:
    """Every kind by the text before the colon. A plug-in replaces ours of the same name."""
    return {name: found.record for name, found in plugins.table(GROUP, EmbedderKind).items()}


def parse(name: str) -> Spec:
    """Take an embedder's name apart. Raises UsageError that shows the right form."""
    text, separator, instruction = name.partition("|")
    prompt = instruction if separator else None
    if not text:
        raise UsageError("An embedder has no name.", remedy="For example: minilm, titan-v2 or a model folder.")
    kind, _, target = text.partition(":")
    if kind not in kinds():
        return Spec(name=name, kind=LOCAL, target=text, instruction=prompt)
    try:
        kinds()[kind].check(target)
    except UsageError as error:
        raise UsageError(f"{name!r}: {error.message}", remedy=f"For example: {kinds()[kind].form}") from error
    return Spec(name=name, kind=kind, target=target, instruction=prompt)


def bills(name: str) -> bool:
    """Whether somebody may send a bill for an embedder's vectors."""
    spec = parse(name)
    return spec.kind != LOCAL and kinds()[spec.kind].bills(spec.target)


def open_embedder(
    name: str, runtime: Runtime, *, max_cost: float | None = None, run: str = "", passes_on: bool = False
) -> Embedder:
    """An embedder by name. max_cost: USD that `run` may spend on a paid one. passes_on: as in Opening."""
    spec = parse(name)
    if spec.kind == LOCAL:
        from embedfit.models.local import local_model  # loads torch, which users of a server don't need

        return local_model(name, spec.target, query_instruction=spec.instruction)
    opening = Opening(runtime=runtime, max_cost=max_cost, run=run, passes_on=passes_on)
    return kinds()[spec.kind].open(spec, opening)


@contextmanager
def opened_embedders() -> Iterator[dict[str, Embedder]]:
    """The context of a dictionary of opened embedders; at its end their ledgers are closed."""
    opened: dict[str, Embedder] = {}
    try:
        yield opened
    finally:
        for embedder in opened.values():
            if isinstance(embedder, PaidEmbedder):
                embedder.close()


def http_address(target: str) -> None:
    """Raise UsageError unless a target is a server's URL."""
    checked_address(target, "", key_name="", example="http://localhost:8080")
