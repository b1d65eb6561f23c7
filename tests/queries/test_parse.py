"""Replies as models write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.llm.client import Failure, Reply
from embedfit.queries.ask import texts_of
from embedfit.queries.parse import Parsed, parse_many, parse_one


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("How do I mute it?", Parsed("How do I mute it?")),
        ("  \n\n  mute tv  \nmore", Parsed("mute tv")),
        ('"mute tv"', Parsed("mute tv")),
        ("Question: how to mute", Parsed("how to mute", "question")),
        ("**Keywords:** mute tv", Parsed("mute tv", "keywords")),
        ("1. mute the tv", Parsed("mute the tv")),
        ("Sure, here is a query:\nmute tv", Parsed("mute tv")),
        ("Here are the steps to mute", Parsed("Here are the steps to mute")),
    ],
)
def test_a_single_query(reply: str, expected: Parsed) -> None:
    assert parse_one(reply) == expected


@pytest.mark.parametrize("reply", ["", "\n \n", "Sure:", '""'])
def test_no_query_is_none(reply: str) -> None:
    assert parse_one(reply) is None


def test_a_json_array_with_prose_around_it() -> None:
    reply = (
        'Here you go:\n```json\n[{"style": "claim", "query": "tv can be muted"}, {"query": "mute"}, 3, "plain"]\n```'
    )
    assert parse_many(reply) == [Parsed("tv can be muted", "claim"), Parsed("mute"), Parsed("plain")]


def test_broken_json_falls_back_on_lines() -> None:
    reply = '[{"style": "claim", "query": "cut off\nquestion: how to mute\n- mute tv\nSome prose.'
    assert parse_many(reply) == [Parsed("how to mute", "question"), Parsed("mute tv")]


@given(st.text())
def test_no_reply_breaks_the_parsers(reply: str) -> None:
    parse_one(reply)
    assert all(item.text for item in parse_many(reply))


def reply(text: str, finish: str = "stop") -> Reply:
    return Reply(text=text, input_tokens=1, output_tokens=1, finish=finish)


def test_styles_are_matched_by_name_then_by_place() -> None:
    named = reply('[{"style": "title", "query": "b"}, {"style": "claim", "query": "a"}]')
    assert texts_of(named, ["claim", "title", "question"]) == [
        ("a", ""), ("b", ""), ("", "reply rejected: this style is missing"),
    ]  # fmt: skip
    assert texts_of(reply('["a", "b"]'), ["claim", "title"]) == [("a", ""), ("b", "")]
    assert texts_of(reply("nothing"), ["claim", "title"]) == [("", "reply rejected: no query in it")] * 2


def test_failures_and_refusals_are_reasons() -> None:
    assert texts_of(Failure(error="429", retryable=True), ["a", "b"]) == [("", "call failed: 429")] * 2
    assert texts_of(reply("x", "refusal"), ["a"]) == [("", "reply rejected: the model refused")]
