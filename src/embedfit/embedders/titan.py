"""Amazon Titan Text Embeddings V2 through Bedrock, every call in the ledger like any other paid call."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import closing

import numpy as np

from embedfit.embedders.registry import EmbedderKind, Opening, PaidEmbedder, Spec
from embedfit.errors import ProviderError, UsageError
from embedfit.llm.ledger import Ledger, Usage
from embedfit.llm.metered import Estimate, LedgeredModel
from embedfit.llm.prices import Prices, load_prices
from embedfit.llm.protocol import Failure, Message, Reply, Request
from embedfit.llm.providers.bedrock import call_aws, connect
from embedfit.llm.transport.remote import paced
from embedfit.llm.transport.retry import CallError
from embedfit.models.store.vectors import Storage
from embedfit.network.aws import Client
from embedfit.numerics.arrays import Vectors

MODEL_ID = "amazon.titan-embed-text-v2:0"
WIDTHS = (1024, 512, 256)
#: 8,192 tokens and at most 50,000 characters; longer texts are cut, as every other system cuts them.
MAX_CHARACTERS = 50_000


def request_of(text: str, width: int) -> Request:
    """The ledger's form of an embedding call: it names text and width, and nothing else decides the vector."""
    messages = (Message(role="system", content=f"dimensions={width}"), Message(role="user", content=text))
    return Request(messages=messages, max_tokens=0, temperature=0.0, top_p=1.0)


class TitanTransport:
    """One call. A reply's text is the vector, little-endian float32 in base64. client: of bedrock-runtime."""

    provider = "bedrock"
    price_provider = "bedrock"
    model = MODEL_ID
    counts_exactly = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def count_tokens(self, request: Request) -> int:
        """Input tokens, estimated upwards: three characters a token."""
        return len(request.messages[-1].content) // 3 + 1

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(self, request: Request) -> Reply:
        """One InvokeModel call. Raises CallError."""
        width = int(request.messages[0].content.removeprefix("dimensions="))
        body = {"inputText": request.messages[-1].content, "dimensions": width, "normalize": True}
        response = call_aws(
            self._client.invoke_model,
            modelId=MODEL_ID, body=json.dumps(body), contentType="application/json", accept="application/json",
        )  # fmt: skip
        try:
            value = json.loads(response["body"].read())
            vector = np.asarray(value["embedding"], dtype="<f4")
            tokens = int(value["inputTextTokenCount"])
        except Exception as error:  # botocore's stream raises errors of its own where the connection breaks
            raise CallError(f"Bedrock's reply holds no vector: {error}", maybe_billed=True) from error
        if vector.shape != (width,):
            raise CallError(f"Bedrock sent {vector.shape} numbers instead of {width}.", status=200, maybe_billed=True)
        return Reply(text=base64.b64encode(vector.tobytes()).decode(), input_tokens=tokens, output_tokens=0)


class Titan(PaidEmbedder):
    """Titan V2 of one width. Vectors that were paid for before come from the ledger.

    client: a bedrock-runtime client without retries. opening: limits the run's cost, its earlier calls included; its
    runtime confirms before the first call that costs money.
    """

    storage: Storage = "own"

    def __init__(
        self,
        width: int,
        client: Client,
        ledger: Ledger,
        opening: Opening,
        *,
        instruction: str = "",
        prices: Prices | None = None,
        owns_ledger: bool = False,
    ) -> None:
        self.name = "titan-v2" if width == WIDTHS[0] else f"titan-v2:{width}"
        self.key = f"{MODEL_ID}:{width}"
        self.instruction = instruction
        self._width = width
        self._report = opening.runtime.report
        self._client = client
        self._ledger = ledger
        self._owns_ledger = owns_ledger
        # InvokeModel takes one text a call, so calls are made side by side.
        model = paced(TitanTransport(client), self._report)
        self._model = LedgeredModel(model, ledger, prices or load_prices(), opening.max_cost, run=opening.run)
        self._confirm = opening.runtime.confirm
        self._confirmed = False
        self._call_ids: set[str] = set()

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, width).

        Raises UsageError if the user does not confirm the cost, BudgetExceeded if it may pass max_cost,
        ProviderError naming the first text that got no vector.
        """
        prefix = self.instruction if is_query else ""
        requests = [request_of((prefix + text)[:MAX_CHARACTERS], self._width) for text in texts]
        self._ask_consent(self._model.estimate(requests))
        vectors = np.zeros((len(texts), self._width), np.float32)
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
                vectors[index] = np.frombuffer(base64.b64decode(outcome.text), "<f4")
                self._call_ids.add(call_id)
                task.advance()
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = vectors / np.maximum(norms, 1e-12)
        return unit

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
        """Close the connections; boto3 opens new ones where it needs them."""
        self._client.close()

    def close(self) -> None:
        """Close the ledger too, if it is this object's own."""
        self.release()
        if self._owns_ledger:
            self._ledger.close()


def _check(target: str) -> None:
    if target and target not in map(str, WIDTHS):
        raise UsageError(f"Titan V2 is {', '.join(map(str, WIDTHS))} wide.")


def _open(spec: Spec, opening: Opening) -> Titan:
    client = connect("bedrock-runtime")
    return Titan(
        int(spec.target or WIDTHS[0]),
        client,
        Ledger(opening.runtime.ledger),
        opening,
        instruction=spec.instruction or "",
        owns_ledger=True,
    )


EMBEDDER = EmbedderKind(form="titan-v2:512", check=_check, open=_open, bills=lambda target: True)
