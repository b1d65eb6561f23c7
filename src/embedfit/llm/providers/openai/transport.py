"""Any server that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama-server, hosted ones."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import JsonValue

from embedfit.errors import MissingDependency, ProviderError, UsageError
from embedfit.llm.protocol import Reply, Request
from embedfit.llm.providers.openai.bodies import Members, completion_in, first_of, members_of
from embedfit.llm.replies import answer_of, cut_at_stop, shown, text_of_message, well_formed
from embedfit.llm.tokens import CountsTokens
from embedfit.llm.transport.retry import CallError, retry_after
from embedfit.network.addresses import certificates, checked_address, is_private_host

if TYPE_CHECKING:
    import httpx

OFFICIAL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4.1-mini"
#: Optional fields that some server or model refuses, and the field that is sent in their place.
_OPTIONAL = {"max_tokens": "max_completion_tokens", "temperature": None, "top_p": None, "seed": None, "stop": None}
_UNSUPPORTED = re.compile(r"unsupported|not support|unrecognized|unknown|does not|only the default|not permitted", re.I)
_MOST_STOPS = 4  # OpenAI's limit; the rest is cut here


#: The meaning of a status, and the remedy.
_REFUSALS: dict[int | None, tuple[str, str | None]] = {
    401: ("{where} refused the API key: {text}", "Set OPENAI_API_KEY to a key that is valid there."),
    402: ("{where}: {text}", "Add credit to the account, or use another key."),
    403: ("{where} refused access (403): {text}", None),
    404: (
        "{where} has no model {model!r} or no chat completions (404): {text}",
        "Check the address (it usually ends in /v1) and the model's name: --generator openai:URL#MODEL",
    ),
}
_TOMORROW = (
    "The day's quota is used up. Run the same command again tomorrow, or choose another model: what was paid for is in "
    "the ledger."
)


class OpenAiTransport(CountsTokens):
    """Chat completions at one base URL. The key goes into the Authorization header and nowhere else.

    client: an httpx.Client whose base_url and headers are set; see connect().
    """

    def __init__(self, client: httpx.Client, model: str, *, secret: str = "") -> None:
        self._client = client
        self._secret = secret
        self._left_out: frozenset[str] = frozenset()
        super().__init__(model)
        self.provider, self.price_provider = names(str(client.base_url))

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
        where = self._client.base_url.host
        try:
            value = completion_in(response.content.decode("utf-8-sig", "replace"))
        except ValueError:
            text = shown(self._clean(_readable(response)))
            what = f"with something that is not JSON: {text}" if text else "with nothing"
            raise CallError(f"{where} answered {what}", maybe_billed=True) from None
        body = members_of(value)
        if fault := _fault_in(body):
            raise self._said_with_200(fault, response.headers)
        choice = members_of(first_of(body.get("choices")))
        if "message" not in choice and "text" not in choice:
            raise CallError(
                f"{where} answered with something that is not a chat completion: {shown(self._clean(response.text))}",
                maybe_billed=True,
            )
        said = choice.get("message")
        message = said if isinstance(said, dict) else {"content": choice.get("text", said)}
        text, refusal = text_of_message(message), message.get("refusal")
        usage = members_of(body.get("usage"))
        spent = _count(usage.get("completion_tokens"))
        finish = _finish(choice.get("finish_reason"))
        if finish == "stop" and spent is not None and spent >= request.max_tokens and not answer_of(text):
            finish = "length"  # some servers say "stop" although the limit ended the thoughts
        if refusal and not text.strip():
            text, finish = str(refusal), "refusal"
        text, stopped = cut_at_stop(text, request.stop)
        if spent is None:
            spent = request.max_tokens if finish == "length" else len(text.encode("utf-8", "replace")) // 3 + 1
        return Reply(
            text=well_formed(text),
            input_tokens=_count(usage.get("prompt_tokens")) or self.count_tokens(request),
            output_tokens=spent,
            finish="stop" if stopped else finish,
        )

    def _said_with_200(self, fault: Members, headers: Mapping[str, str]) -> CallError:
        """The error of a body that came with status 200, by its code, or else by its words."""
        text = shown(self._clean(str(fault.get("message") or fault)), 300)
        named = members_of(members_of(fault.get("metadata")).get("headers"))
        lower = {str(name).lower(): str(value) for name, value in named.items()}
        return self._refusal(_status_of(fault, text), text, retry_after({**headers, **lower}, text))

    def _error(self, response: httpx.Response) -> CallError:
        detail = _detail(response)
        text = shown(self._clean(str(detail.get("message") or _readable(response))), 300)
        spent = response.status_code == 429 and detail.get("code") == "insufficient_quota"
        status = 402 if spent else response.status_code
        return self._refusal(status, text, retry_after(response.headers, text))

    def _refusal(self, status: int | None, text: str, retry_after: float | None) -> CallError:
        """The error of a status, whether the server sent it as one or wrote it into a body of status 200."""
        where = self._client.base_url.host
        remedy: str | None = _TOMORROW
        if status == 429 and _DAILY.search(text):
            said, status = f"{where}: {text}", 402
        else:
            form, remedy = _REFUSALS.get(status, ("{where} answered {status}: {text}", None))
            said = form.format(where=where, status=status or "with an error", text=text, model=self.model)
        return CallError(
            said,
            status=status,
            remedy=remedy,
            throttled=status == 429,
            retry_after=retry_after,
            maybe_billed=status in (408, 504),
        )

    def _clean(self, text: str) -> str:
        return _SECRET.sub("***", text.replace(self._secret, "***") if self._secret else text)


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
    key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")
    parts = checked_address(
        url,
        key,
        key_name="OPENAI_API_KEY",
        example="--generator openai:http://localhost:8000/v1, or export OPENAI_BASE_URL=…",
    )
    if not key and parts.hostname == urlsplit(OFFICIAL).hostname:
        raise UsageError(
            "OPENAI_API_KEY is not set.",
            remedy="Run: export OPENAI_API_KEY=…, or name a server of yours: --generator openai:http://localhost:8000/v1",
        )
    client = httpx.Client(
        base_url=url + "/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(timeout_s, connect=10.0),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        verify=certificates(),
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
            remedy="Check that it runs and that the address is right (it usually ends in /v1), or name the model: "
            "--generator openai:URL#MODEL",
        ) from error
    if len(models) == 1:
        return models[0]
    listed = ", ".join(models[:10]) or "none"
    raise UsageError(f"{host} has several models: {listed}.", remedy="Choose one: --set generate.llm=NAME")


def _body(model: str, request: Request, left_out: frozenset[str]) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
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
    if request.extra:
        body.update(json.loads(request.extra))
    for field in left_out:
        value = body.pop(field, None)
        instead = _OPTIONAL[field]
        if instead is not None:
            body[instead] = value
    return body


def _finish(reason: object) -> str:
    name = str(reason or "stop").lower()
    if name in ("length", "max_tokens", "max_output_tokens", "model_length"):
        return "length"
    return "refusal" if name in ("content_filter", "safety", "refusal", "recitation") else "stop"


def _count(tokens: object) -> int | None:
    """A number of tokens, or None if the server does not count them."""
    return int(tokens) if isinstance(tokens, (int, float)) and 0 <= tokens < 1e9 else None


def _fault_in(body: Members) -> Members:
    """The error that a body of status 200 holds, in itself or in its first choice; empty for none."""
    choices = body.get("choices")
    choice = members_of(first_of(choices))
    fault = body.get("error") or choice.get("error")
    if not fault and (body.get("object") == "error" or ("choices" not in body and body.get("errors"))):
        fault = body.get("errors") or dict(body)
    if not fault and not choices:
        fault = _described(body)
    if not fault and str(choice.get("finish_reason")).lower() == "error":
        fault = "the reply broke off with an error"
    if isinstance(fault, list) and fault:
        fault = fault[0]
    if not isinstance(fault, dict):
        return {"message": str(fault)} if fault else {}
    message = fault.get("message") or fault.get("detail") or fault
    return {**fault, "message": message if isinstance(message, str) else str(message)} if fault else {}


def _described(body: Members) -> dict[str, JsonValue]:
    """The error of a body that has no choices, by the names that servers give its text and its code."""
    body = {**body, **members_of(body.get("base_resp"))}
    names = ("message", "detail", "msg", "status_msg", "error_msg")
    text = next((body[name] for name in names if body.get(name)), "")
    codes = {name: body[name] for name in ("code", "status", "status_code") if body.get(name)}
    return {"message": text, **codes} if text else {}


_SECRET = re.compile(r"\b(?:sk|pk|gsk|xai|hf|api|key)[-_][A-Za-z0-9_*.-]{8,}|(?<=Bearer )\S{8,}")
_DAILY = re.compile(r"per[- ]day|daily|free-models-per-day|\bday['’]?s? (?:limit|quota)", re.IGNORECASE)
#: The status of an error that has no code, by its words.
_SAID = (
    (re.compile(r"rate.?limit|too many (?:requests|tokens)|throttl|slow down", re.I), 429),
    (re.compile(r"insufficient.{0,3}(?:funds|credit|balance|quota)|credits?\b|current quota|payment|\bbalance\b|"
                r"余额|餘額",
                re.I), 402),
    (re.compile(r"quota", re.I), 429),
    (re.compile(r"api.?key|unauthori[sz]ed|authenticat|invalid token|login fail|密钥", re.I), 401),
    (re.compile(r"forbidden|permission|not allowed|access denied", re.I), 403),
    (re.compile(r"model.{0,80}(?:not found|does not exist|not exist|unknown|not available|no longer)|no such model|"
                r"unknown model|no endpoints found|unexpected endpoint", re.I), 404),
    (re.compile(r"overload|capacity|unavailable|busy|try again|timed? ?out|loading|upstream", re.I), 503),
    (re.compile(r"invalid|unsupported|not support|bad request|context length|too long|malformed|required", re.I), 400),
)  # fmt: skip


def _status_of(fault: Members, text: str) -> int | None:
    for name in ("code", "status", "status_code", "http_code"):
        given = str(fault.get(name) or "")
        if given.isdecimal() and 400 <= int(given) < 600:
            return int(given)
    words = f"{text} {fault.get('code') or ''} {fault.get('type') or ''}"
    return next((status for said, status in _SAID if said.search(words)), None)


def _readable(response: httpx.Response) -> str:
    """The beginning of a body; for a web page its title or its words."""
    text = response.text[:20_000]
    if "<" not in text[:200]:
        return text
    title = re.search(r"<title[^>]{0,100}>([^<]{1,300})", text, re.IGNORECASE)
    return title[1] if title else re.sub(r"<[^<>]{0,500}>", " ", text)


def _detail(response: httpx.Response) -> Members:
    try:
        value = members_of(response.json())
    except ValueError:
        return {}
    error = value.get("error", dict(value))
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
