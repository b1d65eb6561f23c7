"""Embedding models behind a URL: OpenAI-compatible servers, Text Embeddings Inference, SageMaker endpoints."""

from __future__ import annotations

import base64
import importlib
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedfit.errors import MissingDependency, ProviderError
from embedfit.llm.transport.retry import RETRYABLE_STATUSES
from embedfit.models.vectors import Storage
from embedfit.workspace import sha256_json

if TYPE_CHECKING:
    import httpx

Vectors = npt.NDArray[np.float32]

#: Texts a request: TEI's default limit.
BATCH = 32

_ATTEMPTS = 6


class _HttpJson:
    """POST and GET of JSON with a few retries. A status that trying again can't help is a ProviderError.

    connect: opens a client, at the first request and at the first one after close().
    """

    def __init__(self, name: str, connect: Callable[[], httpx.Client], sleep: Callable[[float], None]) -> None:
        self.name = name
        self._connect = connect
        self._client: httpx.Client | None = None
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def request(self, method: str, url: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        import httpx

        if self._client is None:
            self._client = self._connect()
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            try:
                response = self._client.request(method, url, json=body)
            except httpx.HTTPError as error:
                if last or isinstance(error, httpx.UnsupportedProtocol):
                    raise ProviderError(
                        f"{self.name} does not answer: {type(error).__name__}: {error}",
                        remedy="Is the server running, and is the URL right?",
                        retryable=True,
                    ) from error
            else:
                if response.is_success:
                    return self._json(response)
                if last or response.status_code not in RETRYABLE_STATUSES:
                    raise ProviderError(
                        f"{self.name} answered {response.status_code}: {response.text[:300]}",
                        status=response.status_code,
                        retryable=response.status_code in RETRYABLE_STATUSES,
                    )
            self._sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable")

    def _json(self, response: httpx.Response) -> Any:  # noqa: ANN401 - JSON
        try:
            return response.json()
        except ValueError as error:
            raise ProviderError(f"{self.name} did not answer with JSON: {response.text[:200]}") from error


def _http(key_variable: str) -> Callable[[], httpx.Client]:
    """How to open a client that sends the key of an environment variable. Raises MissingDependency at once."""
    try:
        import httpx
    except ImportError as error:
        raise MissingDependency("httpx", extra="openai", needed_for="A remote embedding model") from error
    key = os.environ.get(key_variable, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return lambda: httpx.Client(timeout=120, headers=headers)


def aws_client(service: str, region: str = "", *, needed_for: str, **settings: Any) -> Any:  # noqa: ANN401 - boto3
    """A boto3 client. region: default AWS_REGION or the profile's. settings: of botocore's Config.

    Raises MissingDependency without boto3, ProviderError where there is no region or profile.
    """
    try:
        boto3: Any = importlib.import_module("boto3")
        botocore_config: Any = importlib.import_module("botocore.config")
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise MissingDependency("boto3", extra="aws", needed_for=needed_for) from error
    try:
        config = botocore_config.Config(connect_timeout=10, read_timeout=70, **settings)
        return boto3.client(service, region_name=region or os.environ.get("AWS_REGION") or None, config=config)
    except BotoCoreError as error:
        raise ProviderError(
            f"{needed_for} can't be asked: {error}", remedy="Set AWS credentials and AWS_REGION; see: embedfit doctor"
        ) from error


def _unit_rows(name: str, rows: Any, count: int) -> Vectors:  # noqa: ANN401 - JSON
    try:
        vectors = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ProviderError(f"{name} answered with something that is not vectors: {error}") from error
    if vectors.ndim != 2 or len(vectors) != count:
        raise ProviderError(f"{name} answered with shape {vectors.shape} to {count} texts.")
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


class OpenAiEndpoint:
    """POST URL/embeddings. The protocol has no query instruction: one that is needed is put before the text here."""

    storage: Storage = "probed"

    def __init__(
        self,
        name: str,
        url: str,
        model: str,
        connect: Callable[[], httpx.Client],
        *,
        instruction: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self.key = _address_key("openai", url, model)
        self.instruction = instruction
        self._url, self._model = f"{url}/embeddings", model
        self._http = _HttpJson(name, connect, sleep)

    @classmethod
    def connect(cls, name: str, url: str, model: str, *, instruction: str = "") -> OpenAiEndpoint:
        """With the key of OPENAI_API_KEY where one is set."""
        return cls(name, url, model, _http("OPENAI_API_KEY"), instruction=instruction)

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, H)."""
        prefix = self.instruction if is_query else ""
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = [prefix + text for text in texts[start : start + BATCH]]
            value = self._http.request(
                "POST", self._url, {"model": self._model, "input": batch, "encoding_format": "float"}
            )
            parts.append(_unit_rows(self.name, self._rows(value), len(batch)))
        return np.concatenate(parts)

    def _rows(self, value: Any) -> list[Any]:  # noqa: ANN401 - JSON
        try:
            ordered = sorted(value["data"], key=lambda item: item["index"])
            return [_floats(item["embedding"]) for item in ordered]
        except (KeyError, TypeError) as error:
            raise ProviderError(f"{self.name} did not answer as OpenAI's embeddings endpoint does.") from error

    def release(self) -> None:
        """Close the connections."""
        self._http.close()


def _floats(embedding: Any) -> Any:  # noqa: ANN401 - JSON
    """An embedding as numbers; servers that ignore encoding_format may send base64."""
    return np.frombuffer(base64.b64decode(embedding), "<f4") if isinstance(embedding, str) else embedding


class _PromptedEndpoint:
    """What TEI over HTTP and TEI on SageMaker share: batches, truncation, and prompts by their names.

    instruction: put before queries here. None: the endpoint's own prompt "query" is asked for. Before passages its
    prompt "document" or "passage" is asked for. Where the endpoint's model has none, texts go as they are.
    """

    storage: Storage = "probed"

    def __init__(self, name: str, key: str, instruction: str | None) -> None:
        self.name = name
        self.key = key
        self.instruction = instruction or ""
        # The name "" asks embedfit's server to put nothing before the text, not even its default prompt.
        self._names = {True: ("query",) if instruction is None else ("",), False: ("document", "passage")}
        self._known: set[str] = set()
        self._lacking: set[str] = set()

    def _post(self, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        raise NotImplementedError

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, H)."""
        prefix = self.instruction if is_query else ""
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = [prefix + text for text in texts[start : start + BATCH]]
            body: dict[str, Any] = {"inputs": batch, "truncate": True}
            parts.append(_unit_rows(self.name, self._prompted(body, self._names[is_query]), len(batch)))
        return np.concatenate(parts)

    def _prompted(self, body: dict[str, Any], names: Sequence[str]) -> Any:  # noqa: ANN401 - JSON
        """The answer with the first of the prompts that the endpoint has, or without one."""
        for name in names:
            if name in self._lacking:
                continue
            try:
                rows = self._post({**body, "prompt_name": name})
            except ProviderError as error:
                if name in self._known or "prompt" not in error.message.lower():
                    raise
                self._lacking.add(name)  # "Prompt not found" or "default prompts are not set"
            else:
                self._known.add(name)
                return rows
        return self._post(body)


class TeiEndpoint(_PromptedEndpoint):
    """POST URL/embed."""

    def __init__(
        self,
        name: str,
        url: str,
        connect: Callable[[], httpx.Client],
        *,
        instruction: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(name, _address_key("tei", url, "own prompts" if instruction is None else ""), instruction)
        self._url = f"{url}/embed"
        self._http = _HttpJson(name, connect, sleep)

    @classmethod
    def connect(cls, name: str, url: str, *, instruction: str | None = None) -> TeiEndpoint:
        """With the key of EMBEDFIT_API_KEY where one is set."""
        return cls(name, url, _http("EMBEDFIT_API_KEY"), instruction=instruction)

    def _post(self, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        return self._http.request("POST", self._url, body)

    def release(self) -> None:
        """Close the connections."""
        self._http.close()


class SageMakerEndpoint(_PromptedEndpoint):
    """InvokeEndpoint. client: a sagemaker-runtime client, or a fake of one."""

    def __init__(
        self,
        name: str,
        endpoint: str,
        region: str,
        client: Any,  # noqa: ANN401 - boto3 clients have no static type
        *,
        instruction: str | None = None,
    ) -> None:
        super().__init__(
            name,
            _address_key("sagemaker", f"{endpoint}@{region}", "own prompts" if instruction is None else ""),
            instruction,
        )
        self._endpoint = endpoint
        self._client = client

    @classmethod
    def connect(cls, name: str, endpoint: str, region: str, *, instruction: str | None = None) -> SageMakerEndpoint:
        """Through boto3. Raises MissingDependency without it."""
        client = aws_client(
            "sagemaker-runtime", region, needed_for=name, retries={"mode": "standard", "max_attempts": 6}
        )
        return cls(name, endpoint, region, client, instruction=instruction)

    def _post(self, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        try:
            response = self._client.invoke_endpoint(
                EndpointName=self._endpoint, Body=json.dumps(body).encode(), ContentType="application/json"
            )
            return json.loads(response["Body"].read())
        except Exception as error:  # botocore makes its error classes at run time; they share only `response`
            raise ProviderError(
                f"{self.name} failed: {type(error).__name__}: {error}",
                remedy="See: embedfit deploy sagemaker status",
            ) from error

    def release(self) -> None:
        """Close the connections; boto3 opens new ones where it needs them."""
        self._client.close()


def _address_key(kind: str, address: str, detail: str) -> str:
    return sha256_json({"kind": kind, "address": address, "detail": detail})
