"""What a server sends for a chat completion: in OpenAI's form, as a stream nobody asked for, or in its own form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

#: Events of a stream that are read: one for each token.
_MOST_EVENTS = 100_000


def completion_in(body: str) -> Any:  # noqa: ANN401
    """The JSON value of a body, as a chat completion where it is one of some form; else as it is.

    Read are OpenAI's completions, whole or streamed, alone or inside "data"; its responses; the messages of Anthropic,
    Gemini and Ollama. Raises ValueError where the body is no JSON.
    """
    try:
        value = json.loads(body)
    except ValueError:
        events = list(_events(body))
        if not events:
            raise
        value = _joined(events)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or "choices" in value or value.get("error"):
        return _with_messages(value)
    inner = next((value[name] for name in ("data", "response", "result") if _has_choices(value.get(name))), None)
    return _with_messages(inner) if inner is not None else _in_own_form(value)


def _has_choices(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("choices"), list)


def _events(body: str) -> Iterator[dict[str, Any]]:
    """The events of a stream, a JSON object on each line, behind "data:" or not; none where a line is neither."""
    found = []
    for line in body.split("\n", _MOST_EVENTS):
        text = line.strip()
        if not text or text.startswith((":", "event:", "id:", "retry:")):
            continue
        text = text.removeprefix("data:").strip()
        if text == "[DONE]":
            break
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict):
            return
        found.append(event)
    yield from found


def _joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream's events as one completion. The first event that is an error stands for all."""
    said: dict[str, list[str]] = {}
    whole: dict[str, Any] = {}
    finish: object = None
    for event in events:
        if event.get("error"):
            return event
        whole |= {name: event[name] for name in ("id", "model", "usage") if event.get(name)}
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        if choice.get("error"):
            return event
        part = choice.get("delta") or choice.get("message") or event.get("message") or {"content": choice.get("text")}
        for name in ("content", "reasoning_content", "reasoning", "thinking") if isinstance(part, dict) else ():
            if isinstance(part.get(name), str):
                said.setdefault(name, []).append(part[name])
        finish = choice.get("finish_reason") or event.get("done_reason") or finish
    message = {name: "".join(parts) for name, parts in said.items()}
    return {**whole, "choices": [{"message": message, "finish_reason": finish}]}


def _with_messages(value: Any) -> Any:  # noqa: ANN401
    """A completion whose first choice has a "delta" in place of a message."""
    choices = value.get("choices") if isinstance(value, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and "message" not in first and isinstance(first.get("delta"), dict):
        return {**value, "choices": [{**first, "message": first["delta"]}]}
    return value


def _in_own_form(value: dict[str, Any]) -> dict[str, Any]:
    """An answer in Ollama's, Anthropic's or Gemini's form, or a response of OpenAI's, as a chat completion."""
    usage = value.get("usage") or value.get("usageMetadata")
    usage = usage if isinstance(usage, dict) else {}
    spent = usage.get("output_tokens", usage.get("candidatesTokenCount", value.get("eval_count")))
    read = usage.get("input_tokens", usage.get("promptTokenCount", value.get("prompt_eval_count")))
    message: dict[str, Any]
    finish: object
    if isinstance(value.get("message"), dict) and "content" in value["message"]:
        message, finish = value["message"], value.get("done_reason")
    elif isinstance(value.get("content"), list) and value.get("role") == "assistant":
        message, finish = {"content": value["content"]}, value.get("stop_reason")
    elif isinstance(value.get("candidates"), list) and value["candidates"] and isinstance(value["candidates"][0], dict):
        first = value["candidates"][0]
        message, finish = {"content": first.get("content")}, first.get("finishReason")
    elif isinstance(value.get("output"), list) and value.get("object") == "response":
        said = [part for part in value["output"] if isinstance(part, dict) and part.get("type") == "message"]
        cut = value.get("incomplete_details")
        message, finish = {"content": said}, cut.get("reason") if isinstance(cut, dict) else None
    else:
        return value
    return {
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": read, "completion_tokens": spent},
    }
