"""Text Embeddings Inference, and `embedfit serve`, which speaks as it does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from embedfit.embedders.client import ServerEmbedder, ServerInfo, Wire
from embedfit.embedders.http import HttpSender, Transport
from embedfit.embedders.registry import EmbedderKind, http_address
from embedfit.files.textfiles import Json

_ROUTES = re.compile(r"/(v1|embed|embeddings|v1/embeddings)$")


def request_body(texts: Sequence[str], prompt: str | None) -> dict[str, object]:
    """A request to /embed. prompt: its name; "" for no prompt of the server's, None for its default."""
    named = {} if prompt is None else {"prompt_name": prompt}
    return {"inputs": list(texts), "truncate": True, **named}


def read_info(value: Json) -> ServerInfo:
    """The content of /info. Only embedfit's own server lists its prompts."""
    usual, prompts = ServerInfo(), value.get("prompts")
    return ServerInfo(
        rows=int(value.get("max_client_batch_size") or usual.rows),
        body_bytes=int(value.get("payload_limit") or usual.body_bytes),
        prompts={str(name): str(text) for name, text in prompts.items()} if prompts is not None else None,
        default_prompt=str(value.get("default_prompt") or ""),
        has_towers="queries" in value,
    )


WIRE = Wire(path="/embed", body=request_body, info_path="/info", read_info=read_info)


def tei(
    url: str,
    *,
    name: str = "",
    api_key: str | None = None,
    query_instruction: str | None = None,
    timeout: float = 120.0,
    concurrency: int = 4,
    transport: Transport = None,
) -> ServerEmbedder:
    """The model of a server. url: with or without /v1 or /embed at its end. api_key: default $EMBEDFIT_API_KEY."""
    base = _ROUTES.sub("", url.rstrip("/"))
    sender = HttpSender(
        base,
        key_name="EMBEDFIT_API_KEY",
        api_key=api_key,
        timeout=timeout,
        remedy="Is it running? For example: embedfit serve MODEL --port 8080",
        transport=transport,
    )
    return ServerEmbedder(
        WIRE,
        sender,
        name=name or base,
        address=("tei", base),
        query_instruction=query_instruction,
        concurrency=concurrency,
    )


EMBEDDER = EmbedderKind(
    form="tei:http://localhost:8080",
    check=http_address,
    open=lambda spec, opening: tei(spec.target, name=spec.name, query_instruction=spec.instruction),
)
