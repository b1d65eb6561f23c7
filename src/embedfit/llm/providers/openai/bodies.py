"""Servers' answers to a chat completion: in OpenAI's form, as a stream nobody asked for, or in a form of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from pydantic import JsonValue

Members: TypeAlias = Mapping[str, JsonValue]
#: Events of a stream that are read: one for each token.
_MOST_EVENTS = 100_000


def members_of(value: JsonValue) -> Members:
    """A JSON object; empty for any other value."""
    return value if isinstance(value, dict) else {}


def first_of(value: JsonValue) -> JsonValue:
    """The first item of a JSON array; None for any other value."""
    return value[0] if isinstance(value, list) and value else None


def completion_in(body: str) -> JsonValue:
    """The JSON value of a body, as a chat completion if it is one of some form; else as it is.

    Read are OpenAI's completions, whole or streamed, alone or inside "data"; its responses; the messages of Anthropic,
    Gemini and Ollama. Raises ValueError if the body is no JSON.
    """
    try:
        value: JsonValue = json.loads(body)
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
        return _with_message(value)
    inner = (members_of(value.get(name)) for name in ("data", "response", "result"))
    inside = next((one for one in inner if isinstance(one.get("choices"), list)), None)
    return _with_message(dict(inside)) if inside is not None else _from_own_form(value)


def _events(body: str) -> Iterator[Members]:
    """The events of a stream, a JSON object on each line, behind "data:" or not; none if a line is neither."""
    found: list[Members] = []
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


def _joined(events: list[Members]) -> JsonValue:
    """A stream's events as one completion. The first event that is an error stands for all."""
    said: dict[str, list[str]] = {}
    whole: dict[str, JsonValue] = {}
    finish: JsonValue = None
    for event in events:
        choice = members_of(first_of(event.get("choices")))
        if event.get("error") or choice.get("error"):
            return dict(event)
        whole |= {name: event[name] for name in ("id", "model", "usage") if event.get(name)}
        part = choice.get("delta") or choice.get("message") or event.get("message") or {"content": choice.get("text")}
        for name in ("content", "reasoning_content", "reasoning", "thinking"):
            if isinstance(text := members_of(part).get(name), str):
                said.setdefault(name, []).append(text)
        finish = choice.get("finish_reason") or event.get("done_reason") or finish
    return {**whole, **_completion({name: "".join(texts) for name, texts in said.items()}, finish)}


def _completion(message: JsonValue, finish: JsonValue) -> dict[str, JsonValue]:
    return {"choices": [{"message": message, "finish_reason": finish}]}


def _with_message(value: JsonValue) -> JsonValue:
    """A completion whose first choice may have a "delta" in place of a message."""
    first = members_of(first_of(members_of(value).get("choices")))
    if "message" not in first and isinstance(first.get("delta"), dict):
        return {**members_of(value), "choices": [{**first, "message": first["delta"]}]}
    return value


def _from_own_form(value: dict[str, JsonValue]) -> JsonValue:
    """An answer in Ollama's, Anthropic's or Gemini's form, or a response of OpenAI's, as a chat completion."""
    usage = members_of(value.get("usage") or value.get("usageMetadata"))
    message, candidate = members_of(value.get("message")), members_of(first_of(value.get("candidates")))
    output = value.get("output")
    if "content" in message:
        found = _completion(dict(message), value.get("done_reason"))
    elif isinstance(value.get("content"), list) and value.get("role") == "assistant":
        found = _completion({"content": value["content"]}, value.get("stop_reason"))
    elif candidate:
        found = _completion({"content": candidate.get("content")}, candidate.get("finishReason"))
    elif isinstance(output, list) and value.get("object") == "response":
        said = [part for part in output if members_of(part).get("type") == "message"]
        found = _completion({"content": said}, members_of(value.get("incomplete_details")).get("reason"))
    else:
        return value
    spent = usage.get("output_tokens", usage.get("candidatesTokenCount", value.get("eval_count")))
    read = usage.get("input_tokens", usage.get("promptTokenCount", value.get("prompt_eval_count")))
    return {**found, "usage": {"prompt_tokens": read, "completion_tokens": spent}}
