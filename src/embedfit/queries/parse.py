"""From a model's reply to queries: JSON of any shape first, then lists, tables and lines, otherwise nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embedfit.llm.replies import Found, answer_of, is_musing, json_values, well_formed

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
_LABELS = r"question|keywords?|search terms|chat message|conversational|claim|statement|title|query|need|fact"
_MARK = r"(?:[-*•+]|#{1,4}|\(?\d{1,2}[.):])"
_LABEL = re.compile(
    rf"^{_MARK}?\s*(?:[*_`\"]{{1,3}})?({_LABELS})(?:\s\d{{1,2}})?[*_`\"]{{0,3}}(?:\s*:\s*|\s+[–-]\s+)(?:[*_]{{1,3}}(?=\s|\S))?",
    re.IGNORECASE,
)
_LABEL_ALONE = re.compile(rf"^{_MARK}?\s*[*_]{{0,3}}({_LABELS})[*_]{{0,3}}:?[*_]{{0,3}}$", re.IGNORECASE)
_STYLE_LINE = re.compile(
    rf"^{_MARK}?\s*[*_\"']{{0,3}}(?:style|type)[*_\"']{{0,3}}:\s*[\"'*_]{{0,3}}({_LABELS})\b", re.IGNORECASE
)
_BULLET = re.compile(rf"^{_MARK}\s+")
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|here (?:is|are)|here['’]s|below (?:is|are)|okay|ok|great|absolutely|"
    r"the following)\b.*[:!.]$"
    r"|(?:sure|certainly|of course|absolutely)[,!.]"
    r"|(?:here (?:is|are)|here['’]s|below (?:is|are)|these are)\b.*\bquer(?:y|ies)\b"
    r"|(?:the |my |generated |search |possible )*(?:queries|answer|output|response|result)s?:$)",
    re.IGNORECASE,
)
_POSTAMBLE = re.compile(
    r"^\W{0,3}(?:note|explanation|rationale|reason(?:ing)?|this (?:query|question)|these (?:queries|questions)|"
    r"let me know|i hope|feel free|hope this|if you|would you)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^(?:i['’]?m sorry|i am sorry|sorry[,.]|i apologi[sz]e|my apologies|as an ai\b"
    r"|(?:unfortunately, )?i (?:can(?:['’]t|not| not)|am unable to|won['’]t|do not|don['’]t)\b.{0,80}"
    r"(?:assist|help (?:you )?with|comply|fulfil|request|quer(?:y|ies)|passage|feel comfortable))",
    re.IGNORECASE,
)
_TAGGED = re.compile(
    rf"<({_LABELS.replace('search terms|chat message|', '')})\b([^<>]{{0,80}})>([^<>]{{1,500}})</\1>", re.IGNORECASE
)
_QUOTED = re.compile(r"^[\"“].+[\"”]$")
_RULER = re.compile(r"^[|\s:+-]+$")
#: Members of a JSON object that hold a query, that name its style, and that hold thoughts or the passage.
_QUERY_KEYS = ("query", "text", "q", "search_query", "searchquery", "content", "value")
_STYLE_KEYS = ("style", "type", "category", "label", "kind")
_LIST_KEYS = frozenset(
    ("queries", "search_queries", "searchqueries", "results", "result", "items", "data", "output", "response", "answer",
     "answers", "list", "questions")
)  # fmt: skip
_ASIDES = frozenset(
    ("reasoning", "thinking", "thought", "thoughts", "analysis", "explanation", "rationale", "notes", "note", "comment",
     "comments", "plan", "steps", "scratchpad", "draft", "drafts", "passage", "summary", "reflection", "error")
)  # fmt: skip
_NUMBERED = re.compile(r"[\W_\d]+$")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A query and its style as the reply names it; style is empty where the reply names none."""

    text: str
    style: str = ""


def queries_of(reply: str, styles: Sequence[str], *, cut: bool = False) -> list[Parsed]:
    """The queries of a reply that was asked for one query of each style, in its order. Empty: it holds none.

    The model's thoughts, preambles, apologies and explanations are no queries. cut: the reply ended at the limit
    of tokens, so that its last line is not whole.
    """
    answer = answer_of(reply)
    found = _from_json(json_values(answer), styles)
    if found or is_musing(answer) or _REFUSAL.match(answer):
        return found
    lines = [line for line in (raw.strip() for raw in answer.splitlines()) if line and not line.startswith("```")]
    if cut:
        lines = lines[:-1]
    found = _from_tags(answer) or _from_table(lines) or _from_list(lines)
    if not found and len(styles) == 1:
        found = _from_line(lines)
    return [item for item in found if _has_words(item.text)]


# --- JSON


def _from_json(values: Sequence[Found], styles: Sequence[str]) -> list[Parsed]:
    """The queries of the array with most of the styles, of equal ones the last. All objects by themselves are one."""
    groups: list[list[Parsed]] = [[]]
    broken = False
    for found in values:
        if isinstance(found.value, dict):
            (groups[-1] if broken else groups[0]).extend(_items(found.value, ""))
        else:
            groups.append(list(_items(found.value, "")))
            broken = not found.whole

    def use(group: list[Parsed]) -> tuple[int, int]:
        named = {item.style for item in group}
        return sum(style in named for style in styles), min(len(group), max(len(styles), 1))

    best: list[Parsed] = []
    for group in groups:
        if group and (not best or use(group) >= use(best)):
            best = group
    return best


def _items(value: object, style: str, *, listed: bool = True) -> Iterator[Parsed]:
    """The queries of a JSON value. style: what its name says; listed: whether a text in it may be a query."""
    if isinstance(value, str):
        text = clean(value)
        if listed and _has_words(text) and text.lower() not in _STYLE_OF_LABEL:
            yield Parsed(text, style)
    elif isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str) and _style(value[0]):
            yield from _items(value[1], _style(value[0]))
        else:
            for item in value:
                yield from _items(item, style, listed=listed)
    elif isinstance(value, dict):
        yield from _members({str(name).strip().lower(): inner for name, inner in value.items()}, style)


def _members(value: dict[str, Any], style: str) -> Iterator[Parsed]:
    named = next((value[key] for key in _STYLE_KEYS if isinstance(value.get(key), str)), "")
    style = _style(named) or style
    holders = _QUERY_KEYS if named or style else _QUERY_KEYS[:1]
    query = next((value[key] for key in holders if isinstance(value.get(key), str)), None)
    if query is not None:
        yield from _items(query, style)
        return
    for name, inner in value.items():
        bare = _NUMBERED.sub("", name[:60]).replace("_", " ")
        if bare in _ASIDES or name in _STYLE_KEYS:
            continue
        of_style = _style(bare) if bare != "query" else style
        listed = bool(of_style) or bare in ("", *_QUERY_KEYS) or name in _LIST_KEYS
        yield from _items(inner, of_style or style, listed=listed)


def _style(label: str) -> str:
    return _STYLE_OF_LABEL.get(_NUMBERED.sub("", label[:60].strip().lower()), "")


# --- text


def _from_tags(answer: str) -> list[Parsed]:
    """<question>…</question>, or <query style="question">…</query>."""
    found = []
    for name, attributes, text in _TAGGED.findall(answer):
        named = re.search(_LABELS, attributes, re.IGNORECASE)
        style = _style(named[0]) if named else _style(name) if name.lower() != "query" else ""
        found += [Parsed(clean(text), style)] if clean(text) else []
    return found


def _from_table(lines: Sequence[str]) -> list[Parsed]:
    """Rows with a column of queries, or with a column for each style."""
    rows = [
        [clean(cell) for cell in line.strip("|").split("|")]
        for line in lines
        if line.count("|") >= 2 and not _RULER.match(line)
    ]
    if len(rows) < 2:
        return []
    heads = [cell.lower() for cell in rows[0]]
    column = next((n for n, head in enumerate(heads) if head in _QUERY_HEADS), None)
    if column is None:
        pairs = [(cell, _style(head)) for row in rows[1:] for cell, head in zip(row, heads, strict=False)]
        return [Parsed(cell, style) for cell, style in pairs if cell and style]
    found = []
    for row in rows[1:]:
        others = [_style(cell) for n, cell in enumerate(row) if n != column]
        if column < len(row) and row[column]:
            found.append(Parsed(row[column], next(filter(None, others), "")))
    return found


_QUERY_HEADS = ("query", "queries", "search query", "text")


def _from_list(lines: Sequence[str]) -> list[Parsed]:
    """Lines with labels, bullets or numbers; a label may stand on a line of its own, above its query."""
    found, style = [], ""
    for line in lines:
        alone = _LABEL_ALONE.match(line) or _STYLE_LINE.match(line)
        if alone:
            style = _style(alone[1])
        elif line.lstrip('"')[:1] in ("[", "{"):
            continue  # JSON of which nothing was readable
        elif style or _LABEL.match(line) or _BULLET.match(line) or _QUOTED.match(line):
            item = _parse_line(line)
            labelled = _LABEL.match(line)
            if style and (not labelled or labelled[1].lower() == "query"):
                item = Parsed(item.text, style)
            style = ""
            if item.text and not _PREAMBLE.match(line):
                found.append(item)
    return found


def _from_line(lines: Sequence[str]) -> list[Parsed]:
    """A query by itself, between a preamble and an explanation."""
    said = [line for line in lines if not _PREAMBLE.match(line)]
    if not said or (len(said) > 1 and not _POSTAMBLE.match(said[1])):
        return []
    if _REFUSAL.match(said[0]) or is_musing(said[0]) or said[0][0] in "[{" or '{"' in said[0]:
        return []
    item = _parse_line(said[0])
    return [item]


def _parse_line(line: str) -> Parsed:
    label = _LABEL.match(line)
    if label:
        return Parsed(clean(line[label.end() :]), _style(label[1]))
    return Parsed(clean(_BULLET.sub("", line)))


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


def clean(text: str) -> str:
    """One line without the quotes and stars that models put around a query."""
    text = " ".join(well_formed(text).split()).strip("*`").strip()
    for _ in range(3):
        inner = text[1:-1]
        if len(text) < 2 or _PAIRS.get(text[0]) != text[-1] or _inside(text[0], inner) or _inside(text[-1], inner):
            break
        text = inner.strip("*` ")
    return text


_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}


def _inside(quote: str, text: str) -> bool:
    """Whether a text holds a quote that is no apostrophe: '"a" or "b"' has two pairs, not one around it."""
    return quote in (re.sub(r"(?<=\w)['’](?=\w)", "", text) if quote in "'’" else text)
