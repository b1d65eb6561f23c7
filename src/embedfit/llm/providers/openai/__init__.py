"""Servers with OpenAI's /v1/chat/completions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from embedfit.generators import Generator
from embedfit.network.addresses import is_private_host

if TYPE_CHECKING:
    from embedfit.config import GenerateConfig
    from embedfit.llm.opening import Outside
    from embedfit.llm.protocol import LanguageModel

#: The beginning of an address without http://.
_HOST = re.compile(r"localhost\b|[\w.-]+:\d+(?:/|$)|(?:\d+\.){3}\d+")


def _open(settings: GenerateConfig, outside: Outside) -> LanguageModel:
    from embedfit.llm.providers.openai.transport import OpenAiTransport, connect, resolve_model
    from embedfit.llm.transport.remote import CONNECTIONS, paced

    client, key = connect(settings.base_url, connections=CONNECTIONS)
    try:
        model = resolve_model(client, settings.llm)
    except BaseException:
        client.close()
        raise
    return paced(OpenAiTransport(client, model, secret=key), outside.report)


def _spec(rest: str) -> dict[str, str | None]:
    """URL#MODEL; either may be missing."""
    url, mark, model = rest.partition("#")
    if not mark and "://" not in rest:
        url, model = "", rest
    if (url and not url.startswith(("http://", "https://"))) or (not url and _HOST.match(model)):
        raise ValueError(
            f"{url or model} is no address; the form is openai:URL#MODEL, such as openai:http://localhost:8000/v1#NAME"
        )
    return {"base_url": url or None, "llm": model or None}


def _may_bill(settings: GenerateConfig) -> bool:
    host = urlsplit(settings.base_url or "").hostname
    return not (host and is_private_host(host))


GENERATOR = Generator(name="openai", open=_open, spec=_spec, may_bill=_may_bill)
