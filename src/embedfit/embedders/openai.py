"""Servers with OpenAI's route for embeddings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np

from embedfit.embedders.client import ServerEmbedder, ServerInfo, Wire
from embedfit.embedders.http import HttpSender, Transport
from embedfit.embedders.ledgered import ledgered
from embedfit.embedders.registry import EmbedderKind, Opening, Spec, http_address
from embedfit.errors import UsageError
from embedfit.files.textfiles import Json
from embedfit.models.store.vectors import Embedder
from embedfit.network.addresses import is_private_host

_FORM = "openai:http://localhost:8080/v1#MODEL"


def _rows(value: Json) -> list[Json]:
    """The vectors in the order of the texts. Servers that ignore encoding_format may send base64."""
    ordered = sorted(value["data"], key=lambda item: int(item["index"]))
    vectors = [item["embedding"] for item in ordered]
    return [np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else one for one in vectors]


def openai(
    url: str,
    model: str,
    *,
    name: str = "",
    query_instruction: str | None = None,
    transport: Transport = None,
) -> ServerEmbedder:
    """A server's model. The key is OPENAI_API_KEY's.

    The protocol knows no prompts, so the client puts the instruction before queries.
    """

    def body(texts: Sequence[str], prompt: str | None) -> dict[str, object]:
        return {"model": model, "input": list(texts), "encoding_format": "float"}

    return ServerEmbedder(
        Wire(path="/embeddings", body=body, rows=_rows, info=ServerInfo(prompts={})),
        HttpSender(url, key_name="OPENAI_API_KEY", transport=transport),
        name=name or f"openai:{url}#{model}",
        address=("openai", url, model),
        query_instruction=query_instruction or "",
    )


def _taken_apart(target: str) -> tuple[str, str]:
    url, _, model = target.partition("#")
    return url.rstrip("/"), model


def _check(target: str) -> None:
    url, model = _taken_apart(target)
    http_address(url)
    if not model:
        raise UsageError("The model is missing.", remedy=f"For example: {_FORM}")


def _open(spec: Spec, opening: Opening) -> Embedder:
    url, model = _taken_apart(spec.target)
    embedder = openai(url, model, name=spec.name, query_instruction=spec.instruction)
    if opening.passes_on or not _bills(spec.target):
        return embedder
    return ledgered(embedder, model, opening, url=url)


def _bills(target: str) -> bool:
    return not is_private_host(urlsplit(_taken_apart(target)[0]).hostname or "")


EMBEDDER = EmbedderKind(form=_FORM, check=_check, open=_open, bills=_bills)
