"""The remote encoder against a scripted server: splitting, retries, prompts, refusals."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.models.remote import Limits, RemoteEncoder, RemoteError, ServerInfo, split


def body_size(texts):
    return len(json.dumps({"inputs": texts, "truncate": True, "prompt_name": "query"}, ensure_ascii=False).encode())


@given(
    texts=st.lists(st.text(max_size=40), max_size=60),
    rows=st.integers(1, 10),
    body_bytes=st.integers(600, 1200),
)
def test_every_part_fits_and_nothing_is_lost(texts, rows, body_bytes):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    parts = split(texts, Limits(rows=rows, body_bytes=body_bytes))
    assert [index for part in parts for index in part] == list(range(len(texts)))
    for part in parts:
        assert 1 <= len(part) <= rows
        assert body_size(texts[part.start : part.stop]) <= body_bytes


def test_a_text_that_fits_nowhere_is_named():
    with pytest.raises(RemoteError, match=r"Text 1 has 1,003 bytes; the server takes 1,000"):
        split(["a", "b" * 1000], Limits(rows=32, body_bytes=1000))


@dataclass
class Script:
    """A server in this process. failures: raised one after the other before requests succeed."""

    rows: int = 4
    told_rows: int | None = None
    prompts: dict[str, str] | None = None
    default_prompt: str = ""
    knows_query: bool = True
    failures: list[RemoteError] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def info(self):
        limits = Limits(rows=self.told_rows or self.rows, body_bytes=10_000)
        return ServerInfo(limits=limits, prompts=self.prompts, default_prompt=self.default_prompt)

    def seen(self):
        """The texts that the model gets, with what the server itself puts before them."""
        return [
            (self.default_prompt if (name := body.get("prompt_name")) is None else (self.prompts or {}).get(name, ""))
            + text
            for body in self.bodies
            for text in body["inputs"]
        ]

    def send(self, body):
        value = json.loads(body)
        with self.lock:
            self.bodies.append(value)
            if self.failures:
                raise self.failures.pop(0)
        if len(value["inputs"]) > self.rows:
            message = f"batch size {len(value['inputs'])} > maximum allowed batch size {self.rows}"
            raise RemoteError(message, status=422)
        if "prompt_name" in value and not self.knows_query:
            raise RemoteError("`default-prompt` is set to `query` but no prompts were found", status=422)
        assert all(text for text in value["inputs"])
        return json.dumps([[float(len(text)), 1.0] for text in value["inputs"]]).encode()

    async def asend(self, body):
        await asyncio.sleep(0)
        return self.send(body)


def encoder(script, **arguments):
    slept = []

    async def asleep(seconds):
        slept.append(seconds)

    made = RemoteEncoder(script, sleep=slept.append, asleep=asleep, **arguments)
    made.slept = slept
    return made


def expected(texts):
    rows = np.array([[len(text), 1.0] for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


async def both(made, texts, **arguments):
    """The answer of the blocking and of the asynchronous way, which must agree."""
    one = made.encode(texts, **arguments)
    other = await made.aencode(texts, **arguments)
    np.testing.assert_array_equal(one, other)
    return one


async def test_order_is_kept_over_many_requests():
    texts = ["x" * length for length in range(1, 30)]
    script = Script(rows=4)
    np.testing.assert_allclose(await both(encoder(script), texts), expected(texts), rtol=1e-6)
    assert max(len(body["inputs"]) for body in script.bodies) == 4


async def test_no_texts_no_request():
    script = Script()
    assert (await both(encoder(script), [])).shape == (0, 0)
    assert script.bodies == []


async def test_an_empty_text_does_not_fail_its_batch():
    script = Script()
    assert len(await both(encoder(script), ["a", "", "b"])) == 3
    assert script.bodies[0]["inputs"] == ["a", " ", "b"]


async def test_queries_use_the_servers_own_prompt_and_passages_none():
    script = Script(prompts={"query": "q: "})
    made = encoder(script)
    await both(made, ["a"], is_query=True)
    await both(made, ["a"])
    assert [body.get("prompt_name") for body in script.bodies] == ["query", "query", None, None]


async def test_passages_get_what_the_model_wants_before_them():
    script = Script(prompts={"query": "q: ", "passage": "passage: "})
    await both(encoder(script), ["a", ""])
    assert [body["inputs"] for body in script.bodies] == [["passage: a", "passage: "]] * 2
    told = Script(prompts=None)
    await both(encoder(told, document_instruction="text: "), ["a"])
    await both(encoder(told, document_instruction="text: ", query_instruction=""), ["a"], is_query=True)
    assert [body["inputs"] for body in told.bodies] == [["text: a"], ["text: a"], ["a"], ["a"]]


@pytest.mark.parametrize("default", ["", "query: ", "passage: ", "other: "])
@pytest.mark.parametrize("passage_name", ["document", "passage"])
async def test_nothing_is_put_before_a_text_twice(default, passage_name):
    prompts = {"query": "query: ", passage_name: "passage: "}
    for arguments, query, passage in [
        ({}, "query: a", "passage: a"),
        ({"query_instruction": "", "document_instruction": ""}, "a", "a"),
        ({"query_instruction": "find: ", "document_instruction": "text: "}, "find: a", "text: a"),
        ({"query_instruction": "query: ", "document_instruction": "passage: "}, "query: a", "passage: a"),
    ]:
        script = Script(prompts=prompts, default_prompt=default)
        await both(encoder(script, **arguments), ["a"], is_query=True)
        await both(encoder(script, **arguments), ["a"])
        assert script.seen() == [query, query, passage, passage]


async def test_an_instruction_of_the_users_comes_before_the_servers():
    script = Script(prompts={"query": "q: "})
    await both(encoder(script, query_instruction="find: "), ["a"], is_query=True)
    assert script.bodies[0]["inputs"] == ["find: a"] and "prompt_name" not in script.bodies[0]


async def test_a_server_that_says_it_has_no_prompt_is_not_asked_for_it():
    script = Script(prompts={}, knows_query=False)
    await both(encoder(script), ["a", "b"], is_query=True)
    assert all("prompt_name" not in body for body in script.bodies)


async def test_a_silent_server_without_prompts_is_found_out_once():
    script = Script(prompts=None, knows_query=False)
    made = encoder(script)
    assert len(await both(made, ["a", "b"], is_query=True)) == 2
    assert [body.get("prompt_name") for body in script.bodies] == ["query", None, None]


async def test_a_limit_that_the_server_did_not_tell_is_learnt_from_its_refusal():
    script = Script(rows=3, told_rows=32)
    made = encoder(script)
    texts = ["x" * length for length in range(1, 11)]
    np.testing.assert_allclose(await both(made, texts), expected(texts), rtol=1e-6)
    assert sum(len(body["inputs"]) > 3 for body in script.bodies) == 1


@pytest.mark.parametrize("status", [None, 429, 500, 502, 503, 504])
async def test_overload_and_lost_connections_are_tried_again(status):
    for asynchronous in (False, True):
        script = Script(failures=[RemoteError("busy", status=status)] * 3)
        made = encoder(script)
        vectors = await made.aencode(["a"]) if asynchronous else made.encode(["a"])
        assert len(vectors) == 1 and len(made.slept) == 3 and max(made.slept) <= 8.0


@pytest.mark.parametrize("status", [400, 401, 413, 422, 424])
async def test_refusals_are_not_tried_again(status):
    script = Script(failures=[RemoteError("no", status=status)])
    made = encoder(script)
    with pytest.raises(RemoteError, match="no"):
        made.encode(["a"])
    assert made.slept == []
    script.failures.append(RemoteError("no", status=status))
    with pytest.raises(RemoteError, match="no"):
        await made.aencode(["a"])


async def test_tries_end():
    script = Script(failures=[RemoteError("busy", status=503)] * 100)
    with pytest.raises(RemoteError, match="busy"):
        encoder(script).encode(["a"])
    with pytest.raises(RemoteError, match="busy"):
        await encoder(script).aencode(["a"])
    assert len(script.bodies) == 12


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>", "no list of vectors"),
        (b"[[1.0, 2.0], [1.0, 2.0]]", r"\(2, 2\) numbers for 1 texts"),
        (b"[1.0]", r"\(1,\) numbers for 1 texts"),
        (b"[[NaN, 1.0]]", "not numbers"),
        (b"[[null, 1.0]]", "not numbers"),
    ],
)
def test_replies_that_are_no_vectors(reply, message):
    script = Script()
    script.send = lambda body: reply
    with pytest.raises(RemoteError, match=message):
        encoder(script).encode(["a"])


def test_rows_are_unit_vectors():
    script = Script()
    script.send = lambda body: b"[[3.0, 4.0]]"
    np.testing.assert_allclose(encoder(script).encode(["a"]), [[0.6, 0.8]], rtol=1e-6)
