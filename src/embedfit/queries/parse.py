"""From a model's reply to queries: strictly, then tolerantly, and otherwise with the reason why not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_LABEL = re.compile(
    r"^(?:[-*•]|\(?\d{1,2}[.):])?\s*(?:\*\*)?(question|keywords?|search terms|chat message|conversational|claim|"
    r"statement|title|query|need|fact)(?:\*\*)?\s*[:–-]\s*(?:\*\*)?",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.):])\s+")
_PREAMBLE = re.compile(r"^(?:sure|certainly|of course|here (?:is|are)|okay|ok)\b.*[:!.]$", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»`*"
_STYLE_OF_LABEL = {
    "question": "question",
    "query": "question",
    "keyword": "keywords",
    "keywords": "keywords",
    "search terms": "keywords",
    "need": "conversational",
    "chat message": "conversational",
    "conversational": "conversational",
    "claim": "claim",
    "fact": "claim",
    "statement": "claim",
    "title": "title",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A query and its style as the reply names it; style is empty where the reply names none."""

    text: str
    style: str = ""


def parse_one(reply: str) -> Parsed | None:
    """The query of a reply that was asked for a single one: its first line that is not a preamble. None: no query."""
    for line in reply.splitlines():
        line = line.strip()
        if line and not _PREAMBLE.match(line):
            parsed = _parse_line(line)
            return parsed if parsed.text else None
    return None


def parse_many(reply: str) -> list[Parsed]:
    """The queries of a reply that was asked for a JSON array of {"style", "query"}.

    Falls back on a JSON array anywhere in the reply, then on lines with labels, bullets or numbers.
    An empty list: nothing of the kind.
    """
    found = _from_json(reply)
    if found:
        return found
    parsed = []
    for line in reply.splitlines():
        line = line.strip()
        if line and (_LABEL.match(line) or _BULLET.match(line)):
            item = _parse_line(line)
            if item.text:
                parsed.append(item)
    return parsed


def _from_json(reply: str) -> list[Parsed]:
    start, end = reply.find("["), reply.rfind("]")
    if start < 0 or end <= start:
        return []
    try:
        items = json.loads(reply[start : end + 1])
    except (ValueError, RecursionError):
        return []
    parsed = []
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and isinstance(item.get("query"), str):
            style = item.get("style")
            text = clean(item["query"])
            known = _STYLE_OF_LABEL.get(style.strip().lower(), "") if isinstance(style, str) else ""
            if text:
                parsed.append(Parsed(text, known))
        elif isinstance(item, str) and clean(item):
            parsed.append(Parsed(clean(item)))
    return parsed


def _parse_line(line: str) -> Parsed:
    label = _LABEL.match(line)
    if label:
        return Parsed(clean(line[label.end() :]), _STYLE_OF_LABEL.get(label.group(1).lower(), ""))
    return Parsed(clean(_BULLET.sub("", line)))


def clean(text: str) -> str:
    """One line without the quotes and stars that models put around a query."""
    text = " ".join(text.split())
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text.strip("*`").strip()
