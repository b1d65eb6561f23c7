"""From a model's reply to queries: JSON of any shape first, then lists, tables and lines, otherwise nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from embedfit.llm.replies import Found, answer_of, is_musing, json_values, well_formed
from embedfit.queries.prompts import STYLES

#: Models' names for the styles, in the languages that they answer in, and ("") for a query of any style.
_LABELS_OF_STYLE = {
    "question": "question|frage|pregunta|domanda|pergunta|vraag|вопрос|问题|問題|質問|질문",
    "keywords": "keywords?|key words|search terms|stichw[oö]rte[rn]?|stichworte|schlüsselw[oö]rter|schlagw[oö]rter|"
    "suchbegriffe|mots[- ]clés|palabras clave|parole chiave|palavras[- ]chave|trefwoorden|ключевые слова|"
    "关键词|關鍵詞|关键字|キーワード|키워드",
    "conversational": "chat message|conversational|need|bedarf|besoin|necesidad|bisogno|necessidade|需求|ニーズ",
    "claim": "claim|fact|statement|aussage|behauptung|tatsache|affirmation|afirmación|affermazione|afirmação|"
    "утверждение|факт|陈述|陳述|主张|主張|事实|事実|진술|주장|사실",
    "title": "title|titel|titre|título|titolo|заголовок|标题|標題|タイトル|제목",
    "cause": "cause|ursache|causa|oorzaak|причина|原因|원인",
    "problem": "problem|trouble|störung|problème|problema|probleem|проблема|故障|トラブル|문제",
    "": "search query|query|suchanfrage|anfrage|abfrage|requête|consulta|запрос|查询|查詢|クエリ|쿼리|"
    r"q(?=\s?\d{1,2}[:：])",
}
_OF_STYLE = {style: re.compile(f"(?:{names})\\Z", re.IGNORECASE) for style, names in _LABELS_OF_STYLE.items()}
_LABELS = "|".join(names for style, names in _LABELS_OF_STYLE.items() if style)
_ANY_LABEL = f"{_LABELS}|{_LABELS_OF_STYLE['']}"
_MARK = r"(?:[-*•+◦▪‣–>]|#{1,4}|\(?\d{1,2}[.):]|\(?[a-h]\)|\d{1,2}[、．]|[①-⑳])"
_OPENS, _CLOSES = r"[*_`\"'\[(【]{0,4}", r"[*_`\"'\])】]{0,4}"
_SEPARATOR = r"(?:\s*[:：]\s*|\s+(?:[–-]|[-=]>|=)\s+|\s*[—→]\s*)"
#: "Question:", "2. **Query 2 (keywords):**"; group 2 names the style, else group 1 does.
_LABEL = re.compile(
    rf"^(?:{_MARK}\s*){{0,2}}{_OPENS}({_ANY_LABEL})(?:\s?#?\d{{1,2}})?(?:\s(?:query|search)|\s?[(\[]({_LABELS})[)\]])?"
    rf"{_CLOSES}{_SEPARATOR}(?:[*_]{{1,3}}(?=\s|\S))?",
    re.IGNORECASE,
)
#: "[question] How …", "(question) How …", and the same at the end.
_BRACKETED = re.compile(rf"^(?:{_MARK}\s*){{0,2}}[*_]{{0,3}}[\[(【]({_LABELS})[\])】][*_]{{0,3}}\s*", re.IGNORECASE)
_BEHIND = re.compile(rf"\s[*_]{{0,3}}[\[(]({_LABELS})[\])][*_.]{{0,3}}$", re.IGNORECASE)
_LABEL_ALONE = re.compile(
    rf"^(?:{_MARK}\s*){{0,2}}{_OPENS}(?:query\s?\d{{1,2}}\s?[:.(–-]\s?)?({_LABELS})(?:\squery)?{_CLOSES}[:：]?[*_]{{0,3}}$",
    re.IGNORECASE,
)
_STYLE_LINE = re.compile(
    rf"^{_MARK}?\s*[*_\"']{{0,3}}(?:style|type)[*_\"']{{0,3}}:\s*[\"'*_]{{0,3}}({_LABELS})\b", re.IGNORECASE
)
#: A style's name at the beginning of a longer one: "1. question", "keywords (as typed)".
_STYLE_FIRST = re.compile(rf"[\W\d_]{{0,8}}({_LABELS})(?!\w)", re.IGNORECASE)
_BULLET = re.compile(rf"^(?:{_MARK}\s+|(?:\d{{1,2}}[、．]|[①-⑳])\s*){{1,2}}")
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
#: A line below a query that says why it was written.
_ASIDE = re.compile(
    r"^\W{0,6}(?:note|explanation|rationale|reason(?:ing)?|why(?: it works)?|intent|purpose|context|focus|"
    r"justification|style|type)\W{0,3}[:：]",
    re.IGNORECASE,
)
#: A line behind which the queries follow, whatever came before.
_ANSWER_HEADING = re.compile(
    r"\W{0,6}(?:the |my |here are (?:the |my )?|generated |search |final ){0,3}(?:queries|answer|output)"
    r"\W{0,4}[:：]\W{0,4}\Z",
    re.IGNORECASE,
)
#: Texts that a model writes in place of a query that it does not find, or copies from the form.
_PLACEHOLDERS = frozenset(
    ("n/a", "none", "null", "string", "text", "...", "your query here", "query here", "not applicable", "no query",
     "unknown", "undefined", "todo", "example query")
)  # fmt: skip
#: A refusal, a question back, or the error of a server, in place of an answer.
_REFUSAL = re.compile(
    r"(?:i['’]?m sorry|i am sorry|sorry[,.]|i apologi[sz]e|my apologies|as an ai\b"
    r"|(?:unfortunately, )?i (?:can(?:['’]t|not| not)|am unable to|won['’]t|do not|don['’]t)\b.{0,80}"
    r"(?:assist|help (?:you )?with|comply|fulfil|request|quer(?:y|ies)|passage|feel comfortable)"
    r"|i['’]m (?:unable|not able) to (?:provide|write|generate|help|assist|comply|create|fulfil)"
    r"|please provide (?:the|a|me)\b.{0,40}passage|no (?:search )?queries (?:can|could)\b"
    r"|it (?:seems|looks|appears)\b.{0,60}\bpassage\b|the passage (?:is|appears|seems) (?:to be )?(?:empty|missing)"
    r"|this (?:content|request|passage) (?:violates|may violate|was blocked)"
    r"|es tut mir leid|(?:leider )?(?:kann|darf) ich (?:dabei|das|diese)\b.{0,40}nicht"
    r"|je suis désolée?|désolée?,|lo siento|"
    r"lamento (?:no|que)|desculpe|sinto muito|mi dispiace|het spijt me|"
    r"извините|к сожалению, я|抱歉|对不起|對不起|很遗憾|"
    r"申し訳|すみません|죄송"
    r"|<!doctype|<html)",
    re.IGNORECASE,
)
_TAGGED = re.compile(r"<((?!style|type)[a-z]\w{0,30})\b([^<>]{0,80})>([^<>]{1,500})</\1>", re.IGNORECASE)
_TAG_OF_STYLE = re.compile(rf"<(?:style|type)>\s{{0,9}}({_LABELS})\b[^<>]{{0,40}}</", re.IGNORECASE)
_QUOTED = re.compile(r"^[\"“].+[\"”]$")
_RULER = re.compile(r"^[|\s:+-]+$")
#: Members of a JSON object that hold a query, that name its style, and that hold thoughts or the passage.
_QUERY_KEYS = (
    "query", "text", "q", "search_query", "searchquery", "query_text", "querytext", "content", "value"
)  # fmt: skip
_STYLE_KEYS = (
    "style", "type", "category", "label", "kind", "style_name", "stylename", "query_style", "querystyle", "query_type",
    "querytype", "stil", "estilo", "stile", "стиль", "风格", "風格", "类型", "類型", "スタイル", "种类"
)  # fmt: skip
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
    """A query and the style that the reply gives it, empty if it gives none."""

    text: str
    style: str = ""


def queries_of(reply: str, styles: Sequence[str], *, cut: bool = False) -> list[Parsed]:
    """The queries of a reply that was asked for one query of each style, in its order. Empty: it holds none.

    The model's thoughts, preambles, apologies and explanations are no queries, nor is what it repeats of the form
    that it was given. cut: the reply ended at the limit of tokens, so that its last line is not whole.
    """
    answer = answer_of(reply)
    found = _from_json(json_values(answer), styles)
    if found or _REFUSAL.match(answer):
        return found
    lines = [line.rstrip() for line in answer.splitlines() if line.strip() and not line.lstrip().startswith("```")]
    if cut:
        lines = lines[:-1]
    behind = _behind_heading(lines)
    if is_musing(answer):
        found = (_from_table(behind) or _from_list(behind)) if not cut else []
    else:
        found = _from_tags(answer) or _from_table(lines) or _from_list(behind)
        listed = _from_list(lines) if not found else []
        if any(item.style for item in listed) or _begins_with_list(lines):
            found = listed or found  # a list behind anything else holds facts of the passage as likely as queries
        bare = [line.strip() for line in lines]
        if not found and not cut and len(styles) > 1:
            found = _from_plain_lines(bare, len(styles))
        if not found and len(styles) == 1:
            found = _from_line(bare)
    return [item for item in found if _is_query(item.text)]


def _begins_with_list(lines: Sequence[str]) -> bool:
    """Whether a list is the whole text, or stands behind a line that announces queries."""
    first = lines[0].strip() if lines else ""
    return bool(_BULLET.match(first) or _QUOTED.match(first) or _PREAMBLE.match(first) or _ANNOUNCES.search(first))


_ANNOUNCES = re.compile(
    r"(?:quer(?:y|ies)|search|suchanfrage|consulta|requête|запрос|查询|查詢|クエリ|検索|쿼리|검색)[^\n]{0,80}[:：]\**$",
    re.IGNORECASE,
)


def _behind_heading(lines: Sequence[str]) -> Sequence[str]:
    """The lines behind the last line that says "Queries:" or "Final answer:"; empty without such a line."""
    heading = next((n for n in range(len(lines) - 1, -1, -1) if _ANSWER_HEADING.match(lines[n])), None)
    return lines[heading + 1 :] if heading is not None else []


# --- JSON


def _from_json(values: Sequence[Found], styles: Sequence[str]) -> list[Parsed]:
    """The queries of the array with the most styles, the last of equals. Objects outside arrays count as one."""
    groups: list[list[Parsed]] = [[]]
    broken = False
    several = len(styles) > 1 and len(values) > 1
    for found in values:
        if isinstance(found.value, dict):
            (groups[-1] if broken else groups[0]).extend(_items(found.value, ""))
        else:
            group = list(_items(found.value, ""))
            alone = several and len(group) == 1 and found.whole and (group[0].style or len(values) == len(styles))
            if alone and group[0].style not in {item.style for item in groups[0] if item.style}:
                groups[0] += group  # an array for each query
            else:
                groups.append(group)
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
        inner = value.strip()
        if listed and inner[:1] in ("{", "[") and (found := json_values(inner)) and found[0].whole:
            if any(named := [item for part in found for item in _items(part.value, style) if item.style]):
                yield from named
                return
        labelled = _parse_line(value) if listed and not style else Parsed(clean(value))
        if listed and _is_query(labelled.text):
            yield Parsed(labelled.text, style or labelled.style) if labelled.style else Parsed(clean(value), style)
    elif isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str) and _style(value[0]):
            yield from _items(value[1], _style(value[0]))
        else:
            for item in value:
                yield from _items(item, style, listed=listed)
    elif isinstance(value, dict):
        yield from _members({str(name).strip().lower(): inner for name, inner in value.items()}, style)


def _members(value: dict[str, JsonValue], style: str) -> Iterator[Parsed]:
    named = next((said for key in _STYLE_KEYS if isinstance(said := value.get(key), str)), "")
    first = _STYLE_FIRST.match(named)
    style = (_style(first[1]) if first else "") or style
    holders = _QUERY_KEYS if named or style else _QUERY_KEYS[:1]
    names = [key for key in holders if key in value] + [key for key in value if _OF_STYLE[""].match(key)]
    query = next((value[key] for key in names if isinstance(value[key], str)), None)
    if query is not None:
        yield from _items(query, style)
        return
    for name, inner in value.items():
        bare = _NUMBERED.sub("", name[:60]).replace("_", " ")
        if bare in _ASIDES or name in _STYLE_KEYS:
            continue
        of_style = _style(bare)
        listed = bool(of_style) or bare in ("", *_QUERY_KEYS) or name in _QUERY_KEYS or name in _LIST_KEYS
        yield from _items(inner, of_style or style, listed=listed)


def _style(label: str) -> str:
    bare = _NUMBERED.sub("", label[:60].strip())
    return next((style for style, names in _OF_STYLE.items() if names.match(bare)), "")


# --- text


def _from_tags(answer: str) -> list[Parsed]:
    """<question>…</question>, <query style="question">…</query>, or <style>question</style><text>…</text>."""
    found = []
    for match in _TAGGED.finditer(answer):
        name, attributes, text = match.groups()
        of_name = _style(name)
        if not of_name and not _QUERY_TAG.match(name):
            continue
        named = re.search(rf"\b(?:{_LABELS})\b", attributes, re.IGNORECASE)
        near = _TAG_OF_STYLE.finditer(answer, max(0, match.start() - 100), match.start())
        before = None if named or of_name else max(near, key=re.Match.start, default=None)
        style = _style(named[0]) if named else _style(before[1]) if before else of_name
        found += [Parsed(clean(text), style)] if clean(text) else []
    return found


_QUERY_TAG = re.compile(r"(?:search_?)?(?:query|text|q)(?:_?text)?_?\d{0,2}\Z", re.IGNORECASE)


def _from_table(lines: Sequence[str]) -> list[Parsed]:
    """Rows of a table, or of comma-separated values, with a column of queries or with a column for each style."""
    for rows in (_ruled(lines), *(_separated(lines, mark) for mark in "\t,;")):
        found = _from_rows(rows) if len(rows) > 1 else []
        if found:
            return found
    return []


def _ruled(lines: Sequence[str]) -> list[list[str]]:
    rows = [line.strip() for line in lines if line.count("|") >= 2 and not _RULER.match(line)]
    return [[clean(cell) for cell in row.strip("|").split("|")] for row in rows]


def _separated(lines: Sequence[str], mark: str) -> list[list[str]]:
    """Rows of separated values, of which the first cell is a style or the heading of the styles."""
    found = []
    for line in lines:
        if mark in line and len(line) <= 2000:
            cells = [clean(cell) for cell in next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])]
            if _style(cells[0]) or cells[0].lower() in (*_STYLE_KEYS, *_QUERY_HEADS, "#", "id", "no"):
                found.append([*cells[:-1], cells[-1]])
    return found


def _from_rows(rows: Sequence[Sequence[str]]) -> list[Parsed]:
    heads = [cell.lower() for cell in rows[0]]
    of_styles = [n for n, cell in enumerate(rows[1]) if _style(cell)]
    column = next((n for n, head in enumerate(heads) if head in _QUERY_HEADS or "quer" in head), None)
    if column is None and len(of_styles) == 1 and not _style(heads[-1]):
        column = max(
            (n for n in range(len(rows[1])) if n not in of_styles), key=lambda n: len(rows[1][n]), default=None
        )
    if column is None:
        pairs = [(cell, _style(head)) for row in rows[1:] for cell, head in zip(row, heads, strict=False)]
        return [Parsed(cell, style) for cell, style in pairs if cell and style]
    found = []
    for row in rows if any(map(_style, heads)) else rows[1:]:
        styles = [_style(cell) for n, cell in enumerate(row) if n != column]
        if column < len(row) and row[column]:
            found.append(Parsed(row[column], next(filter(None, styles), "")))
    return found


_QUERY_HEADS = ("query", "queries", "search query", "text")


def _from_list(lines: Sequence[str]) -> list[Parsed]:
    """Lines with labels, bullets or numbers; a label may stand on a line of its own, above or below its query.

    Bullets that are indented below a query give the reason for it, and are skipped.
    """
    found: list[Parsed] = []
    style, margin = "", None
    for raw in lines:
        line = raw.strip()
        alone = _LABEL_ALONE.match(line) or _STYLE_LINE.match(line)
        if alone:
            style = _style(alone[1])
            if found and not found[-1].style and _STYLE_LINE.match(line) and raw != line:
                found[-1], style = Parsed(found[-1].text, style), ""
            continue
        if _ASIDE.match(line) or line.lstrip('"')[:1] in ("[", "{"):
            if not _BRACKETED.match(line) and not _LABEL.match(line):
                continue  # a reason, or unreadable JSON
        labelled = _LABEL.match(line)
        indent = len(raw) - len(line)
        if not (style or labelled or _BULLET.match(line) or _QUOTED.match(line) or _BRACKETED.match(line)):
            continue
        if margin is not None and indent > margin and not style and not labelled:
            continue
        item = _parse_line(line)
        if style and (not labelled or not item.style):
            item = Parsed(item.text, style)
        if item.text and not _PREAMBLE.match(line):
            margin = indent if not style else margin
            found.append(item)
        style = ""
    return found


def _from_plain_lines(lines: Sequence[str], count: int) -> list[Parsed]:
    """The lines, without a preamble, if they are as many as the queries asked for and no sentences of prose."""
    lines = lines[1:] if lines and _PREAMBLE.match(lines[0]) else lines
    if len(lines) != count or sum(line.endswith((".", "。", ":", "：")) for line in lines) * 3 > len(lines):
        return []
    if any(_PREAMBLE.match(line) or _POSTAMBLE.match(line) or line[0] in "[{<" or len(line) > 200 for line in lines):
        return []
    return [_parse_line(line) for line in lines]


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
    line = line.strip()
    label = _LABEL.match(line)
    if label:
        return Parsed(clean(line[label.end() :]), _style(label[2] or label[1]))
    label = _BRACKETED.match(line)
    if label:
        return Parsed(clean(line[label.end() :]), _style(label[1]))
    bullet = _BULLET.match(line)
    label = _BEHIND.search(line[-60:]) if bullet else None
    if bullet:
        line = line[bullet.end() :]
    return Parsed(clean(line.removesuffix(label[0])), _style(label[1])) if label else Parsed(clean(line))


def _is_query(text: str) -> bool:
    """Whether a text has letters or digits, and is no style's name or description and no placeholder."""
    lowered = text.lower().strip(" .?")
    if lowered in _PLACEHOLDERS or lowered in _DESCRIPTIONS or _STYLE_ALONE.match(lowered):
        return False
    return any(character.isalnum() for character in text)


_STYLE_ALONE = re.compile(f"(?:{_ANY_LABEL})\\Z", re.IGNORECASE)
_DESCRIPTIONS = frozenset(style.description for style in STYLES.values())


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
