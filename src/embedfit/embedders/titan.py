"""Amazon Titan Text Embeddings V2 through Bedrock, every call in the ledger like any other paid call."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from embedfit.embedders.ledgered import Identity, LedgeredEmbedder, about_tokens, as_text
from embedfit.embedders.registry import EmbedderKind, Opening, Spec
from embedfit.errors import UsageError
from embedfit.llm.ledger import Ledger
from embedfit.llm.prices import Prices
from embedfit.llm.protocol import Message, Reply, Request
from embedfit.llm.providers.bedrock import call_aws, connect
from embedfit.llm.transport.remote import paced
from embedfit.llm.transport.retry import CallError
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
        """Input tokens, estimated upwards."""
        return about_tokens(request)

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
        return Reply(text=as_text(vector), input_tokens=tokens, output_tokens=0)


class Titan(LedgeredEmbedder):
    """Titan V2 of one width. client: a bedrock-runtime client without retries."""

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
        identity = Identity(
            name="titan-v2" if width == WIDTHS[0] else f"titan-v2:{width}",
            key=f"{MODEL_ID}:{width}",
            instruction=instruction,
            request=lambda text: request_of(text[:MAX_CHARACTERS], width),
        )
        # InvokeModel takes one text a call, so calls are made side by side.
        model = paced(TitanTransport(client), opening.runtime.report)
        super().__init__(identity, model, ledger, opening, prices=prices, owns_ledger=owns_ledger)
        self._width = width
        self._client = client

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, width). Raises as LedgeredEmbedder does."""
        return super().embed(texts, is_query=is_query) if texts else np.zeros((0, self._width), np.float32)

    def release(self) -> None:
        """Close the connections; boto3 opens new ones where it needs them."""
        self._client.close()


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
