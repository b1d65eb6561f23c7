"""A server that speaks OpenAI's chat completions. Run it alone: python -m embedfit.testing.fake_openai."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from email.message import Message

from embedfit.files.textfiles import JsonObject
from embedfit.testing.language_service import Ask, Behaviour, LanguageService, Quota, Response, count_tokens


class FakeOpenAi(LanguageService):
    """Chat completions and the list of models.

    key: the key that the Authorization header must hold; empty for no check. refuses: fields that the model does not
    take, as newer models of OpenAI do. models: what /models lists. dress: turns a completion, as OpenAI sends it, into
    the body that is sent in its place: a JSON value or bytes.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        port: int = 0,
        key: str = "",
        refuses: frozenset[str] = frozenset(),
        models: tuple[str, ...] = ("fake-chat",),
        dress: Callable[[JsonObject], object] | None = None,
    ) -> None:
        super().__init__(behaviour, port=port)
        self._key, self._refuses, self._models, self._dress = key, refuses, models, dress
        self.bodies: list[JsonObject] = []

    @property
    def base_url(self) -> str:
        """The base URL for clients."""
        return f"{self.url}/v1"

    def route(self, method: str, path: str, query: str, headers: Message, body: bytes) -> Response:
        """Answer a request."""
        if self._key and headers.get("Authorization") != f"Bearer {self._key}":
            given = str(headers.get("Authorization", "")).removeprefix("Bearer ")
            return _error(401, f"Incorrect API key provided: {given}.", "invalid_request_error", "invalid_api_key")
        if (method, path) == ("GET", "/v1/models"):
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self._models]}, {}
        if (method, path) == ("POST", "/v1/chat/completions"):
            return self._chat(json.loads(body))
        return _error(404, f"Unknown request URL: {method} {path}.", "invalid_request_error", "unknown_url")

    def _chat(self, body: JsonObject) -> Response:
        self.bodies.append(body)
        if body["model"] not in self._models:
            return _error(
                404, f"The model `{body['model']}` does not exist", "invalid_request_error", "model_not_found"
            )
        for field in sorted(self._refuses & set(body)):
            message = f"Unsupported parameter: '{field}' is not supported with this model."
            return 400, {"error": {"message": message, "type": "invalid_request_error", "param": field}}, {}
        if len(body.get("stop", ())) > 4:
            return _error(400, "'stop' has too many entries", "invalid_request_error", "array_above_max_length")
        messages = body["messages"]
        ask = Ask(
            key=messages[-1]["content"],
            system="".join(turn["content"] for turn in messages if turn["role"] == "system"),
            turns=len(messages),
            max_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or 16,
            input_tokens=sum(count_tokens(turn["content"]) for turn in messages),
        )
        result = self.serve(ask)
        if result in ("requests", "tokens"):
            after = self.behaviour.retry_after_s
            wait = {} if after is None else {"retry-after": str(int(after) + 1), "retry-after-ms": str(after * 1e3)}
            unit = "requests per min (RPM)" if result == "requests" else "tokens per min (TPM)"
            status, value, _ = _error(429, f"Rate limit reached on {unit}.", str(result), "rate_limit_exceeded")
            return status, value, wait
        if isinstance(result, int):
            return _error(result, f"status {result} on demand", "server_error", None)
        if result == "malformed":
            return 200, b"<html>upstream connect error</html>", {}
        if result == "incomplete":
            return 200, {"id": "chatcmpl-0", "object": "chat.completion", "choices": []}, {}
        completion = _completion(body["model"], ask, result)
        return 200, self._dress(completion) if self._dress is not None else completion, {}


def _completion(model: str, ask: Ask, text: str) -> JsonObject:
    refused = text == "refusal"
    content = "" if refused else text[: ask.max_tokens * 4]
    finish = "content_filter" if refused else "length" if len(content) < len(text) else "stop"
    tokens = count_tokens(content)
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": "I can't help." if refused else None},
                "finish_reason": finish,
            }
        ],
        "usage": {
            "prompt_tokens": ask.input_tokens,
            "completion_tokens": tokens,
            "total_tokens": ask.input_tokens + tokens,
        },
    }


def _error(status: int, message: str, kind: str, code: str | None) -> Response:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}, {}


def main() -> None:
    """Serve until stdin is closed. The first line of output is the base URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a call")
    parser.add_argument("--rpm", type=float, default=0.0, help="requests a minute")
    parser.add_argument("--tpm", type=float, default=0.0, help="tokens a minute")
    options = parser.parse_args()
    behaviour = Behaviour(
        latency_s=options.latency,
        requests=Quota(options.rpm) if options.rpm else None,
        tokens=Quota(options.tpm) if options.tpm else None,
    )
    with FakeOpenAi(behaviour, port=options.port) as service:
        sys.stdout.write(f"{service.url}/v1\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
