"""Replies as models write them: what is a query in them, and that nothing else ever is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.llm.protocol import Failure, Reply
from embedfit.queries.ask import texts_of
from embedfit.queries.parse import Parsed, clean, queries_of
from embedfit.queries.prompts import STYLES as STYLES_ASKED

STYLES = ("question", "keywords", "claim")
QUERIES = {
    "question": "How do I mute the TV?",
    "keywords": "mute button remote",
    "claim": "the sound can be switched off",
}
EXPECTED = [Parsed(text, style) for style, text in QUERIES.items()]
ROWS = [{"style": style, "query": text} for style, text in QUERIES.items()]
ARRAY = json.dumps(ROWS)
THOUGHTS = (
    "Okay, the user wants three search queries.\n1. The passage is about a television\n"
    '- It names a button\n4. Output format is [{"style": ..., "query": ...}] and nothing else\n'
    'A draft: {"style": "question", "query": "draft of a thought"}\n'
)

WHOLE = {
    "plain": ARRAY,
    "indented": json.dumps(ROWS, indent=2),
    "fence with language": f"```json\n{ARRAY}\n```",
    "fence without language": f"```\n{ARRAY}\n```",
    "fence with preamble and postamble": f"Sure! Here you go:\n```json\n{ARRAY}\n```\nLet me know if you need more.",
    "fence that is not closed": f"```json\n{ARRAY}",
    "preamble": f"Here are the queries:\n{ARRAY}",
    "citation": f"Queries for the passage [see above] and [1]:\n\n{ARRAY}",
    "quoted citation": f"As said in ['Manual' p. 3]:\n\n{ARRAY}",
    "object around": json.dumps({"queries": ROWS}),
    "nested objects": json.dumps({"result": {"status": "ok", "queries": ROWS}}),
    "object of styles": json.dumps(QUERIES),
    "object of styles in an object": json.dumps({"queries": QUERIES}),
    "array of objects of one style": json.dumps([{style: text} for style, text in QUERIES.items()]),
    "pairs": json.dumps([[style, text] for style, text in QUERIES.items()]),
    "other names": json.dumps([{"Type": row["style"].title(), "Text": row["query"]} for row in ROWS]),
    "reasons beside": json.dumps([{"reasoning": "a thought", **row, "explanation": "a thought"} for row in ROWS]),
    "thoughts in a member": json.dumps({"thoughts": ["a thought", "another"], "queries": ROWS}),
    "JSON lines": "\n".join(json.dumps(row) for row in ROWS),
    "numbered JSON lines": "\n".join(f"{n}. {json.dumps(row)}" for n, row in enumerate(ROWS, 1)),
    "fence for each": "\n".join(f"**{row['style']}**\n```json\n{json.dumps(row)}\n```" for row in ROWS),
    "trailing comma": ARRAY[:-1] + ",]",
    "missing commas": ARRAY.replace("}, {", "}\n{"),
    "Python": str(ROWS),
    "smart quotes": "".join("“”"[i % 2] + part if i else part for i, part in enumerate(ARRAY.split('"'))),
    "one kind of smart quote": ARRAY.replace('"', "”"),
    "bare names": ARRAY.replace('"style"', "style").replace('"query"', "query"),
    "comments": ARRAY.replace("[{", "[ // three\n{").replace("}, {", "}, # next\n/* and */ {"),
    "HTML-escaped": ARRAY.replace('"', "&quot;"),
    "HTML-escaped thoughts": f"&lt;think&gt;{THOUGHTS}&lt;/think&gt;" + ARRAY.replace('"', "&quot;"),
    "JSON in a string": json.dumps(ARRAY),
    "BOM": "\ufeff" + ARRAY,
    "ellipsis": ARRAY[:-1] + ", ...]",
    "numbered list": "\n".join(f"{n}. {style.title()}: {text}" for n, (style, text) in enumerate(QUERIES.items(), 1)),
    "bold labels": "\n".join(f"- **{style.title()}:** {text}" for style, text in QUERIES.items()),
    "bold labels, colon outside": "\n".join(f"* **{style}**: \"{text}\"" for style, text in QUERIES.items()),
    "headings": "\n\n".join(f"### {style.title()}\n{text}" for style, text in QUERIES.items()),
    "YAML": "\n".join(f"- style: {style}\n  query: {text}" for style, text in QUERIES.items()),
    "table": "| Style | Query |\n|---|---|\n" + "\n".join(f"| {s} | {t} |" for s, t in QUERIES.items()),
    "table of styles": f"| {' | '.join(QUERIES)} |\n|:--|:--|:--|\n| {' | '.join(QUERIES.values())} |",
    "tags": "\n".join(f"<{style}>{text}</{style}>" for style, text in QUERIES.items()),
    "tags with attributes": "".join(f'<query style="{style}">{text}</query>' for style, text in QUERIES.items()),
    "think": f"<think>\n{THOUGHTS}</think>\n\n{ARRAY}",
    "thinking": f"<thinking>{THOUGHTS}</thinking>{ARRAY}",
    "reasoning": f"<reasoning>{THOUGHTS}</reasoning>```json\n{ARRAY}\n```",
    "no opening tag": f"{THOUGHTS}</think>\n\n{ARRAY}",
    "Mistral": f"[THINK]{THOUGHTS}[/THINK]{ARRAY}",
    "Kimi": f"◁think▷{THOUGHTS}◁/think▷{ARRAY}",
    "Cohere": f"<|START_THINKING|>{THOUGHTS}<|END_THINKING|><|START_RESPONSE|>{ARRAY}<|END_RESPONSE|>",
    "gpt-oss": f"<|channel|>analysis<|message|>{THOUGHTS}<|end|><|start|>assistant<|channel|>final<|message|>{ARRAY}"
    "<|return|>",
    "gpt-oss without its special tokens": f"analysisWe need queries. {THOUGHTS}assistantfinal{ARRAY}",
    "answer tags": f"<think>{THOUGHTS}</think><answer>{ARRAY}</answer>",
    "thoughts without tags": f"Thinking: {THOUGHTS}\n{ARRAY}",
    "thoughts announced": f"Here is my thought process:\n{THOUGHTS}\n\n{ARRAY}",
    "a draft first": f'Let me draft: {json.dumps([{**row, "query": "draft"} for row in ROWS])}\nFinal:\n{ARRAY}',
    "special token behind": ARRAY + "<|im_end|>",
    "names of styles first": f'Styles: {json.dumps(list(STYLES))}\n{ARRAY}',
    "thoughts behind": f"{ARRAY}\n<think>check: {json.dumps([{**row, 'query': 'wrong'} for row in ROWS])}</think>",
    "names in camel case": json.dumps([{"queryStyle": row["style"], "queryText": row["query"]} for row in ROWS]),
    "names with underscores": json.dumps([{"query_type": row["style"], "query_text": row["query"]} for row in ROWS]),
    "styles with their descriptions": json.dumps(
        [{"style": f"{n}. {row['style']} (short)", "query": row["query"]} for n, row in enumerate(ROWS, 1)]),
    "labels in strings": json.dumps([f"{style}: {text}" for style, text in QUERIES.items()]),
    "bracketed labels in strings": json.dumps([f"[{style}] {text}" for style, text in QUERIES.items()]),
    "objects in strings": json.dumps([json.dumps(row) for row in ROWS]),
    "escaped twice": ARRAY.replace('"', '\\"'),
    "an array for each": "\n".join(json.dumps([row]) for row in ROWS),
    "full width punctuation": ARRAY.replace(", ", "，").replace(": ", "："),
    "labels of numbered queries": "\n".join(f"Query {n} ({s}): {t}" for n, (s, t) in enumerate(QUERIES.items(), 1)),
    "headings of numbered queries": "\n".join(f"## Query {n}: {s}\n{t}" for n, (s, t) in enumerate(QUERIES.items(), 1)),
    "labels of two words": "\n".join(f"{style.title()} query: {text}" for style, text in QUERIES.items()),
    "labels in brackets": "\n".join(f"[{style.upper()}] {text}" for style, text in QUERIES.items()),
    "labels in brackets in a list": "\n".join(f"{n}. ({s}) {t}" for n, (s, t) in enumerate(QUERIES.items(), 1)),
    "labels in brackets behind": "\n".join(f"{n}. {t} ({s})" for n, (s, t) in enumerate(QUERIES.items(), 1)),
    "arrows": "\n".join(f"{style} -> {text}" for style, text in QUERIES.items()),
    "dashes": "\n".join(f"**{style}** — {text}" for style, text in QUERIES.items()),
    "quoted lines": "\n".join(f"> {style}: {text}" for style, text in QUERIES.items()),
    "reasons below": "\n".join(f"{n}. **{s}**: {t}\n   - *Rationale*: a thought" for n, (s, t) in
                               enumerate(QUERIES.items(), 1)),
    "styles below": "\n".join(f"- query: {text}\n  style: {style}" for style, text in QUERIES.items()),
    "CSV": "style,query\n" + "\n".join(f'{style},"{text}"' for style, text in QUERIES.items()),
    "CSV without a heading": "\n".join(f'"{style}","{text}"' for style, text in QUERIES.items()),
    "TSV": "style\tquery\n" + "\n".join(f"{style}\t{text}" for style, text in QUERIES.items()),
    "table of examples": "| Style | Example |\n|---|---|\n" + "\n".join(f"| {s} | {t} |" for s, t in QUERIES.items()),
    "table behind a preamble": "Here are the queries:\n\n| **Style** | **Search Query** |\n|:--|:--|\n"
    + "\n".join(f"| **{s}** | {t} |" for s, t in QUERIES.items()) + "\n\nLet me know!",
    "XML": "<queries>\n" + "\n".join(f"<query><style>{style}</style><text>{text}</text></query>"
                                     for style, text in QUERIES.items()) + "\n</queries>",
}  # fmt: skip
IN_ORDER = {
    "numbered names": json.dumps({str(n): text for n, text in enumerate(QUERIES.values(), 1)}),
    "numbered tags": "\n".join(f"<query{n}>{text}</query{n}>" for n, text in enumerate(QUERIES.values(), 1)),
    "lines": "\n".join(QUERIES.values()),
    "lines behind a preamble": "Here are the queries:\n" + "\n".join(QUERIES.values()),
    "letters": "\n".join(f"{'abc'[n]}) {text}" for n, text in enumerate(QUERIES.values())),
    "numbered Q": "\n".join(f"Q{n}: {text}" for n, text in enumerate(QUERIES.values(), 1)),
    "signs": "\n".join(f"{'①②③'[n]} {text}" for n, text in enumerate(QUERIES.values())),
    "full width numbers": "\n".join(f"{'１２３'[n]}、{text}" for n, text in enumerate(QUERIES.values())),
    "thoughts without tags, then a list": "Let's think step by step.\n- The passage is about sound\n- Users ask how\n\n"
    "Final queries:\n" + "\n".join(f"{n}. {text}" for n, text in enumerate(QUERIES.values(), 1)),
    "a recapitulation first": "It covers:\n- muting the TV\n- the remote\n\nQueries:\n"
    + "\n".join(f"{n}. {text}" for n, text in enumerate(QUERIES.values(), 1)),
    "reasons set in": "\n".join(f"{n}. {text}\n   - people search so" for n, text in enumerate(QUERIES.values(), 1)),
    "I have written": "I have written three queries:\n" + "\n".join(f"- {text}" for text in QUERIES.values()),
}  # fmt: skip


@pytest.mark.parametrize("kind", IN_ORDER)
def test_replies_that_name_no_style_give_their_queries_in_order(kind: str) -> None:
    assert queries_of(IN_ORDER[kind], STYLES) == [Parsed(text) for text in QUERIES.values()]


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        (
            "Frage: Wie geht der Ton aus?\nStichwörter: Ton aus\nAussage: er ist aus",
            "Wie geht der Ton aus?|Ton aus|er ist aus",
        ),
        ("问题：怎样静音？\n关键词：静音 遥控器\n陈述：可以静音", "怎样静音？|静音 遥控器|可以静音"),
        ('{"問題": "怎樣靜音？", "關鍵詞": "靜音", "事实": "可以"}', "怎樣靜音？|靜音|可以"),
        ('[{"stil": "Frage", "abfrage": "Ton aus?"}, {"stil": "Aussage", "abfrage": "aus"}]', "Ton aus?|aus"),
        ("1. **質問**: 消音は？\n2. **キーワード**: 消音 ボタン", "消音は？|消音 ボタン"),
    ],
)
def test_replies_whose_labels_are_in_another_language(reply: str, texts: str) -> None:
    found = queries_of(reply, STYLES)
    assert [item.text for item in found] == texts.split("|") and all(item.style for item in found)


@pytest.mark.parametrize("kind", WHOLE)
def test_replies_that_hold_every_query(kind: str) -> None:
    assert queries_of(WHOLE[kind], STYLES) == EXPECTED


NOTHING = {
    "empty": "",
    "blank": "\n \n",
    "preamble": "Sure, here are the queries:",
    "apology": "I'm sorry, but I can't help with that.",
    "refusal": "I cannot write queries about this passage.",
    "as an AI": "As an AI language model, I have no opinion.",
    "cut thoughts": f"<think>\n{THOUGHTS}",
    "cut thoughts with an answer in them": f"<think>\n{THOUGHTS}{ARRAY}",
    "thoughts alone": f"<think>{THOUGHTS}{ARRAY}</think>",
    "gpt-oss, cut": f"<|channel|>analysis<|message|>{THOUGHTS}",
    "gpt-oss without tokens, cut": f"analysisWe need to write queries. {THOUGHTS.split('A draft')[0]}",
    "Kimi, cut": f"◁think▷{THOUGHTS}",
    "Mistral, cut": f"[THINK]{THOUGHTS}",
    "untagged, cut": "Okay, the user wants three search queries.\n1. The passage is about a television\n- It na",
    "untagged, announced": "Thinking Process:\n\n1. The passage is about a television\n2. It names a button",
    "empty values": '[{"style": "question", "query": ""}, {"style": "claim", "query": "..."}]',
    "the form alone": 'Answer with [{"style": "...", "query": "..."}].',
    "other JSON": '{"error": "the passage is empty", "passage": ["some words of it"]}',
    "citation alone": "[see above]",
    "names of styles": '["question", "keywords"]',
    "prose": "The passage describes a television.\nIt has a button.\nThe sound can be muted.",
    "the styles' descriptions": "\n".join(f"- {name}: {STYLES_ASKED[name].description}" for name in STYLES),
    "placeholders": '[{"style": "question", "query": "N/A"}, {"style": "claim", "query": "string"}]',
    "headings of thoughts": "**Crafting Search Queries**\n\n- The TV has a button\n- It is red\n- It mutes",
    "thoughts of a step": "1. **Analyze the Request:**\n   - Role: search\n2. **Draft:**\n   - mute tv\n3. done",
    "two words before thoughts": "Alright, so I need to write queries.\n- The TV can be muted\n- Remote\n- Sound",
    "points of the passage": "Key facts:\n- The TV can be muted\n- Remote\n- Sound",
    "Chinese thoughts": "好的，我需要根据给定的段落生成三个查询。\n1. 电视静音\n2. 按钮\n3. 声音",
    "Japanese thoughts": "ユーザーは三つの検索クエリを求めています。\n- 消音\n- ボタン\n- 音",
    "Korean thoughts": "사용자가 세 가지 검색 쿼리를 요청했습니다.\n- 음소거\n- 버튼\n- 소리",
    "French thoughts": "L'utilisateur veut trois requêtes.\n- couper le son\n- bouton\n- son",
    "Spanish thoughts": "Bien, el usuario quiere tres consultas.\n- silenciar\n- boton\n- sonido",
    "German thoughts": "Okay, der Nutzer möchte drei Suchanfragen.\n- Ton aus\n- Taste\n- Ton",
    "Russian thoughts": "Пользователь хочет три запроса.\n- звук\n- кнопка\n- шум",
    "other tags of thoughts": "<internal_thoughts>\n- mute tv\n- remote\n- sound\n</internal_thoughts>",
    "Apertus, cut": "<|inner_prefix|>- mute tv\n- remote\n- sound",
    "German apology": "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Chinese apology": "抱歉，我无法协助完成此请求。",
    "a question back": "Please provide the passage you would like me to write queries for.",
    "a web page": "<html><head><title>502 Bad Gateway</title></head></html>",
}


@pytest.mark.parametrize("styles", [STYLES, ("question",)])
@pytest.mark.parametrize("kind", NOTHING)
def test_replies_that_hold_no_query(kind: str, styles: tuple[str, ...]) -> None:
    assert queries_of(NOTHING[kind], styles) == []


@pytest.mark.parametrize("dropped", range(1, len(ARRAY) - 1, 3))
def test_of_a_cut_array_the_whole_items_are_kept(dropped: int) -> None:
    text = ARRAY[:-dropped]
    whole = text.count("}")
    for reply in (text, f"```json\n{text}", f"<think>{THOUGHTS}</think>{text}"):
        assert queries_of(reply, STYLES, cut=True) == EXPECTED[:whole]
    wrapped = json.dumps({"queries": ROWS})[: -dropped - 1]
    assert queries_of(wrapped, STYLES, cut=True) == EXPECTED[:whole]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("How do I mute it?", "How do I mute it?"),
        ('"mute tv"', "mute tv"),
        ("Question: how to mute", "how to mute"),
        ("**Keywords:** mute tv", "mute tv"),
        ("1. mute the tv", "mute the tv"),
        ("Sure, here is a query:\nmute tv", "mute tv"),
        ("Here are the steps to mute", "Here are the steps to mute"),
        ("mute tv\n\nThis query names the device.", "mute tv"),
        ("I need to return a jacket", "I need to return a jacket"),
        ("I can't connect the phone to the router", "I can't connect the phone to the router"),
        ("I need to write a query that joins two tables", "I need to write a query that joins two tables"),
        ("title-based search", "title-based search"),
        ("Q3 - revenue of the segment", "Q3 - revenue of the segment"),
        ("I'm unable to log in from my phone", "I'm unable to log in from my phone"),
        ("Error: cannot open shared object file", "Error: cannot open shared object file"),
        ("用户如何查询订单", "用户如何查询订单"),
        ("analysis", "analysis"),
        ('"red" or "blue"', '"red" or "blue"'),
        ("<think>\nhm\n</think>\nmute tv", "mute tv"),
        ("okay so this is a thought\nmute it\n</think>\nmute tv", "mute tv"),
        ('```json\n[{"style": "conversational", "query": "mute tv"}]\n```', "mute tv"),
        ('```json\n{"query": "mute tv"}\n```', "mute tv"),
        ('{"queries": [{"style": "Need", "query": "mute tv"}]}', "mute tv"),
        ('{"queries": ["mute tv"]}', "mute tv"),
        ('{"conversational": "mute tv"}', "mute tv"),
        ('["mute tv"]', "mute tv"),
        ('[{"style": "question", "query": "other"}, {"style": "conversational", "query": "mute tv"}]', "mute tv"),
        ('[{"query": "what does \\"error\\": null mean"}]', 'what does "error": null mean'),
        ('[{"query": "what does the <think> tag do"}]', "what does the <think> tag do"),
        ('[{"query": "how do I open the "Settings" menu"}]', 'how do I open the "Settings" menu'),
        ("[{'query': 'don't mute the users' tv'}]", "don't mute the users' tv"),
        ('[{"query": "caf\\u00e9 \\ud83d\\ude00 \\ud83d"}]', "café 😀 \ufffd"),
        ('[{"query": "never closed},\n {"query": "mute tv"}]', "mute tv"),
    ],
)
def test_replies_with_a_single_query(reply: str, text: str) -> None:
    answer = Reply(text=reply, input_tokens=1, output_tokens=1)
    assert texts_of(answer, ["conversational"]) == [(text, "")]


# --- generated queries in generated dress

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=40)
QUERY = st.builds("q{} {}".format, st.integers(0, 99), WORDS).map(clean).filter(lambda text: "&" not in text)
THOUGHT = st.lists(
    st.sampled_from(
        ["zzz thinks", "- zzz item", "2. zzz step", '{"query": "zzz object"}', '["zzz array"]', "Question: zzz?", "{",
         "[",
         '[{"style": "question", "query": "zzz', "```", '"', "zzz's"]
    ),
    max_size=8,
).map("\n".join)  # fmt: skip
THINK = {
    "none": "{answer}",
    "tags": "<think>{thought}</think>{answer}",
    "end alone": "{thought}\n</think>\n\n{answer}",
    "brackets": "[THINK]{thought}[/THINK]{answer}",
    "kimi": "◁think▷{thought}◁/think▷\n{answer}",
    "channel": "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{answer}",
}
FENCE = {
    "none": "{body}",
    "language": "```json\n{body}\n```",
    "bare": "```\n{body}\n```",
    "around": "Here you go [1]:\n\n```\n{body}\n```\nHope this helps!",
}
SHAPE = {
    "array": lambda rows: json.dumps(rows),
    "unicode": lambda rows: json.dumps(rows, ensure_ascii=False, indent=1),
    "wrapped": lambda rows: json.dumps({"queries": rows}),
    "styles": lambda rows: json.dumps({row["style"]: row["query"] for row in rows}),
    "lines": lambda rows: "\n".join(json.dumps(row) for row in rows),
    "trailing": lambda rows: json.dumps(rows)[:-1] + ",\n]",
    "bare names": lambda rows: "[" + ",".join("{" + ", ".join(f"{k}: {json.dumps(v)}" for k, v in r.items()) + "}"
                                              for r in rows) + "]",
}  # fmt: skip


@settings(max_examples=300)
@given(
    queries=st.lists(QUERY, min_size=3, max_size=3, unique=True),
    thought=THOUGHT,
    think=st.sampled_from(sorted(THINK)),
    fence=st.sampled_from(sorted(FENCE)),
    shape=st.sampled_from(sorted(SHAPE)),
)
def test_replies_of_generated_queries_come_back_exactly_in_every_dress(
    queries: list[str], thought: str, think: str, fence: str, shape: str
) -> None:
    rows = [{"style": style, "query": text} for style, text in zip(STYLES, queries, strict=True)]
    body = SHAPE[shape](rows)
    reply = THINK[think].replace("{thought}", thought).replace("{answer}", FENCE[fence].replace("{body}", body))
    assert {item.style: item.text for item in queries_of(reply, STYLES)} == dict(zip(STYLES, queries, strict=True))


@settings(max_examples=300)
@given(
    queries=st.lists(QUERY, min_size=3, max_size=3, unique=True),
    thought=THOUGHT,
    think=st.sampled_from(sorted(set(THINK) - {"none"})),
    shape=st.sampled_from(sorted(SHAPE)),
    share=st.floats(0, 1),
    styles=st.sampled_from([STYLES, STYLES[:1]]),
)
def test_replies_that_are_cut_anywhere_never_give_a_thought_or_half_a_query(
    queries: list[str], thought: str, think: str, shape: str, share: float, styles: tuple[str, ...]
) -> None:
    rows = [{"style": style, "query": text} for style, text in zip(STYLES, queries, strict=True)]
    reply = THINK[think].replace("{thought}", thought).replace("{answer}", SHAPE[shape](rows))
    cut = reply[: int(share * len(reply))]
    if think == "end alone" and "</think>" not in cut:
        return  # nothing says that these are thoughts
    assert {item.text for item in queries_of(cut, styles, cut=True)} <= set(queries)


# --- anything at all

PIECES = st.lists(
    st.one_of(
        st.sampled_from([*"[]{}\"',:\\`<>|*&#/-\n ", "<think>", "</think>", "```json", '"query":', "&quot;", "\ud83d"]),
        st.text(max_size=5),
    ),
    max_size=60,
).map("".join)


@settings(max_examples=500)
@given(reply=PIECES, styles=st.sampled_from([STYLES, STYLES[:1]]), cut=st.booleans())
def test_replies_of_any_text_never_raise(reply: str, styles: tuple[str, ...], cut: bool) -> None:
    for item in queries_of(reply, styles, cut=cut):
        assert item.text == " ".join(item.text.split()) and any(character.isalnum() for character in item.text)
        item.text.encode()


@given(at=st.integers(0, len(ARRAY)), length=st.integers(0, 5), put=st.text(max_size=5))
def test_replies_of_mutated_json_never_raise(at: int, length: int, put: str) -> None:
    queries_of(ARRAY[:at] + put + ARRAY[at + length :], STYLES)


LARGE = """
import resource, sys
size, seconds = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
from embedfit.judging.prompt import parse_scores
from embedfit.queries.parse import queries_of
kinds = ["[", "{", '["', "['\\n", '[{"a":', '"', "<think>", "</think>", "<query>a", '{"x" :', 'a",x', "- query: ",
         "[&quot;", "|a", "[/*", '{"a":"b" :', "\\\\", "```\\n", "1. ", "a ", "\\n", "'", "score: ",
         '{"query": "a"},', "{a: '", "“"]
for kind in kinds:
    text = kind * (size // len(kind))
    queries_of('["' + text, ("question",), cut=True)
    queries_of(text, ("question", "claim"))
    parse_scores("```" + text + "x", 3)
print("read")
"""


@pytest.mark.parametrize(("size", "seconds"), [(50_000, 60), pytest.param(1_000_000, 300, marks=pytest.mark.slow)])
def test_replies_of_any_size_are_read_in_linear_time(size: int, seconds: int) -> None:
    command = [sys.executable, "-c", LARGE, str(size), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "read\n", done.stderr[-500:]


# --- what becomes of a reply


def reply(text: str, finish: str = "stop") -> Reply:
    return Reply(text=text, input_tokens=1, output_tokens=1, finish=finish)


def test_replies_are_matched_by_style_then_by_place() -> None:
    named = reply('[{"style": "title", "query": "b"}, {"style": "claim", "query": "a"}]')
    assert texts_of(named, ["claim", "title", "question"]) == [
        ("a", ""), ("b", ""), ("", "reply rejected: this style is missing"),
    ]  # fmt: skip
    assert texts_of(reply('["a", "b"]'), ["claim", "title"]) == [("a", ""), ("b", "")]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply("x", "refusal"), "the model refused"),
        (reply(""), "it was empty"),
        (reply("", "length"), "its thoughts took the whole limit of tokens"),
        (reply("<think>hm", "length"), "its thoughts took the whole limit of tokens"),
        (reply("Okay, the user wants search queries", "length"), "its thoughts took the whole limit of tokens"),
        (reply("[{", "length"), "it was cut off by the limit of tokens"),
        (reply("<think>hm"), "it holds nothing but thoughts"),
        (reply("It is about a TV.\nIt has a button."), "it is not in the form that was asked for"),
    ],
)
def test_replies_without_a_query_have_a_reason(answer: Reply, reason: str) -> None:
    assert texts_of(answer, ["claim", "title"]) == [("", f"reply rejected: {reason}")] * 2


def test_a_failed_call_is_a_reason_and_so_is_a_line_that_is_cut() -> None:
    assert texts_of(Failure(error="429", retryable=True), ["a", "b"]) == [("", "call failed: 429")] * 2
    assert texts_of(reply("a query that has no", "length"), ["a"]) == [
        ("", "reply rejected: cut off, longer than any query")
    ]
