"""Reading what a language model wrote: without its thoughts, and with the JSON in it however it is dressed.

Every provider and every caller reads replies with these functions. They are pure, never raise on any text, and take
time in proportion to it. JSON-repair libraries turn "[see above]" into ["see above"], and a citation must not become a
search query; so none is used.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

from embedfit.llm.protocol import Reply

Container: TypeAlias = list[JsonValue] | dict[str, JsonValue]
#: Characters of a reply that are read: a reply of queries has some hundred.
MAX_CHARACTERS = 1_000_000
#: The depth to which arrays and objects are read; no reply that we ask for is deeper.
MAX_DEPTH = 32
#: Arrays and objects of a reply that are read.
MAX_VALUES = 10_000
#: Characters of a reply's thoughts that are kept if the reply has nothing else.
_THOUGHTS_KEPT = 2_000

_NAMES = (
    r"(?:antml:|seed:)?(?:inner_|internal_)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad|"
    r"monologue|chain_of_thought)(?:_process)?"
)
#: The beginnings and ends of thoughts. The last group of each pair is an end.
_BEGIN = re.compile(
    rf"(?:<|&lt;){_NAMES}(?:\s[^<>&]{{0,80}})?(?:>|&gt;)|\[THINK(?:ING)?\]|◁think▷|<\|begin_of_thought\|>"
    r"|<\|START_THINKING\|>|<\|inner_prefix\|>|<unused94>|<\|?channel\|?>\s{0,4}(?:analysis|commentary|thought)",
    re.IGNORECASE,
)
_END = re.compile(
    rf"(?:<|&lt;)/{_NAMES}\s{{0,4}}(?:>|&gt;)|\[/THINK(?:ING)?\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|END_THINKING\|>|<\|inner_suffix\|>|<unused95>|<\|channel\|>\s{0,4}final\s{0,4}(?:<\|message\|>)?|<channel\|>",
    re.IGNORECASE,
)
#: gpt-oss behind a server that drops the special tokens: "analysisWe need …assistantfinal[…]".
_BARE_BEGIN = re.compile(r"(?:analysis|commentary)(?=[A-Z])")
_BARE_END = re.compile(r"assistant\s{0,4}final")
_WRAPPERS = re.compile(
    r"</?(?:answer|output|response|result|final_answer|final)>|<\|(?:begin|end)_of_solution\|>|<\|(?:START|END)_RESPONSE\|>"
    r"|<\|(?:im_end|eot_id|end|return|endoftext|end_of_text|end_of_turn)\|>|<end_of_turn>|</s>|<｜end▁of▁sentence｜>",
    re.IGNORECASE,
)
#: How thoughts begin that no tag marks. The second group also begins what people search for ("I need to write …"):
#: it is a thought if the task is its subject.
_HEADING = re.compile(
    r"(?:(?:my )?(?:thinking|thoughts?|reasoning|thought process|chain of thought|thinking process))[*\s]{0,4}"
    r"(?::|\.{3}|…|\n)"
    r"|(?:here(?:['’]s| is)|this is|below is) (?:my|the|a) (?:thought|thinking|reasoning|chain of)|hmm+\b"
    r"|(?:(?:step )?1[.):]\s{0,3}\*{0,2})?"
    r"(?:analy[sz]|understand|craft|draft|consider|identify|explor|refin|formulat)(?:e|ing)? "
    r"(?:the |user |search |key |this |potential ){0,3}"
    r"(?:request|passage|task|input|user|instructions?|quer(?:y|ies)|constraints)\W",
    re.IGNORECASE,
)
_MUSING = re.compile(
    r"(?:(?:okay|ok|alright|all right|well|so|right|got it|wait|first|firstly|now)[,.!]?\s){0,2}"
    r"(?:the (?:user|task|passage|instruction)|let['’]?s|let me|i|we|i['’](?:ll|m)|we['’](?:ll|re)|"
    r"to (?:write|generate|create|craft|produce|form)|"
    r"looking at|given|considering|based on)\s"
    r"(?!(?:have |['’]ve )?(?:written|generated|created|prepared|made)\b)",
    re.IGNORECASE,
)
_OF_THE_TASK = re.compile(
    r"\bqueries\b|\bsearch query\b|\bthe passage\b|\bjson\b|\barray\b|\bthe user (?:wants|asks|is asking)"
    r"|\bscor(?:e|ing)\b",
    re.IGNORECASE,
)
#: The same in other languages: "the user wants …" near the beginning of a text that is longer than a query.
_MUSING_ABROAD = re.compile(
    r"[^\n]{0,60}?(?:\b(?:der (?:nutzer|benutzer|user)|die nutzerin|l['’]utilisateur|el usuario|"
    r"o (?:usuário|utilizador)|l['’]utente|de gebruiker|пользователь) (?:\w+ ){0,2}?"
    r"(?:möchte|will|bittet|fragt|verlangt|veut|demande|souhaite|quiere|pide|solicita|quer|pede|deseja|solicitou|vuole|chiede|wil|vraagt|хочет|просит)\b"
    r"|(?:用户|用戶|使用者|题目|題目)[^\n，。]{0,6}(?:希望|想|要求|需要|让我|讓我|给|給|提供|请求|請求)"
    r"|(?:ユーザー|ユーザ)[はが]|사용자[가는])"
    r"|(?:嗯|好的|好，|首先)[，,。、]?[^\n]{0,10}(?:我需要|我要|我们需要|我們需要|需要我|让我|讓我)",
    re.IGNORECASE,
)
_LONGER_THAN_A_QUERY = 60


# --- thoughts


def answer_of(text: str) -> str:
    """A reply's text without the model's thoughts, whether they are marked at both ends, at one, or cut.

    Text before the end of thoughts is thought, and so is text behind their beginning. A reply of thoughts alone gives
    an empty text.
    """
    text = text[:MAX_CHARACTERS].strip("\ufeff\u200b \r\n\t")
    if _is_json(text):
        return text  # tags in it are words of a query
    start = 0
    for end in _END.finditer(text):
        start = end.end()
    if not start and _BARE_BEGIN.match(text):
        start = max((end.end() for end in _BARE_END.finditer(text)), default=len(text))
    answer = _before_thoughts(text[start:])
    if not answer and start:  # the thoughts came last, perhaps as a check of the answer
        answer = _before_thoughts(text) if _BEGIN.search(text) else ""
    return answer


def _before_thoughts(text: str) -> str:
    begin = _BEGIN.search(text)
    return _WRAPPERS.sub("", text[: begin.start()] if begin else text).strip()


def _is_json(text: str) -> bool:
    fenced = _FENCED.match(text)
    try:
        return isinstance(json.loads(fenced[1] if fenced else text), (list, dict))
    except (ValueError, RecursionError):
        return False


_FENCED = re.compile(r"```\w{0,10}[ \t]{0,20}\n(.*)\n\s{0,8}```\s*\Z", re.DOTALL)


def is_musing(text: str) -> bool:
    """Whether a text begins as thoughts do that no tag marks ("Okay, the user wants …")."""
    start = text[:600].lstrip(" \r\n\t*_#>-")
    if _HEADING.match(start) or (("\n" in start or len(start) > _LONGER_THAN_A_QUERY) and _MUSING_ABROAD.match(start)):
        return True
    return _MUSING.match(start) is not None and _OF_THE_TASK.search(start) is not None


def cut_at_stop(text: str, stop: Iterable[str]) -> tuple[str, bool]:
    """(the text before the first stop string, whether there was one), for servers that support few or none."""
    ends = [at for at in (text.find(end) for end in stop if end) if at >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


# --- what is wrong with a reply


REFUSED = "the model refused"
SPENT = "its thoughts took the whole limit of tokens"
CUT = "it was cut off by the limit of tokens"
EMPTY = "it was empty"
THOUGHTS = "it holds nothing but thoughts"
FORM = "it is not in the form that was asked for"


def fault_of(reply: Reply) -> str:
    """The reason for which nothing could be read from a reply: one of the constants above."""
    if reply.finish == "refusal":
        return REFUSED
    answer = answer_of(reply.text)
    if reply.finish == "length":
        return SPENT if not answer or is_musing(answer) else CUT
    if not reply.text.strip():
        return EMPTY
    return FORM if answer else THOUGHTS


def shown(text: str, most: int = 200) -> str:
    """A text for a message: on one line, short, without control characters."""
    line = " ".join(text[: 4 * most].split())
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in line)
    return safe if len(safe) <= most else f"{safe[: most - 1]}…"


# --- messages


def text_of_content(content: object) -> tuple[str, str]:
    """(text, thoughts) of a message's content: a string, a part, or a list of parts."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        kind = str(content.get("type") or "")
        inner = content.get("text", content.get("parts", content.get("content")))
        if kind in ("thinking", "reasoning", "redacted_thinking", "thought") or content.get("thought") is True:
            thought = content.get("thinking", content.get("reasoning", content.get("summary", inner)))
            return "", "".join(text_of_content(thought))
        if inner is None and not kind and content:
            return json.dumps(content, ensure_ascii=False), ""  # the answer itself, where JSON was asked for
        return text_of_content(inner)
    if isinstance(content, list):
        parts = [text_of_content(part) for part in content[:1000]]
        return "".join(text for text, _ in parts), "".join(thought for _, thought in parts)
    return "", ""


def text_of_message(message: Mapping[str, object]) -> str:
    """The text of an assistant's message: its content, or the arguments of its tool calls.

    A message of thoughts alone gives their beginning, marked as thoughts.
    """
    text, thoughts = text_of_content(message.get("content"))
    if not text.strip() and isinstance(message.get("parsed"), (dict, list)):
        text = json.dumps(message["parsed"], ensure_ascii=False)
    if text.strip():
        return text
    calls = message.get("tool_calls") or [{"function": message.get("function_call")}]
    arguments = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        given = function.get("arguments") if isinstance(function, dict) else None
        arguments += [given if isinstance(given, str) else json.dumps(given)] if given else []
    if arguments:
        return "\n".join(arguments)
    aside = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    aside = aside or message.get("reasoning_details")
    thoughts = thoughts or "".join(text_of_content(aside))
    return f"<think>{thoughts[:_THOUGHTS_KEPT]}" if thoughts.strip() else ""


# --- JSON as models write it


@dataclass(frozen=True, slots=True)
class Found:
    """An array or object of a text. whole: it was closed, and nothing in it was unreadable."""

    value: Container
    whole: bool


def json_values(text: str) -> list[Found]:
    """The outermost arrays and objects of a text, in order; cut or broken ones give their whole items.

    Reads what models write for JSON: comments, trailing and missing commas, single or curly quotes, unescaped
    quotes, names without quotes, Python's None and True, JSON inside a JSON string, JSON that is HTML-escaped.
    Words without quotes are never values.
    """
    found = _scan(_decoded(text))
    for escape, plain in (("&", html.unescape), ('\\"', _unescaped)):
        if not any(item.value for item in found) and escape in text and (other := plain(text)) != text:
            found = _scan(other)
    return found


def _decoded(text: str) -> str:
    """The text that a JSON string holds; any other text as it is."""
    try:
        inner = json.loads(text) if text[:1] == '"' else None
    except ValueError:
        inner = None
    return inner if isinstance(inner, str) else text


def _scan(text: str) -> list[Found]:
    reader = _Reader(text)
    found: list[Found] = []
    while len(found) < MAX_VALUES and (start := _OPEN.search(text, reader.at)) is not None:
        reader.at = start.start()
        value, whole = reader.container(0)
        found.append(Found(value, whole))
    return found


_OPEN = re.compile(r"[\[{]")
_SPACE = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30})?(?:[eE][-+]?\d{1,3})?(?![\w.])")
_WORD = re.compile(r"(true|false|null|none|nan|undefined)(?!\w)", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d]\w{0,39}(?=\s{0,8}:)")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": " ", "f": " "}
_CLOSING = {'"': '"', "'": "'", "“": "”", "”": "”", "„": "”", "‘": "’", "`": "`", "«": "»"}
#: The pattern of a string's end, by its closing quote. Curly quotes are mixed up with each other and with the straight
#: one.
_STOPS = {end: re.compile(f"[\\\\{end}]") for end in _CLOSING.values()}
_STOPS["”"] = re.compile('[\\\\”“"]')
_STOPS["’"] = re.compile("[\\\\’‘']")
#: The text that may follow the comma behind a string; otherwise the quote before the comma belongs to the string.
_AFTER_COMMA = re.compile(
    r"[\"'“”‘’„`«{\[\]}\d-]|/[/*]|#|(?:true|false|null|none)\b|[^\W\d]\w{0,39}\s{0,8}:|\.\.\.|…|\Z", re.I
)
_WORDS = {"true": True, "false": False}


class _Reader:
    """Reads one text from left to right and never goes back by more than one string. at: where it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        #: For each quote, the place behind which it ends no string, so that nothing is searched twice.
        self._endless: dict[tuple[str, bool], int] = {}

    def container(self, depth: int) -> tuple[Container, bool]:
        """(an array or object, whether it is whole); the reader then stands behind it or at what broke it."""
        opening = self.text[self.at]
        self.at += 1
        if depth >= MAX_DEPTH:
            return [], False
        return self._object(depth) if opening == "{" else self._array(depth)

    def _array(self, depth: int) -> tuple[list[JsonValue], bool]:
        items: list[JsonValue] = []
        while True:
            self._skip(commas=True)
            if self._take("]"):
                return items, True
            known, value, whole = self._value(depth)
            if known and (whole or _holds_containers(value)):
                items.append(value)
            if not whole:
                return items, False

    def _object(self, depth: int) -> tuple[dict[str, JsonValue], bool]:
        members: dict[str, JsonValue] = {}
        while True:
            self._skip(commas=True)
            if self._take("}"):
                return members, True
            name = self._name()
            self._skip()
            if name is None or not (self._take(":") or self._take("：")):
                return members, False
            self._skip()
            known, value, whole = self._value(depth)
            if known and (whole or isinstance(value, (list, dict))):
                members.setdefault(name, value)
            if not whole:
                return members, False

    def _value(self, depth: int) -> tuple[bool, JsonValue, bool]:
        """(whether there is a value, the value, whether it is whole)."""
        text, at = self.text, self.at
        if at >= len(text):
            return False, None, False
        if text[at] in "[{":
            value, whole = self.container(depth + 1)
            return True, value, whole
        if text[at] in _CLOSING:
            string = self._string(name=False)
            return string is not None, string, string is not None
        number = _NUMBER.match(text, at)
        if number:
            self.at = number.end()
            # A number at the very end may be cut: 1 of 10.
            return True, _number(number[0]), self.at < len(text)
        word = _WORD.match(text, at)
        if word:
            self.at = word.end()
            return True, _WORDS.get(word[1].lower()), True
        return False, None, False

    def _name(self) -> str | None:
        if self.at < len(self.text) and self.text[self.at] in _CLOSING:
            return self._string(name=True)
        bare = _NAME.match(self.text, self.at) or _NUMBER.match(self.text, self.at)
        if bare is None:
            return None
        self.at = bare.end()
        return bare[0]

    def _string(self, *, name: bool) -> str | None:
        """The string that begins here; None if it does not end."""
        text, begin = self.text, self.at + 1
        closing = _CLOSING[text[self.at]]
        stop = _STOPS[closing]
        at = begin if begin < self._endless.get((closing, name), len(text)) else len(text)
        while (mark := stop.search(text, at)) is not None:
            at = mark.end()
            if mark[0] == "\\":
                at += 1
            else:
                behind = self._follows(at, name=name)
                if behind == "end":
                    self.at = at
                    return _unescaped(text[begin : at - 1])
                if behind == "name":  # the next member begins here: this string was never closed
                    brace = text.rfind("{", begin, at)
                    self.at = brace if brace >= 0 else at
                    return None
        self._endless.setdefault((closing, name), begin)
        line_end = text.find("\n", begin)
        self.at = line_end if line_end >= 0 else len(text)
        return None

    def _follows(self, at: int, *, name: bool) -> str:
        """The role of a quote, by the text behind it: the string's "end", the end of a "name", or "text"."""
        text = self.text
        behind = _BLANK.match(text, at)
        place = behind.end() if behind else at
        if place >= len(text):
            return "end"
        follower = text[place]
        if follower in ":：":
            return "end" if name else "name"
        if name:
            return "text"
        if follower in "}]":
            return "end"
        if follower in ",，":
            comma = _BLANK.match(text, place + 1)
            return "end" if _AFTER_COMMA.match(text, comma.end() if comma else place + 1) else "text"
        if text.startswith(("//", "/*", "```"), place) or (follower == "#" and place > at):
            return "end"
        return "end" if follower in "\"'{[" and "\n" in text[at:place] else "text"

    def _skip(self, *, commas: bool = False) -> None:
        while True:
            blank = _SPACE.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            if not (commas and (self._take(",") or self._take(";") or self._take("，") or self._take("、"))):
                return

    def _take(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True


_BLANK = re.compile(r"\s*")


def _holds_containers(value: object) -> bool:
    """Whether a cut value is worth keeping for the whole arrays and objects in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(item, (list, dict)) for item in inner)


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def _unescaped(text: str) -> str:
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: _character(found[1]), text)
    return well_formed(text)


def _character(escape: str) -> str:
    if escape[0] in "ux" and len(escape) > 1:
        return chr(int(escape[1:], 16))
    return _ESCAPES.get(escape, escape)


def well_formed(text: str) -> str:
    """The text with pairs of surrogates joined into characters, and lone surrogates replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
