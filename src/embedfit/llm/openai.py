"""Any server that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama-server, hosted ones."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embedfit.addresses import is_private_host
from embedfit.errors import MissingDependency, ProviderError, UsageError
from embedfit.llm.client import Reply, Request
from embedfit.llm.replies import cut_at_stop
from embedfit.llm.retry import CallError, Resource, throttled_resource
from embedfit.llm.tokens import TokenCounter

if TYPE_CHECKING:
    import httpx

OFFICIAL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4.1-mini"
#: Optional fields that some server or model refuses, and what is sent in their place.
_OPTIONAL = {"max_tokens": "max_completion_tokens", "temperature": None, "top_p": None, "seed": None, "stop": None}
_UNSUPPORTED = re.compile(r"unsupported|not support|unrecognized|unknown|does not|only the default|not permitted", re.I)
_MOST_STOPS = 4  # OpenAI's limit; the rest is cut here


class OpenAiTransport:
    """Chat completions at one base URL. The key goes into the Authorization header and nowhere else.

    client: an httpx.Client whose base_url and headers are set; see connect().
    """

    def __init__(self, client: httpx.Client, model: str, *, secret: str = "") -> None:
        self._client = client
        self._secret = secret
        self._count = TokenCounter.of_model(model)
        self._left_out: frozenset[str] = frozenset()
        self.model = model
        self.provider, self.price_provider = names(str(client.base_url))

    @property
    def counts_exactly(self) -> bool:
        """Whether the model's tokenizer is at hand."""
        return self._count.exact

    def count_tokens(self, request: Request) -> int:
        """Input tokens."""
        return self._count(request)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(self, request: Request) -> Reply:
        """One chat completion. Raises CallError."""
        while True:
            left_out = self._left_out
            response = self._post(_body(self.model, request, left_out))
            if response.status_code == 200:
                return self._reply(request, response)
            error = self._error(response)
            field = _refused_field(response) if response.status_code in (400, 422) else None
            if field is None or field in left_out:
                raise error
            self._left_out |= {field}

    def _post(self, body: Mapping[str, object]) -> httpx.Response:
        import httpx

        where = self._client.base_url.host
        try:
            return self._client.post("chat/completions", json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise CallError(f"{where} could not be reached: {self._clean(str(error))}") from error
        except httpx.TimeoutException as error:
            raise CallError(f"{where} did not answer in time.", maybe_billed=True) from error
        except httpx.HTTPError as error:
            raise CallError(f"{where} broke the connection: {self._clean(str(error))}", maybe_billed=True) from error

    def _reply(self, request: Request, response: httpx.Response) -> Reply:
        try:
            value = response.json()
            choice = value["choices"][0]
            message = choice["message"]
            content = message.get("content")
            refusal = message.get("refusal")
            usage = value.get("usage") or {}
            text = content if isinstance(content, str) else ""
            finish = _finish(str(choice.get("finish_reason") or "stop"))
            if refusal and not text:
                text, finish = str(refusal), "refusal"
            text, stopped = cut_at_stop(text, request.stop)
            return Reply(
                text=text,
                input_tokens=int(usage.get("prompt_tokens") or self._count(request)),
                output_tokens=int(usage.get("completion_tokens") or len(text.encode()) // 3 + 1),
                finish="stop" if stopped else finish,
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CallError(
                f"{self._client.base_url.host} answered with something that is not a chat completion.",
                maybe_billed=True,
            ) from error

    def _error(self, response: httpx.Response) -> CallError:
        status, where = response.status_code, self._client.base_url.host
        detail = _detail(response)
        text = self._clean(str(detail.get("message") or response.text))[:300]
        if status == 401:
            return CallError(
                f"{where} refused the API key.", status=401, remedy="Set OPENAI_API_KEY to a key that is valid there."
            )
        if status == 403:
            return CallError(f"{where} refused access (403): {text}", status=403)
        if status == 404:
            return CallError(
                f"{where} has no model {self.model!r} or no chat completions (404): {text}",
                status=404,
                remedy="Check --base-url (it usually ends in /v1) and the model's name: set generate.llm.",
            )
        if status == 429 and detail.get("code") == "insufficient_quota":
            return CallError(f"{where}: {text}", status=402, remedy="Add credit to the account, or use another key.")
        throttled: Resource | None = None
        if status == 429:
            kind = str(detail.get("type") or "")
            throttled = throttled_resource(kind if kind in ("tokens", "requests") else text)
        return CallError(
            f"{where} answered {status}: {text}",
            status=status,
            throttled=throttled,
            retry_after=_retry_after(response.headers),
            maybe_billed=status in (408, 504),
        )

    def _clean(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def names(base_url: str) -> tuple[str, str]:
    """(provider of a call's identity, provider in the price table) of a base URL.

    Two servers may mean different models by one name, so the address is part of the identity.
    """
    parts = urlsplit(base_url)
    if parts.hostname == urlsplit(OFFICIAL).hostname:
        return "openai", "openai"
    where = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    return f"openai@{where}", "openai@private" if is_private_host(parts.hostname or "") else f"openai@{where}"


def connect(
    base_url: str | None = None,
    api_key: str | None = None,
    *,
    connections: int = 64,
    timeout_s: float = 120.0,
) -> tuple[httpx.Client, str]:
    """(client, key) for a base URL; both default to the environment: OPENAI_BASE_URL, OPENAI_API_KEY."""
    try:
        import httpx
    except ImportError as error:
        raise MissingDependency("httpx", extra="openai", needed_for="An OpenAI-compatible server") from error

    url = (base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"The base URL {parts.hostname or url!r} is not an address.",
            remedy="For example: --base-url http://localhost:8000/v1",
        )
    key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")
    if not key and parts.hostname == urlsplit(OFFICIAL).hostname:
        raise UsageError("OPENAI_API_KEY is not set.", remedy="Run: export OPENAI_API_KEY=…, or name a --base-url.")
    if key and parts.scheme == "http" and not is_private_host(parts.hostname):
        raise UsageError(
            f"{parts.hostname} is addressed by http, which would show the API key to everybody on the way.",
            remedy="Use https, or unset OPENAI_API_KEY.",
        )
    client = httpx.Client(
        base_url=url + "/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(timeout_s, connect=10.0),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=True,
    )
    return client, key


def resolve_model(client: httpx.Client, wanted: str | None) -> str:
    """The model to ask for: the one wanted, OpenAI's default, or the only one that the server has."""
    import httpx

    if wanted:
        return wanted
    if names(str(client.base_url))[0] == "openai":
        return DEFAULT_MODEL
    host = client.base_url.host
    try:
        response = client.get("models", timeout=10.0)
        response.raise_for_status()
        models = [str(model["id"]) for model in response.json()["data"]]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise ProviderError(
            f"{host} could not be asked which models it has.",
            remedy="Check that it runs and that --base-url is right (it usually ends in /v1), or set generate.llm.",
        ) from error
    if len(models) == 1:
        return models[0]
    listed = ", ".join(models[:10]) or "none"
    raise UsageError(f"{host} has several models: {listed}.", remedy="Choose one: --set generate.llm=NAME")


def _body(model: str, request: Request, left_out: frozenset[str]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": message.role, "content": message.content.encode("utf-8", "replace").decode()}
            for message in request.messages
        ],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    if request.stop:
        body["stop"] = list(request.stop[:_MOST_STOPS])
    for field in left_out:
        value = body.pop(field, None)
        instead = _OPTIONAL[field]
        if instead is not None:
            body[instead] = value
    return body


def _finish(reason: str) -> str:
    return {"length": "length", "content_filter": "refusal"}.get(reason, "stop")


def _detail(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        return {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}


def _refused_field(response: httpx.Response) -> str | None:
    """The optional field that a 400 is about, if any."""
    detail = _detail(response)
    text = str(detail.get("message") or "")
    if detail.get("param") in _OPTIONAL:
        return str(detail["param"])
    if _UNSUPPORTED.search(text):
        return next((field for field in _OPTIONAL if re.search(rf"\b{field}\b", text)), None)
    return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return None
